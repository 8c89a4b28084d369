"""Saving, interrupting and resuming long work: checkpoints, saved state, fingerprints."""
