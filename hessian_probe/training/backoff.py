"""When to look again, go back, keep the hands off: rules that the monitor and the transformation share."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from hessian_probe.training.plateau_statistics import FLAT, OSCILLATING, SLOW

# A look that found nothing is followed by a pause of so many windows, and every further one multiplies the
# pause: by 2, and by 4 at a minimum, where there is nothing to wait for.
PAUSE = 2.0
BACKOFF = 2.0
BACKOFF_AT_MINIMUM = 4.0
# The share of gradients that looks may cost is kept from this many steps on: a few early looks are free, or
# one in vain would blind a hook for the whole of a short run. What was wasted is forgiven at an escape.
HORIZON = 10_000
# The same for looks that only the schedule asks for, unless the loss is noisy: with 10,000 they took 11 to
# 19 % of 2,000 healthy steps of a large network; with 3,000 no plateau of benchmarks/escape.py is left later.
EARLY_HORIZON = 3_000
# A product is about this many gradients (benchmarks/speed.py: 1.2 stored, 1.7 recomputed; up to 2 on the
# small networks of benchmarks/escape.py), a loss at most this many (0.2 to 0.4 there).
PRODUCT_COST = 1.7
EVALUATION_COST = 0.5
# The loss has left its plateau, and pauses start anew, when it is lower by this many times the larger of
# its noise and its fall over the window at the last look.
LEFT = 10.0
# Windows after which an escape stands. Where the step length was too long for where it led (deep linear
# networks of six layers, momentum), the loss rose above the saddle's sooner than that.
GUARD = 4


class BackoffState(NamedTuple):
    """What a hook remembers of its looks; numbers of NumPy or JAX.

    Attributes:
        pause: steps that the next look which finds nothing is followed by, at least.
        next_probe: update before which nothing is looked at.
        level: loss at the latest look that found nothing; NaN where there is none.
        scale: larger of the loss's noise and its fall over the window then.
        spent_without_result: gradients' worth of looks that brought nothing, since the latest escape.
        rollback_threshold: loss above which the latest escape is to be taken back; infinite where none is.
        cooldown_until: update before which nothing is looked at, since an escape was taken back.
        last_step: update of the latest escape or return; 0 before the first.
    """

    pause: Any
    next_probe: Any
    level: Any
    scale: Any
    spent_without_result: Any
    rollback_threshold: Any
    cooldown_until: Any
    last_step: Any


def new_backoff(xp: ModuleType, window: int, dtype: Any) -> BackoffState:
    """Start, before any look."""
    nan, endless = (xp.asarray(value, dtype) for value in (np.nan, np.inf))
    zero = xp.zeros((), dtype)
    start = xp.asarray(PAUSE * window, dtype)
    return BackoffState(start, zero, nan, zero, zero, endless, zero, xp.zeros((), np.int32))


def is_stalled(kind: Any) -> Any:
    """Whether a verdict of the plateau test asks for a look: no progress, or an oscillation that hides it."""
    # Optimisers that step by signs swing about a saddle for ever, as far as their rate allows.
    return (kind == FLAT) | (kind == SLOW) | (kind == OSCILLATING)


def recent_decrease(xp: ModuleType, kind: Any, fall: Any, noise: Any) -> Any:
    """What training brings within a window; at an oscillation also what single values swing by.

    Args:
        xp: `numpy` or `jax.numpy`.
        kind: verdict of the plateau test.
        fall: of the loss over the latest window.
        noise: standard deviation of single values in it.

    Returns:
        Scalar, at least 0.
    """
    return xp.maximum(xp.maximum(fall, 0.0), xp.where(kind == OSCILLATING, noise, 0.0 * noise))


def cost_in_gradients(num_hvps: Any, num_gradients: Any, num_evaluations: Any) -> Any:
    """Gradients that products, gradients and evaluations are worth."""
    return PRODUCT_COST * num_hvps + num_gradients + EVALUATION_COST * num_evaluations


def within_budget(
    xp: ModuleType, now: Any, state: BackoffState, price: Any, max_share: float, full: Any
) -> Any:
    """Whether looks that found nothing stay within their share, should this one find nothing too.

    Args:
        xp: `numpy` or `jax.numpy`.
        now: steps so far.
        state: what looks have cost in vain.
        price: of this one, in gradients.
        max_share: share of the run's gradients.
        full: whether HORIZON counts, or EARLY_HORIZON.

    Returns:
        Whether they do.
    """
    return state.spent_without_result + price <= max_share * (now + xp.where(full, HORIZON, EARLY_HORIZON))


def exceeds_threshold(state: Any, value: Any) -> Any:
    """Whether the loss is where the latest escape is to be taken back, or no number."""
    return (state.rollback_threshold < np.inf) & ~(value <= state.rollback_threshold)


def after_progress(xp: ModuleType, state: BackoffState, step: Any, level: Any, window: int) -> BackoffState:
    """Let pauses start anew once the loss has left the plateau of the latest look, and escapes stand.

    Args:
        xp: `numpy` or `jax.numpy`.
        state: before.
        step: number of updates.
        level: present loss, the median of a window.
        window: of the plateau test.

    Returns:
        The state after it.
    """
    left = state.level - level > LEFT * state.scale
    stands = step - state.last_step > GUARD * window
    return state._replace(
        rollback_threshold=xp.where(
            stands, xp.full_like(state.rollback_threshold, np.inf), state.rollback_threshold
        ),
        pause=xp.where(left, xp.full_like(state.pause, PAUSE * window), state.pause),
        level=xp.where(left, xp.full_like(state.level, np.nan), state.level),
    )


def after_probe(
    xp: ModuleType,
    state: BackoffState,
    step: Any,
    *,
    fruitless: Any,
    waits: Any,
    hopeless: Any,
    cost: Any,
    price: Any,
    level: Any,
    scale: Any,
    max_share: float,
) -> BackoffState:
    """Note what a look that found nothing has cost; one that the plateau test asked for makes it wait.

    It waits longer each time, and longest where there is nothing to wait for.

    Args:
        xp: `numpy` or `jax.numpy`.
        state: before.
        step: number of updates.
        fruitless: whether nothing was found.
        waits: whether the next look has to wait then.
        hopeless: whether there was no negative curvature either.
        cost: of the look, in gradients.
        price: of the next one at most.
        level: loss there, the median of a window.
        scale: larger of the loss's noise and its fall over the window.
        max_share: share of the run's gradients that looks in vain may cost.

    Returns:
        The state after it.
    """
    dtype = state.pause.dtype
    now = step.astype(dtype)
    spent_without_result = state.spent_without_result + xp.where(fruitless, cost, 0).astype(dtype)
    # The step at which the pause is over and the next look is within its share.
    next_probe = xp.maximum(now + state.pause, (spent_without_result + price) / max_share - HORIZON)
    longer = (next_probe - now) * xp.where(hopeless, BACKOFF_AT_MINIMUM, BACKOFF).astype(dtype)
    waits = fruitless & waits
    return state._replace(
        spent_without_result=spent_without_result,
        next_probe=xp.where(waits, next_probe, state.next_probe),
        pause=xp.where(waits, longer, state.pause),
        level=xp.where(waits, level, state.level),
        scale=xp.where(waits, scale, state.scale),
    )


def after_escape(
    xp: ModuleType, state: BackoffState, step: Any, moved: Any, value: Any, gain: Any, window: int
) -> BackoffState:
    """Forgive what was wasted, and say where to go back, if a step was taken.

    Args:
        xp: `numpy` or `jax.numpy`.
        state: before.
        step: number of updates.
        moved: whether a step was taken.
        value: loss before it.
        gain: what it brought.
        window: of the plateau test.

    Returns:
        The state after it.
    """
    # So far above the saddle no noise leads that did not hide the gain.
    rollback_threshold = xp.asarray(value + gain, state.rollback_threshold.dtype)
    return state._replace(
        pause=xp.where(moved, xp.full_like(state.pause, PAUSE * window), state.pause),
        level=xp.where(moved, xp.full_like(state.level, np.nan), state.level),
        spent_without_result=xp.where(
            moved, xp.zeros_like(state.spent_without_result), state.spent_without_result
        ),
        rollback_threshold=xp.where(moved, rollback_threshold, state.rollback_threshold),
        last_step=xp.where(moved, step, state.last_step),
    )


def after_rollback(xp: ModuleType, state: BackoffState, step: Any, window: int) -> BackoffState:
    """Keep the hands off for as long again as the run has lasted, since an escape was taken back."""
    now = step.astype(state.pause.dtype)
    return state._replace(
        level=xp.full_like(state.level, np.nan),
        rollback_threshold=xp.full_like(state.rollback_threshold, np.inf),
        cooldown_until=2 * now + GUARD * window,
        last_step=step,
    )
