"""Why is training stuck: measured tests, ranked by evidence."""
