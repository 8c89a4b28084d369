"""Random vectors, drawn on the host."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from hessian_probe.arrays.layout import Layout
from hessian_probe.arrays.types import Vector


def generator(key: Any = None) -> np.random.Generator:
    """Return NumPy's generator for a JAX key, typed or raw; None means the key of seed 0.

    Vectors are drawn on the host: a draw costs no compilation, and is the same on every device.

    Raises:
        TypeError: `key` is not a JAX random key.
    """
    if key is None:
        return np.random.default_rng([0, 0])
    if isinstance(key, np.random.Generator):
        return key
    try:
        data = np.asarray(jax.random.key_data(key))
    except TypeError:
        raise TypeError(
            f"key must be a JAX random key, e.g. jax.random.key(0); got {type(key).__name__}"
        ) from None
    return np.random.default_rng(data.ravel().tolist())


def random_normal(rng: np.random.Generator, layout: Layout, active: tuple[bool, ...] | None = None) -> Vector:
    """Draw a standard normal vector; leaves that are not `active` are zero."""
    active = active or (True,) * len(layout.shapes)
    rows = zip(layout.shapes, layout.work_dtypes, active, strict=True)
    return tuple(
        # Cast on the host, and put: what `jnp.asarray` does is a program for each shape.
        jax.device_put((rng.standard_normal(shape) if on else np.zeros(shape)).astype(dtype))
        for shape, dtype, on in rows
    )
