"""The storage of a growing orthonormal basis: rows are added in place by compiled steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Basis, Vector, accumulator, coefficients, combine, dot, norm, scale

# The basis is stored, and worked on, in segments of growing static size: only the filled part is
# touched, at the price of one small compilation a segment.
SEGMENTS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
# A pass that leaves more than this share of a vector leaves it orthogonal to rounding ("twice is
# enough"; Daniel, Gragg, Kaufman and Stewart, Math. Comp. 30, 1976, give 1/√2); else another follows.
SHRINKAGE = 0.7


@partial(jax.jit, donate_argnums=0)
def extend(
    basis: Basis, w: Vector, newest: Vector, index: jax.Array
) -> tuple[Basis, Vector, jax.Array, jax.Array]:
    """Orthogonalise `w` and write it as row `index`; rows from `index` on are zero before.

    First against the newest vector, then against all of them, and once more if that left less than
    SHRINKAGE of the vector: then what is left is orthogonal to rounding.

    Returns:
        The basis, the new row, the coefficients that were taken away, and the length before scaling.
    """
    dtype = accumulator(w)
    alpha = dot(newest, w)
    w = _minus(w, scale(alpha, newest))
    total = jnp.zeros((basis[0].shape[0],), dtype)
    total = jax.lax.dynamic_update_index_in_dim(total, alpha, jnp.maximum(index - 1, 0), 0)

    def full_pass(state: tuple[Vector, jax.Array]) -> tuple[Vector, jax.Array]:
        vector, coefs = state
        part = coefficients(basis, vector)
        return _minus(vector, combine(basis, part)), coefs + part

    before = norm(w)
    w, total = full_pass((w, total))
    again = norm(w) < SHRINKAGE * before
    w, total = jax.lax.cond(again, full_pass, lambda state: state, (w, total))
    length = norm(w)
    one = jnp.ones((), length.dtype)
    w = scale(one / jnp.where((length > 0) & jnp.isfinite(length), length, one), w)
    basis = tuple(
        jax.lax.dynamic_update_index_in_dim(b, v.astype(b.dtype), index, 0)
        for b, v in zip(basis, w, strict=True)
    )
    return basis, w, total, length


def _minus(a: Vector, b: Vector) -> Vector:
    return tuple(x - y for x, y in zip(a, b, strict=True))


@partial(jax.jit, static_argnames="rows")
def resized(basis: Basis, rows: int) -> Basis:
    """Pad the basis with zero rows up to `rows`."""
    return tuple(jnp.pad(b, [(0, rows - b.shape[0])] + [(0, 0)] * (b.ndim - 1)) for b in basis)


@partial(jax.jit, donate_argnums=0)
def cleared(basis: Basis, index: Any) -> Basis:
    """Set one row to zero."""
    return tuple(b.at[index].set(jnp.zeros((), b.dtype)) for b in basis)


def zeros(vector: Vector) -> Vector:
    """Return the zero vector of the same shapes."""
    return tuple(jnp.zeros_like(leaf) for leaf in vector)


def segment(rows: int) -> int:
    """Size of the storage that holds this many rows."""
    return next((size for size in SEGMENTS if size >= rows), rows)
