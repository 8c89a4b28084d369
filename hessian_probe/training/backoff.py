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


class Pace(NamedTuple):
    """What a hook remembers of its looks; numbers of NumPy or JAX.

    Attributes:
        pause: steps that the next look which finds nothing is followed by, at least.
        next_look: update before which nothing is looked at.
        level: loss at the latest look that found nothing; NaN where there is none.
        scale: larger of the loss's noise and its fall over the window then.
        wasted: gradients' worth of looks that brought nothing, since the latest escape.
        ceiling: loss above which the latest escape is to be taken back; infinite where none is.
        hands_off: update before which nothing is looked at, since an escape was taken back.
        last_step: update of the latest escape or return; 0 before the first.
    """

    pause: Any
    next_look: Any
    level: Any
    scale: Any
    wasted: Any
    ceiling: Any
    hands_off: Any
    last_step: Any


def new_pace(xp: ModuleType, window: int, dtype: Any) -> Pace:
    """Start, before any look."""
    nan, endless = (xp.asarray(value, dtype) for value in (np.nan, np.inf))
    zero = xp.zeros((), dtype)
    start = xp.asarray(PAUSE * window, dtype)
    return Pace(start, zero, nan, zero, zero, endless, zero, xp.zeros((), np.int32))


def asks(kind: Any) -> Any:
    """Whether a verdict of the plateau test asks for a look: no progress, or an oscillation that hides it."""
    # Optimisers that step by signs swing about a saddle for ever, as far as their rate allows.
    return (kind == FLAT) | (kind == SLOW) | (kind == OSCILLATING)


def expected(xp: ModuleType, kind: Any, fall: Any, noise: Any) -> Any:
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


def worth(num_hvps: Any, num_gradients: Any, num_evaluations: Any) -> Any:
    """Gradients that products, gradients and evaluations are worth."""
    return PRODUCT_COST * num_hvps + num_gradients + EVALUATION_COST * num_evaluations


def affordable(xp: ModuleType, now: Any, pace: Pace, price: Any, max_share: float, full: Any) -> Any:
    """Whether looks that found nothing stay within their share, should this one find nothing too.

    Args:
        xp: `numpy` or `jax.numpy`.
        now: steps so far.
        pace: what looks have cost in vain.
        price: of this one, in gradients.
        max_share: share of the run's gradients.
        full: whether HORIZON counts, or EARLY_HORIZON.

    Returns:
        Whether they do.
    """
    return pace.wasted + price <= max_share * (now + xp.where(full, HORIZON, EARLY_HORIZON))


def above(pace: Any, value: Any) -> Any:
    """Whether the loss is where the latest escape is to be taken back, or no number."""
    return (pace.ceiling < np.inf) & ~(value <= pace.ceiling)


def after_progress(xp: ModuleType, pace: Pace, step: Any, level: Any, window: int) -> Pace:
    """Let pauses start anew once the loss has left the plateau of the latest look, and escapes stand.

    Args:
        xp: `numpy` or `jax.numpy`.
        pace: before.
        step: number of updates.
        level: present loss, the median of a window.
        window: of the plateau test.

    Returns:
        The pace after it.
    """
    left = pace.level - level > LEFT * pace.scale
    stands = step - pace.last_step > GUARD * window
    return pace._replace(
        ceiling=xp.where(stands, xp.full_like(pace.ceiling, np.inf), pace.ceiling),
        pause=xp.where(left, xp.full_like(pace.pause, PAUSE * window), pace.pause),
        level=xp.where(left, xp.full_like(pace.level, np.nan), pace.level),
    )


def after_look(
    xp: ModuleType,
    pace: Pace,
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
) -> Pace:
    """Note what a look that found nothing has cost; one that the plateau test asked for makes it wait.

    It waits longer each time, and longest where there is nothing to wait for.

    Args:
        xp: `numpy` or `jax.numpy`.
        pace: before.
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
        The pace after it.
    """
    dtype = pace.pause.dtype
    now = step.astype(dtype)
    wasted = pace.wasted + xp.where(fruitless, cost, 0).astype(dtype)
    # The step at which the pause is over and the next look is within its share.
    next_look = xp.maximum(now + pace.pause, (wasted + price) / max_share - HORIZON)
    longer = (next_look - now) * xp.where(hopeless, BACKOFF_AT_MINIMUM, BACKOFF).astype(dtype)
    waits = fruitless & waits
    return pace._replace(
        wasted=wasted,
        next_look=xp.where(waits, next_look, pace.next_look),
        pause=xp.where(waits, longer, pace.pause),
        level=xp.where(waits, level, pace.level),
        scale=xp.where(waits, scale, pace.scale),
    )


def after_escape(
    xp: ModuleType, pace: Pace, step: Any, moved: Any, value: Any, gain: Any, window: int
) -> Pace:
    """Forgive what was wasted, and say where to go back, if a step was taken.

    Args:
        xp: `numpy` or `jax.numpy`.
        pace: before.
        step: number of updates.
        moved: whether a step was taken.
        value: loss before it.
        gain: what it brought.
        window: of the plateau test.

    Returns:
        The pace after it.
    """
    # So far above the saddle no noise leads that did not hide the gain.
    ceiling = xp.asarray(value + gain, pace.ceiling.dtype)
    return pace._replace(
        pause=xp.where(moved, xp.full_like(pace.pause, PAUSE * window), pace.pause),
        level=xp.where(moved, xp.full_like(pace.level, np.nan), pace.level),
        wasted=xp.where(moved, xp.zeros_like(pace.wasted), pace.wasted),
        ceiling=xp.where(moved, ceiling, pace.ceiling),
        last_step=xp.where(moved, step, pace.last_step),
    )


def after_return(xp: ModuleType, pace: Pace, step: Any, window: int) -> Pace:
    """Keep the hands off for as long again as the run has lasted, since an escape was taken back."""
    now = step.astype(pace.pause.dtype)
    return pace._replace(
        level=xp.full_like(pace.level, np.nan),
        ceiling=xp.full_like(pace.ceiling, np.inf),
        hands_off=2 * now + GUARD * window,
        last_step=step,
    )
