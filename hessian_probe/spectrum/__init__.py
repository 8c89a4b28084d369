"""A linear map becomes eigenvalues with errors."""
