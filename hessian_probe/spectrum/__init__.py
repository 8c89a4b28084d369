"""A symmetric map becomes eigenvalues with errors: one Lanczos step, and a driver on the host."""
