"""Floating-point types of vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """Widen a floating dtype to float32 where it is narrower; under any promotion mode."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def widest(dtypes: Iterable[Any]) -> Any:
    """Widest of some floating dtypes."""
    return max(map(jnp.dtype, dtypes), key=lambda d: int(jnp.finfo(d).bits))
