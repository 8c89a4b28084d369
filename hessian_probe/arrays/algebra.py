"""Linear algebra on vectors and on bases (the same tuples with a leading axis)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays.layout import Layout, at_least_float32, widest
from hessian_probe.arrays.types import Array, Basis, Float, PyTree, Vector


def cast(vector: Vector, dtypes: tuple[Any, ...]) -> Vector:
    """Cast each leaf to the dtype beside it."""
    pairs = zip(vector, dtypes, strict=True)
    return tuple(v if v.dtype == dtype else v.astype(dtype) for v, dtype in pairs)


def accumulator(vector: Vector) -> Any:
    """Data type that sums over the vector's leaves are taken in."""
    return widest(at_least_float32(v.dtype) for v in vector)


@jax.jit
def dot(a: Vector, b: Vector) -> Float[Array, ""]:
    """Euclidean inner product over all leaves, accumulated in at least float32."""
    dtype = accumulator(a)
    with jax.default_matmul_precision("highest"):
        return sum((jnp.vdot(x, y).astype(dtype) for x, y in zip(a, b, strict=True)), jnp.zeros((), dtype))


@jax.jit
def norm(a: Vector) -> Float[Array, ""]:
    """Euclidean norm over all leaves; scaled first, so that it neither over- nor underflows."""
    dtype = accumulator(a)
    zero = jnp.zeros((), dtype)
    top = zero
    for x in a:
        if x.size:
            top = jnp.maximum(top, jnp.max(jnp.abs(x)).astype(dtype))
    safe = jnp.where((top > 0) & jnp.isfinite(top), top, jnp.ones((), dtype))
    total = sum((jnp.sum(jnp.square(x.astype(dtype) / safe)) for x in a), zero)
    return safe * jnp.sqrt(total)


def host_norm(entries: Float[np.ndarray, "..."]) -> float:
    """Euclidean norm that neither over- nor underflows."""
    top = float(np.max(np.abs(entries), initial=0.0))
    return top * float(np.linalg.norm(entries / top)) if top > 0 else 0.0


@jax.jit
def scale(factor: Any, a: Vector) -> Vector:
    """Return `factor * a`."""
    return tuple(jnp.asarray(factor).astype(x.dtype) * x for x in a)


@jax.jit
def add_scaled(a: Vector, factor: Any, b: Vector) -> Vector:
    """Return `a + factor * b` in the dtypes of `a`, computed in those of `b` where wider."""

    def leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        dtype = widest((x.dtype, y.dtype))
        return (x.astype(dtype) + jnp.asarray(factor).astype(dtype) * y.astype(dtype)).astype(x.dtype)

    return tuple(leaf(x, y) for x, y in zip(a, b, strict=True))


def select(where: Any, new: PyTree, old: PyTree) -> PyTree:
    """Return one pytree or the other, by a scalar or leaf by leaf alike, with the dtypes and shapes of `old`.

    Of NumPy's arrays where `where` is one of these; in JAX a single operation, where `jnp.where` is a call.
    """

    def leaf(a: Any, b: Any) -> Any:
        if not isinstance(where, jax.Array):
            return np.where(where, a, b).astype(b.dtype)
        return jax.lax.select(where, jnp.broadcast_to(jnp.asarray(a).astype(b.dtype), b.shape), b)

    return jax.tree.map(leaf, new, old)


@jax.jit
def row(basis: Basis, index: Any) -> Vector:
    """Take one row of a basis."""
    return tuple(b[index] for b in basis)


@jax.jit
def coefficients(basis: Basis, vector: Vector) -> Float[Array, " rows"]:
    """Inner products of every row of the basis with the vector, shape (rows,)."""
    dtype = accumulator(vector)
    total = jnp.zeros((basis[0].shape[0],), dtype)
    with jax.default_matmul_precision("highest"):
        for b, v in zip(basis, vector, strict=True):
            total = total + (b.reshape(b.shape[0], -1) @ v.reshape(-1)).astype(dtype)
    return total


@jax.jit
def combine(basis: Basis, weights: Float[Array, "rows ..."]) -> Vector:
    """Combine the rows linearly: weights of shape (rows,) give a vector, (rows, k) a basis of k rows."""
    with jax.default_matmul_precision("highest"):
        mixed = (weights.astype(b.dtype).T @ b.reshape(b.shape[0], -1) for b in basis)
        return tuple(m.reshape(*weights.shape[1:], *b.shape[1:]) for m, b in zip(mixed, basis, strict=True))


@jax.jit
def as_basis(vector: Vector) -> Basis:
    """A vector as a basis of one row."""
    return tuple(leaf[None] for leaf in vector)


@jax.jit
def _finite(vector: Vector) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in vector])


def first_nonfinite(layout: Layout, vector: Vector) -> str | None:
    """Name the first leaf that holds a NaN or an infinity, or return None."""
    good = np.asarray(_finite(vector)) if vector else ()
    return next((name for name, finite in zip(layout.names, good, strict=True) if not finite), None)
