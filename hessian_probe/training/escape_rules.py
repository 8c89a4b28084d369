"""What becomes of the memory of `escape_saddles` after looks, escapes and returns; see `training.pacing`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.training import backoff
from hessian_probe.training.escape_state import Memory
from hessian_probe.training.options import Options
from hessian_probe.training.random_restart import DEGENERATE
from hessian_probe.training.saddle_search import Found, Look
from hessian_probe.training.traced_plateau import new_watch
from hessian_probe.training.trial_steps import DEFAULT


def now(state: Memory) -> jax.Array:
    """Return the number of updates, as a real number."""
    return state.num_steps.astype(state.pace.pause.dtype)


def stuck(state: Memory) -> jax.Array:
    """Whether the plateau test asks for a look, nothing waits, and no pause lasts."""
    free = now(state) >= jnp.maximum(state.pace.next_look, state.pace.hands_off)
    return backoff.asks(state.watch.stream.kind) & free & ~(state.expected > 0)


def after_progress(state: Memory, window: int) -> Memory:
    """Let pauses start anew once the loss has left the plateau of the latest look, and escapes stand."""
    pace = backoff.after_progress(jnp, state.pace, state.num_steps, state.watch.level, window)
    left = jnp.isfinite(state.pace.level) & ~jnp.isfinite(pace.level)
    return state._replace(pace=pace, last_ratio=_forgotten(state, left))


def _forgotten(state: Memory, where: jax.Array) -> jax.Array:
    """The last ratio, or NaN where the parameters are no longer where it was seen."""
    return jnp.where(where, jnp.full_like(state.last_ratio, jnp.nan), state.last_ratio)


def only_kicks(state: Memory, options: Options) -> jax.Array:
    """Whether products have shown, on this plateau, a loss that is flat along the lowest curvature."""
    return _flat(state, options) & jnp.isfinite(state.pace.level)


def _flat(state: Memory, options: Options) -> jax.Array:
    return (jnp.abs(state.last_ratio) <= DEGENERATE) & (options.strategy == DEFAULT)


def after_look(
    state: Memory, fruitless: jax.Array, found: Found, cost: jax.Array, look: Look, options: Options
) -> Memory:
    """Note what a look that found nothing has cost; one that the plateau test asked for makes it wait.

    It waits until the next one is within its share: a kick alone where the loss was found flat.

    Args:
        state: before.
        fruitless: whether nothing was found.
        found: what it saw.
        cost: of the look, in gradients.
        look: the loss here.
        options: of the hook.

    Returns:
        The state after it.
    """
    watch, dtype = state.watch, state.pace.wasted.dtype
    kick, deep = (
        jnp.asarray(look.price(options.strategy, options.num_products, *how), dtype)
        for how in ((False, True), (True, False))
    )
    pace = backoff.after_look(
        jnp,
        state.pace,
        state.num_steps,
        fruitless=fruitless,
        waits=stuck(state),
        hopeless=found.ratio > DEGENERATE,
        cost=cost,
        price=jnp.where(_flat(state, options), kick, deep),
        level=watch.level,
        scale=jnp.maximum(jnp.abs(watch.fall), watch.noise),
        max_share=options.max_share,
    )
    return state._replace(pace=pace)


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
    dtype, every = state.pace.pause.dtype, state.watch.waiting.shape[0]
    fresh = new_watch(window, every, dtype, gain)
    return state._replace(
        watch=jax.tree.map(lambda new, old: jnp.where(moved, new, old), fresh, state.watch),
        pace=backoff.after_escape(jnp, state.pace, state.num_steps, moved, value, gain, window),
        anchor=jax.tree.map(lambda new, old: jnp.where(moved, new, old), anchor, state.anchor),
        last_ratio=_forgotten(state, moved),
        num_escapes=state.num_escapes + moved.astype(jnp.int32),
        last_gain=jnp.where(moved, gain, state.last_gain),
    )


def after_return(state: Memory, back: Any, window: int) -> Memory:
    """Take the latest escape back by the step `back`, and keep the hands off for as long again."""
    dtype, every = state.pace.pause.dtype, state.watch.waiting.shape[0]
    return state._replace(
        pending=back,
        watch=new_watch(window, every, dtype),
        expected=jnp.zeros_like(state.expected),
        pace=backoff.after_return(jnp, state.pace, state.num_steps, window),
        last_ratio=jnp.full_like(state.last_ratio, jnp.nan),
        num_returns=state.num_returns + 1,
    )
