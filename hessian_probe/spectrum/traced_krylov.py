"""The traced driver of the Lanczos step: a run of bounded length inside a compiled training step.

`krylov.Krylov` grows its basis from the host until an answer is sure; here the number of products has a
fixed upper limit, so that the run fits into `lax.cond` and `lax.scan` and new values never recompile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Basis, Vector, accumulator, add_scaled, combine, dot, norm, row, scale
from hessian_probe.spectrum.lanczos import breakdown_length, orthogonalise, write
from hessian_probe.spectrum.thresholds import CHECKED_EVERY, SETTLED, SIGN_MARGIN, SIGN_RESIDUAL


class KrylovSpace(NamedTuple):
    """Ritz pairs of a Krylov space.

    Attributes:
        basis: orthonormal rows, shape (m, ...) each; rows after a breakdown are zero.
        values: Ritz values, ascending, shape (m,), in loss / params².
        weights: coordinates of the Ritz vectors by column, shape (m, m).
        lowest: unit Ritz vector of the lowest value.
        curvature: its Rayleigh quotient, by a product of its own.
        residual: ‖H·lowest − curvature·lowest‖.
        band: zero band: curvature smaller than this in magnitude is rounding.
        norm: estimate of ‖H‖ from below.
        num_products: products spent.
    """

    basis: Basis
    values: jax.Array
    weights: jax.Array
    lowest: Vector
    curvature: jax.Array
    residual: jax.Array
    band: jax.Array
    norm: jax.Array
    num_products: jax.Array

    @property
    def negative(self) -> jax.Array:
        """Whether the lowest Ritz value shows a negative eigenvalue beyond rounding."""
        beyond = self.curvature < -SIGN_MARGIN * self.band
        return beyond & (self.residual <= SIGN_RESIDUAL * jnp.abs(self.curvature))


class _Loop(NamedTuple):
    """State of the loop.

    Attributes:
        basis: rows that have been multiplied, and the next one.
        alphas: diagonal of the projected matrix, shape (m,).
        betas: its off-diagonal; the last entry couples to the vector next to the basis.
        largest: largest ‖Hv‖ so far.
        asymmetry: largest deviation of ⟨u, Hv⟩ from ⟨Hu, v⟩ so far.
        steps: products so far.
        done: whether the run ends early.
    """

    basis: Basis
    alphas: jax.Array
    betas: jax.Array
    largest: jax.Array
    asymmetry: jax.Array
    steps: jax.Array
    done: jax.Array

    @property
    def rounding(self) -> jax.Array:
        """Length up to which a remainder, and curvature below which a value, is rounding."""
        eps = float(jnp.finfo(accumulator(self.basis)).eps)
        rounding: jax.Array = breakdown_length(eps, self.largest)
        return rounding

    def ritz(self) -> tuple[jax.Array, jax.Array]:
        """Ritz pairs of the rows that are in use.

        Rows after a breakdown are zero and later rows have not been multiplied: neither belongs to an
        eigenvalue.  They are decoupled, and placed at ‖H‖, away from the lower end.

        Returns:
            Values, ascending, shape (m,), and weights by column, shape (m, m).
        """
        betas = self.betas[:-1]
        index = jnp.arange(len(self.alphas), dtype=jnp.int32)
        reached = jnp.concatenate([jnp.ones((1,), jnp.bool_), jnp.cumprod(betas > 0) > 0])
        held = reached & (index < self.steps)
        alphas = jnp.where(held, self.alphas, self.largest)
        betas = jnp.where(held[1:], betas, jnp.zeros_like(betas))
        values, weights = jnp.linalg.eigh(jnp.diag(alphas) + jnp.diag(betas, 1) + jnp.diag(betas, -1))
        return values, weights

    def settled(self) -> jax.Array:
        """Whether the lowest Ritz value already shows a negative eigenvalue."""
        values, weights = self.ritz()
        residual = jnp.abs(self.betas[self.steps - 1] * weights[self.steps - 1, 0])
        band = self.asymmetry + self.rounding
        return (values[0] < -SIGN_MARGIN * band) & (residual <= SETTLED * jnp.abs(values[0]))


def krylov_space(
    product: Callable[[Vector], Vector], start: Vector, num_steps: int, *, ends_early: bool = False
) -> KrylovSpace:
    """Run Lanczos with full re-orthogonalisation for a bounded number of products.

    After a breakdown the remaining rows are zero.  A random start has a component in every eigenspace, so
    the lowest eigenvalue is then found; its copies, for which `Krylov` draws fresh vectors, are not needed
    for one descent direction.

    Args:
        product: v ↦ H·v.
        start: first direction, any length above zero.
        num_steps: m, products of the run; one more measures the lowest pair.
        ends_early: stop as soon as a negative eigenvalue shows.

    Returns:
        The space.

    Cost:
        At most m + 1 products; m vectors of memory.
    """
    dtype = accumulator(start)
    basis = tuple(jnp.zeros((num_steps, *leaf.shape), leaf.dtype) for leaf in start)
    basis = write(basis, 0, scale(1 / norm(start), start))
    zeros, zero = jnp.zeros((num_steps,), dtype), jnp.zeros((), dtype)
    none, no = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_)

    def step(run: _Loop) -> _Loop:
        run = _stepped(product, run)
        if not ends_early:
            return run
        look = run.steps % CHECKED_EVERY == 0
        return run._replace(done=jax.lax.cond(look, run.settled, lambda: run.done))

    run = jax.lax.while_loop(
        lambda run: (run.steps < num_steps) & ~run.done,
        step,
        _Loop(basis, zeros, zeros, zero, zero, none, no),
    )
    return _measured(product, run)


def _stepped(product: Callable[[Vector], Vector], run: _Loop) -> _Loop:
    """Multiply the newest vector and add its product to the basis."""
    basis, alphas, betas, _, asymmetry, j, done = run
    newest = row(basis, j)
    image = product(newest)
    run = run._replace(largest=jnp.maximum(run.largest, norm(image)))
    unit, removed, beta = orthogonalise(basis, image, newest, j + 1)
    sound = beta > run.rounding
    zero = jnp.zeros_like(beta)
    beta = jnp.where(sound, beta, zero)
    unit = scale(jnp.where(sound, jnp.ones_like(beta), zero), unit)
    basis = jax.lax.cond(j + 1 < len(alphas), lambda: write(basis, j + 1, unit), lambda: basis)
    before = jnp.maximum(j - 1, 0)
    # Rows after a breakdown are zero: nothing about symmetry follows from them.
    compared = (j > 0) & (betas[before] > 0)
    off = jnp.where(compared, jnp.abs(removed[before] - betas[before]), zero)
    return _Loop(
        basis,
        alphas.at[j].set(removed[j]),
        betas.at[j].set(beta),
        run.largest,
        jnp.maximum(asymmetry, off),
        j + 1,
        done,
    )


def _measured(product: Callable[[Vector], Vector], run: _Loop) -> KrylovSpace:
    """Take the Ritz pairs of a run, and measure the lowest by a product of its own."""
    values, weights = run.ritz()
    basis = run.basis
    lowest = combine(basis, weights[:, 0])
    length = norm(lowest)
    lowest = scale(1 / jnp.where(length > 0, length, jnp.ones_like(length)), lowest)
    image = product(lowest)
    curvature = dot(lowest, image)
    run = run._replace(largest=jnp.maximum(run.largest, norm(image)))
    return KrylovSpace(
        basis=basis,
        values=values,
        weights=weights,
        lowest=lowest,
        curvature=curvature,
        residual=norm(add_scaled(image, -curvature, lowest)),
        band=run.asymmetry + run.rounding,
        norm=run.largest,
        num_products=run.steps + 1,
    )
