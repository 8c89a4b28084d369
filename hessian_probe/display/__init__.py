"""Results as text, as a page, as a figure and as JSON; computes nothing."""
