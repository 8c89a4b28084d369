"""Ways off a saddle, as ladders of steps in the coordinates of a Krylov space.

Every strategy is a function of a `KrylovSpace` and of the longest step to try, and gives a few candidate
steps, written as coordinates: the step is Σᵢ aᵢ·(i-th Ritz vector) + b·(part of the gradient outside it).
Whoever asks evaluates the loss at each and takes the lowest, if it is a real decrease.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, add_scaled, combine
from hessian_probe.spectrum.traced_krylov import KrylovSpace

# Steps of a ladder: each is half of the one before. From twice the scale of the parameters down to 1/256
# of it; escapes on the plateaus of `problems.plateau_points` take 0.05 to 1.3 of the scale.
NUM_TRIALS = 10
# Halvings that locate the root of the cubic model's secular equation, to float32 accuracy.
BISECTIONS = 40


class Ladder(NamedTuple):
    """Candidate steps: coordinates of shape (k, m), and multiples of the gradient's rest, shape (k,)."""

    inside: jax.Array
    outside: jax.Array


def negative_curvature(space: KrylovSpace, longest: jax.Array) -> Ladder:
    """Step along the most negative curvature, both ways.

    Args:
        space: the Krylov space.
        longest: longest step to try, in params.

    Returns:
        2·RUNGS candidates ±longest/2^j along the lowest Ritz vector.

    Source:
        J. J. Moré and D. C. Sorensen, Math. Programming 16, 1979, doi:10.1007/BF01582091.
    """
    lengths = longest * trial_lengths(space.values.dtype)
    signed = jnp.concatenate([lengths, -lengths])
    inside = jnp.zeros((2 * NUM_TRIALS, space.values.shape[0]), lengths.dtype).at[:, 0].set(signed)
    return Ladder(inside, jnp.zeros((2 * NUM_TRIALS,), lengths.dtype))


def saddle_free_newton(space: KrylovSpace, longest: jax.Array) -> Ladder:
    """Newton's step with the signs of the eigenvalues dropped: −|H|⁻¹g in the space.

    Without a gradient it does not move; outside the space the gradient is divided by ‖H‖.

    Args:
        space: the Krylov space.
        longest: longest step to try, in params.

    Returns:
        RUNGS candidates, that step times 2 … 2/2^(RUNGS−1), clipped to `longest`.

    Source:
        Y. Dauphin et al. 2014, algorithm 1, arXiv:1406.2572.
    """
    step = -space.slopes / (jnp.abs(space.values) + space.band)
    length = jnp.sqrt(jnp.sum(jnp.square(step)))
    shrink = jnp.minimum(1.0, 0.5 * longest / jnp.where(length > 0, length, jnp.ones_like(length)))
    factors = 2.0 * shrink * trial_lengths(space.values.dtype)
    return Ladder(factors[:, None] * step[None, :], -factors / (space.norm + space.band))


def cubic_newton(space: KrylovSpace, longest: jax.Array) -> Ladder:
    """Minimise the cubic model gᵀs + ½ sᵀHs + σ/3·‖s‖³ in the space, for a ladder of σ.

    The minimiser is s = −(H + λ)⁻¹g with λ = σ‖s‖ ≥ −λ_min; where the gradient has nothing along the lowest
    Ritz vector (the hard case), what is missing in length is taken along it.

    Args:
        space: the Krylov space.
        longest: longest step to try, in params; σ starts where a step that long has λ = ‖H‖.

    Returns:
        RUNGS candidates, for σ = ‖H‖/longest · 2^j.

    Source:
        Yu. Nesterov and B. T. Polyak, Math. Programming 108, 2006, doi:10.1007/s10107-006-0706-8; in a
        Krylov space: C. Cartis, N. Gould and Ph. Toint, Math. Programming 127, 2011,
        doi:10.1007/s10107-009-0286-5.
    """
    floor = jnp.maximum(-space.values[0], 0.0)
    size = space.norm + space.band

    def solve(sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(shift: jax.Array) -> jax.Array:
            return -space.slopes / (space.values + shift + space.band)

        def length(shift: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.sum(jnp.square(step(shift))))

        def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends
            middle = 0.5 * (low + high)
            longer = sigma * length(middle) > middle
            return jnp.where(longer, middle, low), jnp.where(longer, high, middle)

        slope = jnp.sqrt(jnp.sum(jnp.square(space.slopes)))
        top = floor + size + jnp.sqrt(sigma * slope)
        _, shift = jax.lax.fori_loop(0, BISECTIONS, halve, (floor, top))
        s = step(shift)
        missing = jnp.square(shift / sigma) - jnp.sum(jnp.square(s))
        sign = jnp.where(space.slopes[0] > 0, -1.0, 1.0).astype(s.dtype)
        s = s.at[0].add(sign * jnp.sqrt(jnp.maximum(missing, 0.0)))
        return s, -1 / (size + shift)

    return Ladder(*jax.vmap(solve)(size / longest / trial_lengths(space.values.dtype)))


STRATEGIES: dict[str, Callable[[KrylovSpace, jax.Array], Ladder]] = {
    "negative_curvature": negative_curvature,
    "saddle_free_newton": saddle_free_newton,
    "cubic_newton": cubic_newton,
}
# The strategy that also takes long steps along the gradient and slides on downhill.
DEFAULT = "negative_curvature"
# Without products: "perturbation" adds a random vector of a fixed length, unproved; "none" only looks on.
WITHOUT_CURVATURE = ("perturbation", "none")


def check_strategy(name: str) -> None:
    """Refuse a strategy that does not exist."""
    if name not in STRATEGIES and name not in WITHOUT_CURVATURE:
        known = ", ".join((*STRATEGIES, *WITHOUT_CURVATURE))
        raise ValueError(f"strategy={name!r}; expected one of {known}")


def displacement(space: KrylovSpace, inside: jax.Array, outside: jax.Array) -> Vector:
    """Write one candidate as a vector of the parameter space."""
    return add_scaled(combine(space.basis, space.weights @ inside), outside, space.gradient_outside)


class BestStep(NamedTuple):
    """The best candidate of a ladder, its loss, and the losses of all."""

    step: Vector
    value: jax.Array
    values: jax.Array


def best_of(space: KrylovSpace, ladder: Ladder, x: Vector, loss: Callable[[Vector], jax.Array]) -> BestStep:
    """Evaluate the loss at every candidate, one after the other, and take the lowest.

    Args:
        space: the Krylov space.
        ladder: candidates.
        x: variables.
        loss: of variables.

    Returns:
        The choice; candidates whose loss is not finite are not taken.

    Cost:
        One evaluation for each candidate.
    """

    def value(candidate: tuple[jax.Array, jax.Array]) -> jax.Array:
        found = loss(add_scaled(x, 1.0, displacement(space, *candidate)))
        return jnp.where(jnp.isfinite(found), found, jnp.full_like(found, jnp.inf))

    values = jax.lax.map(value, (ladder.inside, ladder.outside))
    best = jnp.argmin(values)
    return BestStep(displacement(space, ladder.inside[best], ladder.outside[best]), values[best], values)


def trial_lengths(dtype: Any) -> jax.Array:
    """Lengths of a ladder over its longest: 1, 1/2 … shape (RUNGS,)."""
    return jnp.asarray(0.5 ** np.arange(NUM_TRIALS), dtype)
