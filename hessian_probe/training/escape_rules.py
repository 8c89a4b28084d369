"""What gates a search of `escape_saddles`, and what searches, escapes and rollbacks change in its state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.training import backoff
from hessian_probe.training.escape_state import HookState
from hessian_probe.training.random_restart import FLAT_RATIO
from hessian_probe.training.saddle_search import SearchResult
from hessian_probe.training.traced_plateau import new_plateau


def now(state: HookState) -> jax.Array:
    """Return the number of updates, as a real number."""
    return state.num_steps.astype(state.backoff.pause.dtype)


def stalled(state: HookState) -> jax.Array:
    """Whether the plateau test asks for a search, no step waits, and no pause or cooldown lasts."""
    free = now(state) >= jnp.maximum(state.backoff.next_probe, state.backoff.cooldown_until)
    return backoff.is_stalled(state.plateau.statistics.kind) & free & ~(state.pending_gain > 0)


def after_progress(state: HookState, window: int) -> HookState:
    """End the backoff once the loss has left the plateau of the latest search, and let old escapes stand."""
    new = backoff.after_progress(jnp, state.backoff, state.num_steps, state.plateau.level, window)
    left = jnp.isfinite(state.backoff.level) & ~jnp.isfinite(new.level)
    return state._replace(backoff=new, last_ratio=_forgotten(state, left))


def _forgotten(state: HookState, where: jax.Array) -> jax.Array:
    """The last ratio, or NaN where the parameters are no longer where it was seen."""
    return jnp.where(where, jnp.full_like(state.last_ratio, jnp.nan), state.last_ratio)


def flat(state: HookState) -> jax.Array:
    """Whether the lowest curvature here is next to nothing beside the highest."""
    return jnp.abs(state.last_ratio) <= FLAT_RATIO


def after_probe(
    state: HookState,
    fruitless: jax.Array,
    found: SearchResult,
    cost: jax.Array,
    price: jax.Array,
    max_share: float,
) -> HookState:
    """Add the cost of a search that found nothing; one that the plateau test asked for starts a pause.

    The pause lasts until the next search is within its share.

    Args:
        state: before.
        fruitless: whether nothing was found.
        found: what was seen.
        cost: of the search, in gradients.
        price: of the next one at most, in gradients.
        max_share: share of the run's gradients that searches without a result may cost.

    Returns:
        The state after it.
    """
    plateau = state.plateau
    new = backoff.after_probe(
        jnp,
        state.backoff,
        state.num_steps,
        fruitless=fruitless,
        waits=stalled(state),
        hopeless=found.ratio > FLAT_RATIO,
        cost=cost,
        price=price,
        level=plateau.level,
        scale=jnp.maximum(jnp.abs(plateau.fall), plateau.noise),
        max_share=max_share,
    )
    return state._replace(backoff=new)


def after_escape(
    state: HookState, moved: jax.Array, gain: jax.Array, window: int, rollback_params: Any, value: jax.Array
) -> HookState:
    """Where a step was taken, start the plateau test again, count the escape, and keep what a rollback needs.

    Args:
        state: before.
        moved: whether a step was taken.
        gain: its decrease of the loss.
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
    """Take the latest escape back by the step `back`, and start a cooldown as long as the run so far."""
    dtype, every = state.backoff.pause.dtype, state.plateau.waiting.shape[0]
    return state._replace(
        pending=back,
        plateau=new_plateau(window, every, dtype),
        pending_gain=jnp.zeros_like(state.pending_gain),
        backoff=backoff.after_rollback(jnp, state.backoff, state.num_steps, window),
        last_ratio=jnp.full_like(state.last_ratio, jnp.nan),
        num_rollbacks=state.num_rollbacks + 1,
    )
