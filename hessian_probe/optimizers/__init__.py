"""Reading and copying optimiser states, stability limits, proposed rates, trial runs on training samples."""
