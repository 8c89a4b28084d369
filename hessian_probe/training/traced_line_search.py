"""Line searches that can be traced: fixed trial lengths with a test for bending, and a parabola.

At a saddle where every curvature is lost in rounding (all layers of a deep network near zero) the gradient
still shows the direction, and only a long step shows how far the loss falls along it.  What tells it from a
slope is the bend: f(x + t·u) < f(x) − t·s, with s the slope at x, needs negative curvature between x and
x + t·u (mean value theorem), however small the curvature is at x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Trial lengths: each is half of the one before. From twice the scale of the parameters down to 1/256 of it;
# escapes on the plateaus of `problems.plateau_points` take 0.05 to 1.3 of the scale.
NUM_TRIALS = 10
# A step bends down where the loss falls by this many times slope · length.  Measured on the plateaus of
# `benchmarks.escape`: 2.4 to 8,000 at their start, 0.2 to 1.1 on the slopes behind them.
BENT = 2.0
# A line search by parabolas tries two lengths, and up to two more while none lowers the loss; each is at most
# LONGER times the one before, and at least 1/SHORTER of it.
TRIALS = 2
MORE_TRIALS = 4
LONGER = 2.0
SHORTER = 16.0


class TrialValues(NamedTuple):
    """Lengths along a unit direction (signed), the loss at each, and the slope along it."""

    lengths: jax.Array
    values: jax.Array
    slope: jax.Array


class BestTrial(NamedTuple):
    """The best of some lengths, the loss there, and whether the loss bends down between."""

    length: jax.Array
    value: jax.Array
    bent: jax.Array


def trial_lengths(dtype: Any) -> jax.Array:
    """Lengths over the longest: 1, 1/2, 1/4 …, shape (NUM_TRIALS,)."""
    return jnp.asarray(0.5 ** np.arange(NUM_TRIALS), dtype)


def best_trial(trials: TrialValues, before: jax.Array, margin: jax.Array) -> BestTrial:
    """Choose the lowest value, and test whether the loss bends down to it without a barrier.

    Args:
        trials: the values; those that are not finite are not taken.
        before: loss at length 0.
        margin: differences below it are rounding errors.

    Returns:
        The best trial.
    """
    values = jnp.where(jnp.isfinite(trials.values), trials.values, jnp.full_like(trials.values, jnp.inf))
    best = jnp.argmin(values)
    length, value = trials.lengths[best], values[best]
    nearer = (trials.lengths * jnp.sign(length) > 0) & (jnp.abs(trials.lengths) < jnp.abs(length))
    barrier = jnp.any(nearer & (values > before + margin))
    explained = jnp.maximum(-trials.slope.astype(value.dtype) * length.astype(value.dtype), 0.0)
    return BestTrial(length, value, (before - value > margin + BENT * explained) & ~barrier)


def line_search(
    loss: Callable[[jax.Array], jax.Array], before: jax.Array, slope: jax.Array, length: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Try a length, then the minimum of the parabola through it, and again where neither is lower.

    Args:
        loss: of a length.
        before: loss at length 0.
        slope: derivative there, below zero.
        length: the first one to try.

    Returns:
        The best length, the loss there, and the number of evaluations.

    Source:
        The parabola through two values and a slope: J. Nocedal and S. Wright, Numerical Optimization, 2006,
        eq. 3.58.
    """
    State = tuple[jax.Array, jax.Array, jax.Array, jax.Array]

    def trial(state: State) -> State:
        length, best, lowest, count = state
        found = loss(length)
        found = jnp.where(jnp.isfinite(found), found, jnp.full_like(found, jnp.inf))
        best, lowest = jnp.where(found < lowest, length, best), jnp.minimum(found, lowest)
        bend = 2 * (found - before - slope * length)
        vertex = jnp.where(
            bend > 0,
            -slope * length * length / jnp.where(bend > 0, bend, jnp.ones_like(bend)),
            LONGER * length,
        )
        return jnp.clip(vertex, length / SHORTER, LONGER * length), best, lowest, count + 1

    def more(state: State) -> jax.Array:
        _, _, lowest, count = state
        return (count < TRIALS) | ((count < MORE_TRIALS) & ~(lowest < before))

    first = (length, jnp.zeros_like(length), before, jnp.zeros((), jnp.int32))
    _, best, lowest, count = jax.lax.while_loop(more, trial, first)
    return best, lowest, count
