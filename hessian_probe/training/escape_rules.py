"""What becomes of the memory of `escape_saddles` after looks, escapes and returns; see `training.pacing`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.training import backoff
from hessian_probe.training.escape_state import HookState
from hessian_probe.training.options import HookOptions
from hessian_probe.training.random_restart import DEGENERATE
from hessian_probe.training.saddle_search import LocalLoss, SearchResult
from hessian_probe.training.traced_plateau import new_plateau
from hessian_probe.training.trial_steps import DEFAULT


def now(state: HookState) -> jax.Array:
    """Return the number of updates, as a real number."""
    return state.num_steps.astype(state.backoff.pause.dtype)


def stalled(state: HookState) -> jax.Array:
    """Whether the plateau test asks for a look, nothing waits, and no pause lasts."""
    free = now(state) >= jnp.maximum(state.backoff.next_probe, state.backoff.cooldown_until)
    return backoff.is_stalled(state.plateau.statistics.kind) & free & ~(state.pending_gain > 0)


def after_progress(state: HookState, window: int) -> HookState:
    """Let pauses start anew once the loss has left the plateau of the latest look, and escapes stand."""
    new = backoff.after_progress(jnp, state.backoff, state.num_steps, state.plateau.level, window)
    left = jnp.isfinite(state.backoff.level) & ~jnp.isfinite(new.level)
    return state._replace(backoff=new, last_ratio=_forgotten(state, left))


def _forgotten(state: HookState, where: jax.Array) -> jax.Array:
    """The last ratio, or NaN where the parameters are no longer where it was seen."""
    return jnp.where(where, jnp.full_like(state.last_ratio, jnp.nan), state.last_ratio)


def only_restarts(state: HookState, options: HookOptions) -> jax.Array:
    """Whether products have shown, on this plateau, a loss that is flat along the lowest curvature."""
    return _flat(state, options) & jnp.isfinite(state.backoff.level)


def _flat(state: HookState, options: HookOptions) -> jax.Array:
    return (jnp.abs(state.last_ratio) <= DEGENERATE) & (options.strategy == DEFAULT)


def after_probe(
    state: HookState,
    fruitless: jax.Array,
    found: SearchResult,
    cost: jax.Array,
    local: LocalLoss,
    options: HookOptions,
) -> HookState:
    """Note what a look that found nothing has cost; one that the plateau test asked for makes it wait.

    It waits until the next one is within its share: a kick alone where the loss was found flat.

    Args:
        state: before.
        fruitless: whether nothing was found.
        found: what it saw.
        cost: of the look, in gradients.
        local: the loss here.
        options: of the hook.

    Returns:
        The state after it.
    """
    plateau, dtype = state.plateau, state.backoff.spent_without_result.dtype
    restart, with_products = (
        jnp.asarray(local.price(options.strategy, options.num_products, *how), dtype)
        for how in ((False, True), (True, False))
    )
    new = backoff.after_probe(
        jnp,
        state.backoff,
        state.num_steps,
        fruitless=fruitless,
        waits=stalled(state),
        hopeless=found.ratio > DEGENERATE,
        cost=cost,
        price=jnp.where(_flat(state, options), restart, with_products),
        level=plateau.level,
        scale=jnp.maximum(jnp.abs(plateau.fall), plateau.noise),
        max_share=options.max_share,
    )
    return state._replace(backoff=new)


def after_escape(
    state: HookState, moved: jax.Array, gain: jax.Array, window: int, rollback_params: Any, value: jax.Array
) -> HookState:
    """Start to watch anew where a step was taken, count it, and keep the way back.

    Args:
        state: before.
        moved: whether a step was taken.
        gain: what it brought.
        window: of the plateau test.
        rollback_params: variables before it.
        value: loss there.

    Returns:
        The state after it.
    """
    dtype, every = state.backoff.pause.dtype, state.plateau.waiting.shape[0]
    fresh = new_plateau(window, every, dtype, gain)
    return state._replace(
        plateau=jax.tree.map(lambda new, old: jnp.where(moved, new, old), fresh, state.plateau),
        backoff=backoff.after_escape(jnp, state.backoff, state.num_steps, moved, value, gain, window),
        rollback_params=jax.tree.map(
            lambda new, old: jnp.where(moved, new, old), rollback_params, state.rollback_params
        ),
        last_ratio=_forgotten(state, moved),
        num_escapes=state.num_escapes + moved.astype(jnp.int32),
        last_gain=jnp.where(moved, gain, state.last_gain),
    )


def after_rollback(state: HookState, back: Any, window: int) -> HookState:
    """Take the latest escape back by the step `back`, and keep the hands off for as long again."""
    dtype, every = state.backoff.pause.dtype, state.plateau.waiting.shape[0]
    return state._replace(
        pending=back,
        plateau=new_plateau(window, every, dtype),
        pending_gain=jnp.zeros_like(state.pending_gain),
        backoff=backoff.after_rollback(jnp, state.backoff, state.num_steps, window),
        last_ratio=jnp.full_like(state.last_ratio, jnp.nan),
        num_rollbacks=state.num_rollbacks + 1,
    )
