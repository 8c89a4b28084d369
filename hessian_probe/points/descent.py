"""Descents within a distance of a point: L-BFGS and Adam, that take one evaluation at a time.

A run is a state of flat vectors on the device; `advance` takes in the loss and the gradient at `trial`, and
is compiled once for a layout.  L-BFGS keeps the last MEMORY steps; a step is shortened until the loss falls
by ARMIJO of what the slope says.

Source: J. Nocedal and S. Wright, Numerical Optimization, 2006, algorithms 3.1 and 7.4; Adam: D. Kingma and
J. Ba 2015, arXiv:1412.6980.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout, Vector, accumulator, cast, unflatten
from hessian_probe.points.thresholds import ARMIJO, HALVINGS, MEMORY

Flat = jax.Array


class Within(NamedTuple):
    """Where a descent may go: within `reach` of the point, with no step along the unit vector `held`.

    `first` is the longest first step, `rate` what a gradient is multiplied by for it.
    """

    reach: Any
    held: Flat
    first: Any
    rate: Any


class LocalSearch(NamedTuple):
    """L-BFGS between two evaluations; with no steps kept, before the first.

    Attributes:
        at: displacement from the point, shape (n,).
        fall: decrease of the loss there below the point.
        slope: gradient there, without what leads out of the reach and what is held.
        direction: where to go from there.
        share: of `direction`, tried next.
        steps, changes: of the last steps and of the gradient over them, newest first, shape (MEMORY, n).
        inverses: 1 / ⟨step, change⟩, shape (MEMORY,); 0 for none.
        refused: trials that did not lower the loss enough, one after the other; −1 before the first.
    """

    at: Flat
    fall: jax.Array
    slope: Flat
    direction: Flat
    share: jax.Array
    steps: jax.Array
    changes: jax.Array
    inverses: jax.Array
    refused: jax.Array


@jax.jit
def begin(start: Flat) -> LocalSearch:
    """The state whose first trial is at a displacement."""
    zero, memory = jnp.zeros((), start.dtype), jnp.zeros((MEMORY, len(start)), start.dtype)
    still = jnp.zeros_like(start)
    return LocalSearch(
        start, zero - jnp.inf, still, still, zero, memory, memory, memory[:, 0], jnp.full((), -1, jnp.int32)
    )


@partial(jax.jit, static_argnums=0)
def trial(layout: Layout, x: Vector, at: Flat, reach: Any) -> Vector:
    """Variables at a displacement, drawn back to the reach."""
    move = unflatten(layout, _drawn_back(at, reach))
    return cast(tuple(a + b for a, b in zip(cast(x, layout.work_dtypes), move, strict=True)), layout.dtypes)


@partial(jax.jit, static_argnums=0)
def advance(
    layout: Layout, x: Vector, state: LocalSearch, fall: Any, gradient: Vector, within: Within
) -> tuple[LocalSearch, Vector, jax.Array]:
    """Take in the decrease and the gradient at the trial: the state, the next trial, whether it ended."""
    at = _drawn_back(state.at + state.share * state.direction, within.reach)
    slope, fall = _projected(at, gradient, within), jnp.asarray(fall, at.dtype)
    first, step, change = state.refused < 0, at - state.at, slope - state.slope
    expected = -state.slope @ step
    good = jnp.isfinite(fall) & jnp.all(jnp.isfinite(slope))
    good &= first | ((fall > state.fall) & (fall >= state.fall + ARMIJO * expected))
    product = step @ change
    kept = good & ~first & (product > jnp.finfo(at.dtype).eps * (change @ change) * within.rate)
    newest = (step, state.steps), (change, state.changes), (1 / product, state.inverses)
    steps, changes, inverses = (
        jnp.where(kept, jnp.concatenate([row[None], rows[:-1]]), rows) for row, rows in newest
    )
    direction = _quasi_newton(slope, steps, changes, inverses, within)
    direction = jnp.where(good, direction, state.direction)
    # Where the parabola through both values and the slope has its minimum.
    inner = 0.5 * expected / jnp.maximum(expected - (fall - state.fall), jnp.finfo(at.dtype).tiny)
    shorter = state.share * jnp.clip(jnp.nan_to_num(inner, nan=0.1), 0.1, 0.5)
    share = jnp.where(good, jnp.ones_like(shorter), shorter)
    state = LocalSearch(
        jnp.where(good, at, state.at),
        jnp.where(good, fall, state.fall),
        jnp.where(good, slope, state.slope),
        direction,
        share,
        steps,
        changes,
        inverses,
        jnp.where(good, 0, jnp.abs(state.refused) + 1),
    )
    ended = (state.refused > HALVINGS) | (first & ~good) | ~jnp.any(state.slope)
    return state, trial(layout, x, state.at + share * direction, within.reach), ended


def _quasi_newton(slope: Flat, steps: Any, changes: Any, inverses: Any, within: Within) -> Flat:
    """Minus the inverse Hessian that the last steps show times the slope."""
    q, weights = slope, []
    for step, change, inverse in zip(steps, changes, inverses, strict=True):
        weights.append(inverse * (step @ q))
        q = q - weights[-1] * change
    length = jnp.sqrt(slope @ slope)
    first = jnp.minimum(within.rate, within.first / jnp.maximum(length, jnp.finfo(q.dtype).tiny))
    latest = 1 / (inverses[0] * (changes[0] @ changes[0]))
    q = q * jnp.where(inverses[0] > 0, latest, first)
    for step, change, inverse, weight in reversed(list(zip(steps, changes, inverses, weights, strict=True))):
        q = q + (weight - inverse * (change @ q)) * step
    return -q


class AdamSearch(NamedTuple):
    """Adam between two evaluations: displacement, moments of the gradient, number of steps."""

    at: Flat
    mean: Flat
    square: Flat
    turn: jax.Array


@partial(jax.jit, static_argnums=0)
def adam(
    layout: Layout, x: Vector, state: AdamSearch, gradient: Vector, within: Within
) -> tuple[AdamSearch, Vector]:
    """Take a step of length `within.rate` in each entry: the state, the next trial."""
    slope = _projected(_drawn_back(state.at, within.reach), gradient, within)
    slope = jnp.where(jnp.all(jnp.isfinite(slope)), slope, 0.0)
    turn, mean = state.turn + 1, 0.9 * state.mean + 0.1 * slope
    count = turn.astype(slope.dtype)
    square = 0.99 * state.square + 0.01 * slope**2
    size = jnp.sqrt(square / (1 - 0.99**count)) + jnp.finfo(slope.dtype).tiny
    # No entry of a step is longer than the rate, where squares do not underflow.
    at = state.at - within.rate * jnp.clip(mean / (1 - 0.9**count) / size, -1, 1)
    return AdamSearch(at, mean, square, turn), trial(layout, x, at, within.reach)


def _drawn_back(at: Flat, reach: Any) -> Flat:
    return at / jnp.maximum(jnp.sqrt(at @ at) / reach, 1)


def _projected(at: Flat, gradient: Vector, within: Within) -> Flat:
    """The gradient as a flat vector, but what leads out of the reach and along what is held."""
    slope = jnp.concatenate([leaf.astype(accumulator(gradient)).ravel() for leaf in gradient]).astype(
        at.dtype
    )
    square, along = at @ at, slope @ at
    outside = (jnp.sqrt(square) >= (1 - 1e-6) * within.reach) & (along < 0)
    slope = jnp.where(outside, slope - along / jnp.maximum(square, jnp.finfo(at.dtype).tiny) * at, slope)
    return slope - (slope @ within.held) * within.held
