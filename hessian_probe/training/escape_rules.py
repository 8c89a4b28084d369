"""What becomes of the memory of `escape_saddles` after looks, escapes and returns."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.training.escape_state import Memory
from hessian_probe.training.pacing import BACKOFF, BACKOFF_AT_MINIMUM, LEFT, PAUSE, earliest
from hessian_probe.training.stream import FLAT, SLOW
from hessian_probe.training.watch import new_watch

# Windows after which an escape stands. Where the step length was too long for where it led (deep linear
# networks of six layers, momentum), the loss rose above the saddle's sooner than that.
GUARD = 4


def now(state: Memory) -> jax.Array:
    """Return the number of updates, as a real number."""
    return state.num_steps.astype(state.pause.dtype)


def stuck(state: Memory) -> jax.Array:
    """Whether the loss is flat or slow, nothing waits, and no pause lasts."""
    kind = state.watch.stream.kind
    free = (now(state) >= jnp.maximum(state.next_look, state.hands_off)) & ~(state.expected > 0)
    return ((kind == FLAT) | (kind == SLOW)) & free


def after_progress(state: Memory, window: int) -> Memory:
    """Let pauses start anew once the loss has left the plateau of the latest look, and escapes stand."""
    left = state.level - state.watch.level > LEFT * state.scale
    stands = state.num_steps - state.last_step > GUARD * window
    return state._replace(
        ceiling=jnp.where(stands, jnp.full_like(state.ceiling, np.inf), state.ceiling),
        pause=jnp.where(left, jnp.full_like(state.pause, PAUSE * window), state.pause),
        level=jnp.where(left, jnp.full_like(state.level, np.nan), state.level),
    )


def after_look(
    state: Memory,
    fruitless: jax.Array,
    negative: jax.Array,
    cost: jax.Array,
    price: float,
    max_share: float,
) -> Memory:
    """Note what a look that found nothing has cost; one that the plateau test asked for makes it wait.

    It waits longer each time, and longest without negative curvature.

    Args:
        state: before.
        fruitless: whether nothing was found.
        negative: whether there was negative curvature.
        cost: of the look, in gradients.
        price: of the next one at most.
        max_share: share of the run's gradients that looks in vain may cost.

    Returns:
        The state after it.
    """
    dtype = state.pause.dtype
    wasted = state.wasted + jnp.where(fruitless, cost, 0).astype(dtype)
    next_look = earliest(now(state), state.pause, wasted, price, max_share, jnp.maximum)
    longer = (next_look - now(state)) * jnp.where(negative, BACKOFF, BACKOFF_AT_MINIMUM).astype(dtype)
    watch = state.watch
    waits = fruitless & stuck(state)
    return state._replace(
        wasted=wasted,
        next_look=jnp.where(waits, next_look, state.next_look),
        pause=jnp.where(waits, longer, state.pause),
        level=jnp.where(waits, watch.level, state.level),
        scale=jnp.where(waits, jnp.maximum(jnp.abs(watch.fall), watch.noise), state.scale),
    )


def after_escape(
    state: Memory, moved: jax.Array, gain: jax.Array, window: int, anchor: Any, value: jax.Array
) -> Memory:
    """Start to watch anew where a step was taken, count it, and keep the way back.

    Args:
        state: before.
        moved: whether a step was taken.
        gain: what it brought.
        window: of the plateau test.
        anchor: variables before it.
        value: loss there.

    Returns:
        The state after it.
    """
    # So far above the saddle no noise leads that did not hide the gain.
    ceiling = (value + gain).astype(state.ceiling.dtype)
    dtype, every = state.pause.dtype, state.watch.waiting.shape[0]
    fresh = new_watch(window, every, dtype, gain)
    return state._replace(
        watch=jax.tree.map(lambda new, old: jnp.where(moved, new, old), fresh, state.watch),
        pause=jnp.where(moved, jnp.asarray(PAUSE * window, dtype), state.pause),
        level=jnp.where(moved, jnp.full_like(state.level, np.nan), state.level),
        wasted=jnp.where(moved, jnp.zeros_like(state.wasted), state.wasted),
        anchor=jax.tree.map(lambda new, old: jnp.where(moved, new, old), anchor, state.anchor),
        ceiling=jnp.where(moved, ceiling, state.ceiling),
        num_escapes=state.num_escapes + moved.astype(jnp.int32),
        last_gain=jnp.where(moved, gain, state.last_gain),
        last_step=jnp.where(moved, state.num_steps, state.last_step),
    )


def after_return(state: Memory, back: Any, window: int) -> Memory:
    """Take the latest escape back by the step `back`, and keep the hands off for as long again."""
    dtype, every = state.pause.dtype, state.watch.waiting.shape[0]
    return state._replace(
        pending=back,
        watch=new_watch(window, every, dtype),
        expected=jnp.zeros_like(state.expected),
        level=jnp.full_like(state.level, np.nan),
        ceiling=jnp.full_like(state.ceiling, np.inf),
        hands_off=2 * now(state) + GUARD * window,
        num_returns=state.num_returns + 1,
        last_step=state.num_steps,
    )
