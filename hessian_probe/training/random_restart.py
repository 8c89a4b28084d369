"""Random restarts: a random displacement and a descent from it, for plateaus that derivatives do not show.

At a saddle where a deep network has learned some directions and not others, gradient and curvature along
those not learned are products of small weights, and lost in the rounding of those learned.  Where units of a
network are alike, each negative curvature breaks one symmetry of many, and the loss hardly falls along it.
Both end where all weights are displaced by as much as they are long: what was learned is recovered in a few
line searches, and what was not is visible then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Vector, add_scaled
from hessian_probe.training.descent import DescentLimits, descend

# Length of the displacement over that of the leaf. Line searches until the loss was below the saddle's,
# twelve restarts each: at the third saddle of six linear layers 9 to 24 with 1.0 (median 13), 7 to 25 with
# 1.4, 11 to 50 with 0.7, 10 to 37 with 2.0; at the first of the digits' symmetric start 4 to 9, 2, 1 with
# 0.5, 1.0 and 1.4.
DISPLACEMENT = 1.2
# No restart where even the lowest curvature seen is above this share of the highest: nothing is flat there.
FLAT_RATIO = 1e-3
# Line-search budgets: HOPE without an improvement, HOPE_BEYOND when negative curvature already found one,
# LONGEST in total.
HOPE = 24
HOPE_BEYOND = 8
LONGEST = 48
# A restart must gain BETTER times what as many line searches without a displacement gain (else the point lay
# in a slow valley), and what negative curvature gained.
BETTER = 2.0


class RestartResult(NamedTuple):
    """Where a random restart has led.

    Attributes:
        step: displacement.
        value: loss there.
        leaves: whether it gains enough, and more than the descent without a displacement.
        num_passes: line searches, each with one gradient.
        num_losses: losses.
    """

    step: Vector
    value: jax.Array
    leaves: jax.Array
    num_passes: jax.Array
    num_losses: jax.Array


def random_restart(
    loss: Callable[[Vector], jax.Array],
    x: Vector,
    before: jax.Array,
    displaced: Vector,
    enough: jax.Array,
    beyond: jax.Array,
    go: jax.Array,
) -> RestartResult:
    """Descend from a displaced point, and, if that ends low, from `x` itself for comparison.

    Args:
        loss: of variables.
        x: variables.
        before: loss there.
        displaced: displacement to begin with.
        enough: decrease that is required.
        beyond: decrease along negative curvature; 0 for none. BETTER times that is required.
        go: whether to do anything.

    Returns:
        Where it ended; of use only where it `leaves`.

    Cost:
        Two to four evaluations and one gradient a line search: HOPE of them without an improvement; else up
        to LONGEST, and as many for the comparison. Five vectors of memory.
    """
    none = jnp.zeros((), jnp.int32)
    still = jax.tree.map(jnp.zeros_like, x)
    enough = jnp.maximum(enough, BETTER * beyond)
    patience = jnp.where(beyond > 0, HOPE_BEYOND, HOPE)

    def attempt(number: jax.Array, held: RestartResult) -> RestartResult:
        # One loop for both, so that it is compiled once.
        first = number == 0
        start = jax.tree.map(lambda a: jnp.where(first, a, jnp.zeros_like(a)), displaced)
        gain = before - held.value
        floor = jnp.where(first, -jnp.inf, before - gain / BETTER)
        longest = jnp.where(first, LONGEST, held.num_passes)
        limits = DescentLimits(floor, before - beyond, patience, longest)
        value = loss(add_scaled(x, 1.0, start))
        value = jnp.where(jnp.isfinite(value), value, jnp.inf)
        end = descend(loss, x, before, start, value, held.leaves & jnp.isfinite(value), limits)
        own = before - end.value
        leaves = held.leaves & jnp.where(first, own > enough, own * BETTER < gain)
        return RestartResult(
            step=jax.tree.map(lambda new, kept: jnp.where(first, new, kept), end.step, held.step),
            value=jnp.where(first, end.value, held.value),
            leaves=leaves,
            num_passes=held.num_passes + end.num_passes,
            num_losses=held.num_losses + end.num_losses + held.leaves.astype(jnp.int32),
        )

    return jax.lax.fori_loop(0, 2, attempt, RestartResult(still, before, go, none, none))
