"""Eigenvalues and a gradient become a verdict."""
