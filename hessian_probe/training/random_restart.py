"""Kicks: a random displacement and a way down from it, for plateaus that derivatives do not show.

At a saddle where a deep network has learned some directions and not others, gradient and curvature along
those not learned are products of small weights, and lost in the rounding of those learned.  Where units of a
network are alike, each negative curvature breaks one symmetry of many, and the loss hardly falls along it.
Both end where all weights are displaced by as much as they are long: what was learned comes back in a few
line searches, and what was not is visible then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Vector, add_scaled, dot, norm, scale
from hessian_probe.training.descent import PAYS, SHORTER, line_search

# Length of a kick over that of the leaf. Line searches until the loss was below the saddle's, twelve kicks
# each: at the third saddle of six linear layers 9 to 24 with 1.0 (median 13), 7 to 25 with 1.4, 11 to 50 with
# 0.7, 10 to 37 with 2.0; at the first of the digits' symmetric start 4 to 9, 2, 1 with 0.5, 1.0 and 1.4.
DISPLACEMENT = 1.2
# No kick where even the lowest curvature seen is above this share of the highest: nothing is flat there.
DEGENERATE = 1e-3
# So many line searches may pass until it is; as many until it is below where negative curvature has led; and
# at most.
HOPE = 24
HOPE_BEYOND = 8
LONGEST = 48
# A kick must bring so many times what as many line searches bring without one: else it was a slow valley.
BETTER = 2.0


class RestartResult(NamedTuple):
    """Where a kick has led.

    Attributes:
        step: displacement.
        value: loss there.
        leaves: whether it brings enough, and more than the way down without it.
        num_passes: line searches, each with one gradient.
        num_evaluations: losses.
    """

    step: Vector
    value: jax.Array
    leaves: jax.Array
    num_passes: jax.Array
    num_evaluations: jax.Array


class _StopRule(NamedTuple):
    """Loss at which to stop; loss that `hope` line searches must lead below; and line searches at most."""

    floor: jax.Array
    wanted: jax.Array
    hope: jax.Array
    most: jax.Array


class _ConjugateDescent(NamedTuple):
    step: Vector
    value: jax.Array
    length: jax.Array
    gradient: Vector
    direction: Vector
    going: jax.Array
    num_passes: jax.Array
    num_evaluations: jax.Array


def random_restart(
    loss: Callable[[Vector], jax.Array],
    x: Vector,
    before: jax.Array,
    displaced: Vector,
    enough: jax.Array,
    beyond: jax.Array,
    go: jax.Array,
) -> RestartResult:
    """Go down from a displaced point, and, if that ends low, from `x` itself for comparison.

    Args:
        loss: of variables.
        x: variables.
        before: loss there.
        displaced: displacement to begin with.
        enough: what must be brought.
        beyond: what another way brings; 0 for none. It must bring BETTER times that.
        go: whether to do anything.

    Returns:
        Where it ended; of use only where it `leaves`.

    Cost:
        Two to four evaluations and one gradient a line search, HOPE of them in vain; else up to LONGEST, and
        as many for the comparison. Four vectors of memory.
    """
    none = jnp.zeros((), jnp.int32)
    still = jax.tree.map(jnp.zeros_like, x)
    enough = jnp.maximum(enough, BETTER * beyond)
    hope = jnp.where(beyond > 0, HOPE_BEYOND, HOPE)

    def attempt(number: jax.Array, held: RestartResult) -> RestartResult:
        # One loop for both, so that it is compiled once.
        first = number == 0
        start = jax.tree.map(lambda a: jnp.where(first, a, jnp.zeros_like(a)), displaced)
        gain = before - held.value
        floor = jnp.where(first, -jnp.inf, before - gain / BETTER)
        most = jnp.where(first, LONGEST, held.num_passes)
        bounds = _StopRule(floor, before - beyond, hope, most)
        end = _down(loss, x, before, start, bounds, held.leaves)
        own = before - end.value
        leaves = held.leaves & jnp.where(first, own > enough, own * BETTER < gain)
        return RestartResult(
            step=jax.tree.map(lambda new, kept: jnp.where(first, new, kept), end.step, held.step),
            value=jnp.where(first, end.value, held.value),
            leaves=leaves,
            num_passes=held.num_passes + end.num_passes,
            num_evaluations=held.num_evaluations + end.num_evaluations,
        )

    return jax.lax.fori_loop(0, 2, attempt, RestartResult(still, before, go, none, none))


def _down(
    loss: Callable[[Vector], jax.Array],
    x: Vector,
    before: jax.Array,
    start: Vector,
    bounds: _StopRule,
    go: jax.Array,
) -> _ConjugateDescent:
    """Descend along conjugate directions, while there is hope and it pays.

    Args:
        loss: of variables.
        x: variables.
        before: loss there.
        start: displacement to begin with.
        bounds: where to stop.
        go: whether to descend at all.

    Returns:
        The end.

    Source:
        E. Polak and G. Ribière 1969; restarts where the factor is negative: J. Nocedal and S. Wright,
        Numerical Optimization, 2006, eq. 5.45.
    """

    def one(s: _ConjugateDescent) -> _ConjugateDescent:
        here = add_scaled(x, 1.0, s.step)
        gradient = jax.grad(loss)(here)
        old = dot(s.gradient, s.gradient)
        factor = dot(gradient, add_scaled(gradient, -1.0, s.gradient)) / jnp.where(old > 0, old, 1.0)
        direction = add_scaled(scale(-1.0, gradient), jnp.maximum(factor, 0.0), s.direction)
        downhill = dot(gradient, direction) < 0
        direction = jax.tree.map(lambda d, g: jnp.where(downhill, d, -g), direction, gradient)
        size = norm(direction)
        unit = scale(1 / jnp.where(size > 0, size, 1.0), direction)
        slope = dot(gradient, unit).astype(s.value.dtype)
        length, lowest, trials = line_search(
            lambda t: loss(add_scaled(here, t, unit)), s.value, slope, s.length
        )
        lower = lowest < s.value
        value = jnp.where(lower, lowest, s.value)
        passes = s.num_passes + 1
        pays = s.value - value > PAYS * (before - value)
        return _ConjugateDescent(
            step=jax.tree.map(
                lambda new, kept: jnp.where(lower, new, kept), add_scaled(s.step, length, unit), s.step
            ),
            value=value,
            length=jnp.where(lower, length, s.length / SHORTER),
            gradient=gradient,
            direction=jax.tree.map(lambda d: jnp.where(lower, d, 0 * d), direction),
            # A search in vain is followed by one along the gradient alone.
            going=(lower | (norm(s.direction) > 0))
            & ((passes < bounds.hope) | (pays & (value < bounds.wanted)))
            & (value > bounds.floor),
            num_passes=passes,
            num_evaluations=s.num_evaluations + trials,
        )

    value = loss(add_scaled(x, 1.0, start))
    value = jnp.where(jnp.isfinite(value), value, jnp.inf)
    still, none = jax.tree.map(jnp.zeros_like, x), jnp.zeros((), jnp.int32)
    length = norm(x).astype(value.dtype) / SHORTER
    one_loss = go.astype(jnp.int32)
    first = _ConjugateDescent(start, value, length, still, still, go & jnp.isfinite(value), none, one_loss)
    return jax.lax.while_loop(lambda s: s.going & (s.num_passes < bounds.most), one, first)
