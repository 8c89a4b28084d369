"""Curvature by finite steps, where the second derivative is blind: kinks."""
