"""Vectors and bases as flat float64 arrays on the host, and back."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays.layout import Basis, Layout, Vector


def flatten_rows(basis: Basis) -> np.ndarray:
    """Write a basis of k rows as a float64 array of shape (k, n)."""
    rows = len(basis[0])
    return np.concatenate([np.asarray(b, np.float64).reshape(rows, -1) for b in basis], axis=1)


def unflatten_rows(layout: Layout, flat: Any) -> Basis:
    """Undo `flatten_rows`."""
    out, start = [], 0
    for shape, dtype in zip(layout.shapes, layout.work_dtypes, strict=True):
        width = int(np.prod(shape))
        out.append(jnp.asarray(flat[:, start : start + width]).astype(dtype).reshape(len(flat), *shape))
        start += width
    return tuple(out)


def flatten(vector: Vector) -> np.ndarray:
    """Write a vector as a float64 array of shape (n,)."""
    return flatten_rows(tuple(leaf[None] for leaf in vector))[0]


def unflatten(layout: Layout, flat: Any) -> Vector:
    """Undo `flatten`."""
    return tuple(leaf.reshape(leaf.shape[1:]) for leaf in unflatten_rows(layout, flat[None]))
