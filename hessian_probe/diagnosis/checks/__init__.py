"""One file for each measured test."""
