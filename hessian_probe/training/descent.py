"""Descent by line searches inside compiled code: along the gradient, or along conjugate directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Vector, add_scaled, dot, norm, scale

# Line searches of a steepest descent at most, and the share of the decrease so far that each must make up, or
# it is the last: behind a saddle up to a dozen do, near the next saddle none does.
PASSES = 16
PAYS = 0.02
# A line search by parabolas tries two lengths, and up to two more while none lowers the loss; each is at most
# LONGER times the one before, and at least 1/SHORTER of it.
TRIALS = 2
MORE_TRIALS = 4
LONGER = 2.0
SHORTER = 16.0


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


class DescentLimits(NamedTuple):
    """When a descent ends, beside the first line search in vain along the gradient.

    Attributes:
        floor: it ends at or below this loss.
        target: after `patience` line searches it goes on only while the loss is below this and each line
            search makes up PAYS of the decrease so far.
        patience: line searches.
        longest: line searches at most.
    """

    floor: jax.Array | float
    target: jax.Array | float
    patience: jax.Array | int
    longest: jax.Array | int


class DescentState(NamedTuple):
    """What a descent has reached.

    Attributes:
        step: displacement from where it began.
        value: loss there.
        length: length of the latest step.
        gradient: of the latest line search; empty for steepest descent.
        direction: of the latest line search; empty for steepest descent.
        going: whether another line search follows.
        num_passes: line searches, each with one gradient.
        num_losses: losses.
    """

    step: Vector
    value: jax.Array
    length: jax.Array
    gradient: Vector
    direction: Vector
    going: jax.Array
    num_passes: jax.Array
    num_losses: jax.Array


def descend(
    loss: Callable[[Vector], jax.Array],
    x: Vector,
    before: jax.Array,
    step: Vector,
    value: jax.Array,
    going: jax.Array,
    limits: DescentLimits | None = None,
) -> DescentState:
    """Continue downhill by line searches: by steepest descent, or within limits along conjugate directions.

    Conjugate directions reach as low but end where the loss is up to four times as sharp (deep linear
    networks of five and six layers: curvature 85 to 170 where steepest descent finds 25 to 50), and
    training that was stable before may not be stable there.

    Args:
        loss: of variables.
        x: variables where the first step began.
        before: loss there.
        step: displacement so far.
        value: loss there.
        going: whether to descend at all.
        limits: of a descent along conjugate directions, whose first step has 1/SHORTER of the length of `x`;
            None for steepest descent while it pays, for at most PASSES line searches.

    Returns:
        Where it ended; never higher than `value`.

    Cost:
        One gradient and two to four evaluations a line search; three vectors of memory, with conjugate
        directions five.

    Source:
        Steepest descent: A. Cauchy 1847.  Conjugate directions: E. Polak and G. Ribière 1969; restarts where
        the factor is negative: J. Nocedal and S. Wright, Numerical Optimization, 2006, eq. 5.45.
    """
    # A zero vector for conjugate directions, and empty without them.
    memory = () if limits is None else jax.tree.map(jnp.zeros_like, x)
    length = norm(step) if limits is None else norm(x) / SHORTER
    while_it_pays = DescentLimits(-jnp.inf, jnp.inf, 0, PASSES)
    limits = while_it_pays if limits is None else limits

    def one(s: DescentState) -> DescentState:
        here = add_scaled(x, 1.0, s.step)
        gradient = jax.grad(loss)(here)
        direction = _direction(gradient, s) if memory else scale(-1.0, gradient)
        size = norm(direction)
        unit = scale(1 / jnp.where(size > 0, size, jnp.ones_like(size)), direction)
        slope = (dot(gradient, unit) if memory else -size).astype(s.value.dtype)
        length, lowest, trials = line_search(
            lambda t: loss(add_scaled(here, t, unit)), s.value, slope, s.length
        )
        lower = lowest < s.value
        value, passes = jnp.where(lower, lowest, s.value), s.num_passes + 1
        # As measured: with conjugate directions the decrease so far includes this line search.
        so_far = before - (value if memory else s.value)
        pays = s.value - value > PAYS * so_far
        # A line search in vain along a conjugate direction is followed by one along the gradient.
        again = lower | (norm(s.direction) > 0) if memory else lower
        return DescentState(
            step=jax.tree.map(
                lambda new, old: jnp.where(lower, new, old), add_scaled(s.step, length, unit), s.step
            ),
            value=value,
            length=jnp.where(lower, length, s.length / SHORTER),
            gradient=gradient if memory else (),
            direction=jax.tree.map(lambda d: jnp.where(lower, d, 0 * d), direction) if memory else (),
            going=again
            & ((passes < limits.patience) | (pays & (value < limits.target)))
            & (value > limits.floor),
            num_passes=passes,
            num_losses=s.num_losses + trials,
        )

    none = jnp.zeros((), jnp.int32)
    first = DescentState(step, value, length.astype(value.dtype), memory, memory, going, none, none)
    return jax.lax.while_loop(lambda s: s.going & (s.num_passes < limits.longest), one, first)


def _direction(gradient: Vector, s: DescentState) -> Vector:
    """Polak–Ribière direction; the negative gradient where that does not lead downhill."""
    old = dot(s.gradient, s.gradient)
    factor = dot(gradient, add_scaled(gradient, -1.0, s.gradient)) / jnp.where(old > 0, old, 1.0)
    direction = add_scaled(scale(-1.0, gradient), jnp.maximum(factor, 0.0), s.direction)
    downhill = dot(gradient, direction) < 0
    return jax.tree.map(lambda d, g: jnp.where(downhill, d, -g), direction, gradient)
