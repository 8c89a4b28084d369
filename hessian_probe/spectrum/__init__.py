"""A symmetric map becomes eigenvalues with errors: one Lanczos step, a host driver and a traced driver."""
