"""Long work: checkpoints, saved state, interrupts, fingerprints."""
