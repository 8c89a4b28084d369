"""Long steps down where the loss bends down, and a slide into the valley beyond; no products needed.

At a saddle where every curvature is lost in rounding (all layers of a deep network near zero) the gradient
still points the way, and only a long step shows how far the loss falls there.  What tells it from a slope
is the bend: f(x + t·u) < f(x) − t·s with s the slope at x needs negative curvature on the way (mean value
theorem), however small it is at x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Vector, add_scaled, norm, scale

# A step bends down where the loss falls by this many times slope · length.  Measured on the plateaus of
# `benchmarks.escape`: 2.4 to 8,000 at their start, 0.2 to 1.1 on the slopes behind them.
BENT = 2.0
# Line searches of a slide at most, and the share of all that was gained so far that each must bring, or it
# is the last: behind a saddle up to a dozen pay, on the way into the next saddle none does.
PASSES = 16
PAYS = 0.02
# A line search tries two lengths, and up to two more while none is lower; each at most so many times the
# one before, and at least one part in SHORTER of it.
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
    """The best length of a ladder, the loss there, and whether the loss bends down on the way."""

    length: jax.Array
    value: jax.Array
    bent: jax.Array


def best_trial(ladder: TrialValues, before: jax.Array, margin: jax.Array) -> BestTrial:
    """Choose the lowest value, and say whether the way to it bends down without a barrier.

    Args:
        ladder: values; those that are not finite are not taken.
        before: loss at length 0.
        margin: differences below it are rounding.

    Returns:
        The rung.
    """
    values = jnp.where(jnp.isfinite(ladder.values), ladder.values, jnp.full_like(ladder.values, jnp.inf))
    best = jnp.argmin(values)
    length, value = ladder.lengths[best], values[best]
    nearer = (ladder.lengths * jnp.sign(length) > 0) & (jnp.abs(ladder.lengths) < jnp.abs(length))
    barrier = jnp.any(nearer & (values > before + margin))
    explained = jnp.maximum(-ladder.slope.astype(value.dtype) * length.astype(value.dtype), 0.0)
    return BestTrial(length, value, (before - value > margin + BENT * explained) & ~barrier)


class SteepestDescent(NamedTuple):
    """Where a slide has come to.

    Attributes:
        step: displacement from where it began.
        value: loss there.
        length: length of the latest step.
        going: whether another step may pay.
        num_passes: line searches, each with one gradient.
        num_evaluations: losses.
    """

    step: Vector
    value: jax.Array
    length: jax.Array
    going: jax.Array
    num_passes: jax.Array
    num_evaluations: jax.Array


def steepest_descent(
    loss: Callable[[Vector], jax.Array],
    x: Vector,
    before: jax.Array,
    step: Vector,
    value: jax.Array,
    going: jax.Array,
) -> SteepestDescent:
    """Go on downhill by steepest descent while it pays, at most PASSES line searches.

    Conjugate directions reach as low but land where the loss is up to four times as sharp (deep linear
    networks of five and six layers: curvature 85 to 170 where steepest descent finds 25 to 50), and
    training that was stable before may not be there.

    Args:
        loss: of variables.
        x: variables where the way down began.
        before: loss there.
        step: displacement so far.
        value: loss there.
        going: whether to slide at all.

    Returns:
        Where it ended; never higher than `value`.

    Cost:
        One gradient and two to four evaluations a pass; three vectors of memory.

    Source:
        A. Cauchy 1847; the parabola through two values and a slope: J. Nocedal and S. Wright, Numerical
        Optimization, 2006, eq. 3.58.
    """
    none = jnp.zeros((), jnp.int32)

    def one(s: SteepestDescent) -> SteepestDescent:
        here = add_scaled(x, 1.0, s.step)
        gradient = jax.grad(loss)(here)
        size = norm(gradient)
        unit = scale(jnp.where(size > 0, -1 / jnp.where(size > 0, size, jnp.ones_like(size)), 0.0), gradient)
        slope = -size.astype(s.value.dtype)
        length, lowest, trials = line_search(
            lambda t: loss(add_scaled(here, t, unit)), s.value, slope, s.length
        )
        lower = lowest < s.value
        pays = s.value - lowest > PAYS * (before - s.value)
        return SteepestDescent(
            step=jax.tree.map(
                lambda new, kept: jnp.where(lower, new, kept), add_scaled(s.step, length, unit), s.step
            ),
            value=jnp.where(lower, lowest, s.value),
            length=jnp.where(lower, length, s.length),
            going=lower & pays,
            num_passes=s.num_passes + 1,
            num_evaluations=s.num_evaluations + trials,
        )

    start = SteepestDescent(step, value, norm(step).astype(value.dtype), going, none, none)
    return jax.lax.while_loop(lambda s: s.going & (s.num_passes < PASSES), one, start)


def line_search(
    loss: Callable[[jax.Array], jax.Array], before: jax.Array, slope: jax.Array, length: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Try a length, then the minimum of the parabola through it, and again where neither is lower.

    Returns:
        The best length, the loss there, and the number of evaluations.
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
