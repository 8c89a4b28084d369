"""What `escape_saddles` remembers from step to step, and its bookkeeping."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.training.pacing import BACKOFF, BACKOFF_AT_MINIMUM, LEFT, PAUSE, PRODUCT_COST, earliest
from hessian_probe.training.stream import FLAT, SLOW
from hessian_probe.training.watch import Watch, new_watch


class EscapeState(NamedTuple):
    """State of `escape_saddles`.

    Attributes:
        inner: state of the optimiser inside.
        watch: what the plateau test remembers; `watch.stream.kind` is its verdict, an index into
            "none", "flat", "slow", "oscillating", "diverging", "noisy".
        pending: step that the latest look found, taken already or waiting to be confirmed.
        expected: what it brought on its own batch; 0 where nothing waits.
        pause: steps that the next look which finds nothing is followed by, at least.
        next_look: update before which nothing is looked at.
        level: loss at the latest look that found nothing; NaN where there is none.
        scale: larger of the loss's noise and its fall over the window then.
        num_steps: updates.
        num_probes: looks taken.
        num_escapes: steps off saddles that were accepted.
        num_hvps: Hessian-vector products spent.
        num_evaluations: losses and gradients evaluated beside the optimiser's.
        last_curvature: lowest curvature of the latest look; NaN before the first.
        last_gain: what the latest accepted escape brought on its own batch.
        last_step: update at which it was accepted; 0 before the first.
    """

    inner: Any
    watch: Watch
    pending: Any
    expected: jax.Array
    pause: jax.Array
    next_look: jax.Array
    level: jax.Array
    scale: jax.Array
    num_steps: jax.Array
    num_probes: jax.Array
    num_escapes: jax.Array
    num_hvps: jax.Array
    num_evaluations: jax.Array
    last_curvature: jax.Array
    last_gain: jax.Array
    last_step: jax.Array


def new_state(inner: Any, pending: Any, window: int, every: int, dtype: Any) -> EscapeState:
    """Start, with an optimiser's state and room for a step."""

    def whole() -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def real(value: float) -> jax.Array:
        return jnp.asarray(value, dtype)

    return EscapeState(
        inner=inner,
        watch=new_watch(window, every, dtype),
        pending=pending,
        expected=real(0.0),
        pause=real(PAUSE * window),
        next_look=real(0.0),
        level=real(np.nan),
        scale=real(0.0),
        num_steps=whole(),
        num_probes=whole(),
        num_escapes=whole(),
        num_hvps=whole(),
        num_evaluations=whole(),
        last_curvature=real(np.nan),
        last_gain=real(0.0),
        last_step=whole(),
    )


def now(state: EscapeState) -> jax.Array:
    """Return the number of updates, as a real number."""
    return state.num_steps.astype(state.pause.dtype)


def due(state: EscapeState) -> jax.Array:
    """Whether the loss is flat or slow, nothing waits, and no pause lasts."""
    kind = state.watch.stream.kind
    return ((kind == FLAT) | (kind == SLOW)) & (now(state) >= state.next_look) & ~(state.expected > 0)


def after_progress(state: EscapeState, window: int) -> EscapeState:
    """Let pauses start anew once the loss has left the plateau of the latest look."""
    left = state.level - state.watch.level > LEFT * state.scale
    return state._replace(
        pause=jnp.where(left, jnp.full_like(state.pause, PAUSE * window), state.pause),
        level=jnp.where(left, jnp.full_like(state.level, np.nan), state.level),
    )


def after_look(
    state: EscapeState, fruitless: jax.Array, negative: jax.Array, price: float, max_share: float
) -> EscapeState:
    """After a look that found nothing, wait; longer each time, and longest without negative curvature."""
    dtype = state.pause.dtype
    spent = PRODUCT_COST * state.num_hvps.astype(dtype) + state.num_evaluations.astype(dtype)
    next_look = earliest(now(state), state.pause, spent, price, max_share, jnp.maximum)
    longer = (next_look - now(state)) * jnp.where(negative, BACKOFF, BACKOFF_AT_MINIMUM).astype(dtype)
    watch = state.watch
    return state._replace(
        next_look=jnp.where(fruitless, next_look, state.next_look),
        pause=jnp.where(fruitless, longer, state.pause),
        level=jnp.where(fruitless, watch.level, state.level),
        scale=jnp.where(fruitless, jnp.maximum(jnp.abs(watch.fall), watch.noise), state.scale),
    )


def after_escape(state: EscapeState, moved: jax.Array, gain: jax.Array, window: int) -> EscapeState:
    """Start to watch anew where a step was taken, and count it."""
    dtype, every = state.pause.dtype, state.watch.waiting.shape[0]
    fresh = new_watch(window, every, dtype, gain)
    return state._replace(
        watch=jax.tree.map(lambda new, old: jnp.where(moved, new, old), fresh, state.watch),
        pause=jnp.where(moved, jnp.asarray(PAUSE * window, dtype), state.pause),
        level=jnp.where(moved, jnp.full_like(state.level, np.nan), state.level),
        num_escapes=state.num_escapes + moved.astype(jnp.int32),
        last_gain=jnp.where(moved, gain, state.last_gain),
        last_step=jnp.where(moved, state.num_steps, state.last_step),
    )
