"""Higher order and sampling decide where second order is silent."""
