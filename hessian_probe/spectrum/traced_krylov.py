"""A Lanczos run of fixed length in pure JAX, for use inside compiled training steps.

`spectrum.krylov` grows its basis from the host until an answer is sure; here the number of products is
fixed, so that the run fits into `lax.cond` and `lax.scan` and nothing is ever compiled again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import (
    Basis,
    Vector,
    accumulator,
    add_scaled,
    coefficients,
    combine,
    dot,
    norm,
    row,
    scale,
)

# A remainder below BREAKDOWN * eps * ||H|| is rounding; measured for `spectrum.krylov`.
BREAKDOWN = 10.0
# A Ritz value is a negative eigenvalue's where it lies twice the zero band below zero and its residual is at
# most half of it; as in `points.extremes`.
SIGN_MARGIN = 2.0
SIGN_RESIDUAL = 0.5
# A run may end early, asked every so many products, where the residual is a quarter of the value: on the
# plateaus of `benchmarks.escape` the direction then leads as far down as after all 16.
CHECKED_EVERY = 4
SETTLED = 0.25


class _State(NamedTuple):
    """Basis, diagonal, off-diagonal, largest ‖Hv‖ and largest asymmetry so far; steps; whether to end."""

    basis: Basis
    alphas: jax.Array
    betas: jax.Array
    largest: jax.Array
    asymmetry: jax.Array
    steps: jax.Array
    done: jax.Array


class KrylovSpace(NamedTuple):
    """Ritz pairs of a Krylov space, and the gradient in their coordinates.

    Attributes:
        basis: orthonormal rows, shape (m, ...) each; rows after a breakdown are zero.
        values: Ritz values, ascending, shape (m,), in loss / params².
        weights: coordinates of the Ritz vectors by column, shape (m, m).
        slopes: ⟨gradient, Ritz vector⟩, shape (m,), in loss / params.
        gradient_outside: part of the gradient outside the basis.
        lowest: unit Ritz vector of the lowest value.
        curvature: its Rayleigh quotient, by a product of its own.
        residual: ‖H·lowest − curvature·lowest‖.
        band: curvature smaller than this in magnitude is rounding.
        norm: estimate of ‖H‖.
        num_products: products spent.
    """

    basis: Basis
    values: jax.Array
    weights: jax.Array
    slopes: jax.Array
    gradient_outside: Vector
    lowest: Vector
    curvature: jax.Array
    residual: jax.Array
    band: jax.Array
    norm: jax.Array
    num_products: jax.Array

    @property
    def negative(self) -> jax.Array:
        """Whether the lowest value is a negative eigenvalue's beyond rounding."""
        beyond = self.curvature < -SIGN_MARGIN * self.band
        return beyond & (self.residual <= SIGN_RESIDUAL * jnp.abs(self.curvature))


def krylov_space(
    product: Callable[[Vector], Vector],
    start: Vector,
    gradient: Vector,
    num_steps: int,
    *,
    ends_early: bool = False,
) -> KrylovSpace:
    """Run Lanczos with full re-orthogonalisation, twice, for a bounded number of products.

    Args:
        product: v ↦ H·v.
        start: first direction, any length above zero.
        gradient: gradient, expressed in the space for the strategies that need it.
        num_steps: m, products of the run; one more measures the lowest pair.
        ends_early: stop as soon as a negative eigenvalue shows.

    Returns:
        The space.

    Cost:
        At most m + 1 products; m vectors of memory.

    Source:
        C. Lanczos 1950; full re-orthogonalisation: B. N. Parlett, The Symmetric Eigenvalue Problem,
        1980, §6.9.
    """
    dtype = accumulator(start)
    eps = float(jnp.finfo(dtype).eps)
    basis = tuple(jnp.zeros((num_steps, *leaf.shape), leaf.dtype) for leaf in start)
    basis = _write(basis, 0, scale(1 / norm(start), start))
    zeros = jnp.zeros((num_steps,), dtype)
    zero = jnp.zeros((), dtype)

    def step(state: _State) -> _State:
        basis, alphas, betas, largest, asymmetry, j, _ = state
        w = product(row(basis, j))
        largest = jnp.maximum(largest, norm(w))
        first = coefficients(basis, w)
        w = _minus(w, combine(basis, first))
        second = coefficients(basis, w)
        w = _minus(w, combine(basis, second))
        before = jnp.maximum(j - 1, 0)
        off = jnp.where(j > 0, jnp.abs((first + second)[before] - betas[before]), zero)
        beta = norm(w)
        beta = jnp.where(beta > BREAKDOWN * eps * largest, beta, zero)
        inverse = jnp.where(beta > 0, 1 / jnp.where(beta > 0, beta, jnp.ones_like(beta)), zero)
        basis = jax.lax.cond(
            j + 1 < num_steps, lambda: _write(basis, j + 1, scale(inverse, w)), lambda: basis
        )
        alphas, betas = alphas.at[j].set((first + second)[j]), betas.at[j].set(beta)
        # Rows after a breakdown are zero and say nothing about symmetry.
        asymmetry = jnp.maximum(asymmetry, jnp.where(betas[before] > 0, off, zero))
        state = _State(basis, alphas, betas, largest, asymmetry, j + 1, jnp.zeros((), jnp.bool_))
        if not ends_early:
            return state
        ask = (j + 1) % CHECKED_EVERY == 0
        return state._replace(done=jax.lax.cond(ask, lambda: settled(state), lambda: state.done))

    def settled(state: _State) -> jax.Array:
        values, weights = _ritz(state)
        residual = jnp.abs(state.betas[state.steps - 1] * weights[state.steps - 1, 0])
        band = state.asymmetry + BREAKDOWN * eps * state.largest
        return (values[0] < -SIGN_MARGIN * band) & (residual <= SETTLED * jnp.abs(values[0]))

    none, no = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_)
    state = jax.lax.while_loop(
        lambda s: (s.steps < num_steps) & ~s.done, step, _State(basis, zeros, zeros, zero, zero, none, no)
    )
    return _measured(product, gradient, state)


def _measured(product: Callable[[Vector], Vector], gradient: Vector, state: _State) -> KrylovSpace:
    """Take the Ritz pairs of a run, and measure the lowest by a product of its own."""
    values, weights = _ritz(state)
    basis, largest, asymmetry = state.basis, state.largest, state.asymmetry
    lowest = combine(basis, weights[:, 0])
    length = norm(lowest)
    lowest = scale(1 / jnp.where(length > 0, length, jnp.ones_like(length)), lowest)
    image = product(lowest)
    curvature = dot(lowest, image)
    inside = coefficients(basis, gradient)
    size = jnp.maximum(largest, norm(image))
    return KrylovSpace(
        basis=basis,
        values=values,
        weights=weights,
        slopes=weights.T @ inside,
        gradient_outside=_minus(gradient, combine(basis, inside)),
        lowest=lowest,
        curvature=curvature,
        residual=norm(add_scaled(image, -curvature, lowest)),
        band=asymmetry + BREAKDOWN * float(jnp.finfo(accumulator(gradient)).eps) * size,
        norm=size,
        num_products=state.steps + 1,
    )


def _ritz(state: _State) -> tuple[jax.Array, jax.Array]:
    """Ritz values and weights of the rows that are in use.

    Rows after a breakdown are zero, later ones not yet multiplied: neither belongs to an eigenvalue, and
    both are put out of the way.

    Args:
        state: where the run has come to.

    Returns:
        Values, ascending, shape (m,), and weights by column, shape (m, m).
    """
    betas = state.betas[:-1]
    index = jnp.arange(len(state.alphas), dtype=jnp.int32)
    held = jnp.concatenate([jnp.ones((1,), jnp.bool_), jnp.cumprod(betas > 0) > 0]) & (index < state.steps)
    alphas = jnp.where(held, state.alphas, state.largest)
    betas = jnp.where(held[1:], betas, jnp.zeros_like(betas))
    values, weights = jnp.linalg.eigh(jnp.diag(alphas) + jnp.diag(betas, 1) + jnp.diag(betas, -1))
    return values, weights


def _write(basis: Basis, index: jax.Array | int, vector: Vector) -> Basis:
    return tuple(
        jax.lax.dynamic_update_index_in_dim(b, v.astype(b.dtype), index, 0)
        for b, v in zip(basis, vector, strict=True)
    )


def _minus(a: Vector, b: Vector) -> Vector:
    return tuple(x - y for x, y in zip(a, b, strict=True))
