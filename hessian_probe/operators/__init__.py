"""A loss becomes a symmetric linear map on a pytree."""
