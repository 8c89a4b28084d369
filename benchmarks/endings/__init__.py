"""Points where real trainings end, with what is left to gain there, found by going on for very long."""
