"""The Lanczos step: a product is made orthogonal to an orthonormal basis, and becomes its next vector.

`orthogonalise` and `breakdown_length` are the step: pure functions of arrays.  `extend` is the step compiled,
on a basis whose rows are overwritten in place; `krylov.Krylov` takes it until an answer is sure.

Source: C. Lanczos, J. Res. Natl. Bur. Stand. 45, 1950; full re-orthogonalisation: B. N. Parlett, The
Symmetric Eigenvalue Problem, 1980, §6.9.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Basis, Vector, accumulator, coefficients, combine, dot, norm, scale
from hessian_probe.spectrum.thresholds import BREAKDOWN, SEGMENTS, SHRINKAGE


def orthogonalise(
    basis: Basis, vector: Vector, newest: Vector, index: jax.Array | int
) -> tuple[Vector, jax.Array, jax.Array]:
    """Make a vector orthogonal to the basis, and of unit length, by two or three passes.

    First the component along the newest basis vector is removed, the largest in a Lanczos step, then the
    components along all of them; where that leaves less than SHRINKAGE of the vector, once more.

    Args:
        basis: orthonormal rows; rows from `index` on are zero.
        vector: in a Lanczos step the product H·newest.
        newest: row `index` − 1, or the zero vector.
        index: number of rows in use.

    Returns:
        The unit vector (zero where nothing is left), the components removed, shape (rows,), and the length
        of what was left.
    """
    alpha = dot(newest, vector)
    vector = _minus(vector, scale(alpha, newest))
    total = jnp.zeros((basis[0].shape[0],), accumulator(vector))
    total = jax.lax.dynamic_update_index_in_dim(total, alpha, jnp.maximum(index - 1, 0), 0)

    def removed(state: tuple[Any, ...]) -> tuple[Any, ...]:
        passes, rest, total, length, _ = state
        part = coefficients(basis, rest)
        rest = _minus(rest, combine(basis, part))
        return passes + 1, rest, total + part, norm(rest), length

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        passes, _, _, length, before = state
        return (passes < 1) | ((passes < 2) & (length < SHRINKAGE * before))

    length = norm(vector)
    state = jnp.zeros((), jnp.int32), vector, total, length, length
    _, vector, total, length, _ = jax.lax.while_loop(unfinished, removed, state)
    one = jnp.ones((), length.dtype)
    unit = scale(one / jnp.where((length > 0) & jnp.isfinite(length), length, one), vector)
    return unit, total, length


def breakdown_length(eps: float, norm_estimate: Any) -> Any:
    """Return the length up to which a remainder is rounding, so that the Krylov space is invariant.

    The norm ‖H‖ is estimated from below, by the largest ‖Hv‖ so far.
    """
    return BREAKDOWN * eps * norm_estimate


@partial(jax.jit, donate_argnums=0)
def extend(
    basis: Basis, vector: Vector, newest: Vector, index: jax.Array
) -> tuple[Basis, Vector, jax.Array, jax.Array]:
    """Write a vector as row `index`; returns the basis, and what `orthogonalise` does."""
    unit, total, length = orthogonalise(basis, vector, newest, index)
    rows = zip(basis, unit, strict=True)
    written = tuple(jax.lax.dynamic_update_index_in_dim(b, v.astype(b.dtype), index, 0) for b, v in rows)
    return written, unit, total, length


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


@jax.jit
def zeros(vector: Vector) -> Vector:
    """Return the zero vector of the same shapes."""
    return tuple(jnp.zeros_like(leaf) for leaf in vector)


@partial(jax.jit, static_argnames="rows")
def empty(vector: Vector, rows: int) -> Basis:
    """Storage for a basis of this many rows, zeros."""
    return tuple(jnp.zeros((rows, *leaf.shape), leaf.dtype) for leaf in vector)


def segment(rows: int) -> int:
    """Size of the storage that holds this many rows."""
    return next((size for size in SEGMENTS if size >= rows), rows)
