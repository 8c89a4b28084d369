"""The diagonal of a symmetric map from random products, with a standard error for each entry.

Let ω have independent random signs.  The entries of ω∘Aω have mean aᵢᵢ and variance Σ_{j≠i} aᵢⱼ².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, norm, tangent, unflatten
from hessian_probe.operators.symmetric import SymmetricOperator
from hessian_probe.spectrum.result import DiagonalEstimate
from hessian_probe.spectrum.sums import checked_budget, exact_diagonal, leaf_shapes, random_signs, seed_of
from hessian_probe.spectrum.thresholds import DIAGONAL_BATCH, PILOT


def diagonal(
    op: SymmetricOperator,
    *,
    rtol: float = 0.1,
    max_hvps: int | None = None,
    key: jax.Array | None = None,
    progress: Callable[[str], None] | None = None,
) -> DiagonalEstimate:
    """Estimate the diagonal, with a standard error for each entry.

    Args:
        op: an operator of this package.
        rtol: it stops when the Euclidean norm of all standard errors is at most this share of the diagonal's.
        max_hvps: products allowed; None means 1000.
        key: random key of the vectors; None means `jax.random.key(0)`.
        progress: called with a line of text every few products.

    Returns:
        DiagonalEstimate: value and standard_error, pytrees like params (loss / params² for a Hessian).

    Raises:
        TypeError: `op` is no operator.
        ValueError: rtol is not positive; max_hvps is below 4 and below n.

    Cost:
        (‖off-diagonal part‖_F / (rtol·‖diagonal‖))² products, and never more than n; three vectors of memory.

    Source:
        C. Bekas, E. Kokiopoulou and Y. Saad, Appl. Numer. Math. 57, 2007, doi:10.1016/j.apnum.2007.01.003.

    Examples:
        >>> import hessian_probe as hp
        >>> hp.diagonal(hp.hessian(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]))).value.tolist()
        [6.0, 12.0]
    """
    budget = checked_budget(op, rtol, max_hvps)
    seed, before = seed_of(key), op.num_hvps
    total = squares = tuple(jnp.zeros(shape, d) for shape, d in zip(*leaf_shapes(op), strict=True))
    count, status, mean, error = 0, "max_hvps", 0.0, math.inf
    exact: np.ndarray | None = None
    try:
        if op.size <= min(budget, 2 * PILOT):
            exact = exact_diagonal(op)
        while exact is None and op.num_hvps - before < budget:
            signs = random_signs(op, seed, count)
            total, squares = _added(total, squares, signs, op.apply(signs))
            count += 1
            if count < PILOT or count % DIAGONAL_BATCH:
                continue
            error, mean = (float(x) for x in _relative(total, squares, count))
            if progress is not None:
                progress(f"{count} products: diagonal of norm {mean:.4e} ± {error:.1e}")
            if not math.isfinite(error):
                status = "nonfinite"
                break
            if error <= max(rtol * mean, op.eps * mean):
                status = "converged"
                break
            needed = count * (error / (rtol * mean)) ** 2 if mean > 0 else math.inf
            if needed - count >= op.size and budget - count >= op.size:
                exact = exact_diagonal(op)
    except KeyboardInterrupt:
        status = "interrupted"
    if exact is not None:
        values, errors = unflatten(op.layout, exact), unflatten(op.layout, op.eps * np.abs(exact))
        status = "converged" if np.all(np.isfinite(exact)) else "nonfinite"
    else:
        values, errors = _mean_and_error(total, squares, max(count, 1), op.eps)
        error, mean = (float(norm(part)) for part in (errors, values))
    still = op.non_variables
    return DiagonalEstimate(
        value=tangent(op.layout, values, still),
        standard_error=tangent(op.layout, errors, still),
        relative_error=0.0 if exact is not None else error / mean if mean > 0 else math.inf,
        num_samples=count,
        num_hvps=op.num_hvps - before,
        status=status,
        method="bekas" if exact is None else "exact",
        size=op.size,
        variables=str(op.layout),
    )


@jax.jit
def _added(total: Vector, squares: Vector, signs: Vector, image: Vector) -> tuple[Vector, Vector]:
    samples = [s * leaf for s, leaf in zip(signs, image, strict=True)]
    sums = zip(total, squares, samples, strict=True)
    both = [(t + x, q + x * x) for t, q, x in sums]
    return tuple(t for t, _ in both), tuple(q for _, q in both)


@jax.jit
def _mean_and_error(total: Vector, squares: Vector, count: Any, eps: float) -> tuple[Vector, Vector]:
    means = tuple(t / jnp.asarray(count, t.dtype) for t in total)

    def error(square: jax.Array, mean: jax.Array) -> jax.Array:
        k = jnp.asarray(count, mean.dtype)
        spread = jnp.maximum(square / k - mean * mean, jnp.zeros((), mean.dtype))
        one = jnp.ones((), mean.dtype)
        return jnp.maximum(jnp.sqrt(spread / jnp.maximum(k - one, one)), eps * jnp.abs(mean))

    return means, tuple(error(q, m) for q, m in zip(squares, means, strict=True))


@jax.jit
def _relative(total: Vector, squares: Vector, count: Any) -> tuple[jax.Array, jax.Array]:
    means, errors = _mean_and_error(total, squares, count, 0.0)
    return norm(errors), norm(means)
