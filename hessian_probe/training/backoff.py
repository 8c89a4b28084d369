"""When to search, and backoff, rollback and cooldown: rules that `Monitor` and `escape_saddles` share."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import select
from hessian_probe.escapes.thresholds import LEAST_SHARE, WORTH
from hessian_probe.optimizers.adjust_moments import MOMENTS
from hessian_probe.training.plateau_statistics import FLAT, NOISY, OSCILLATING, SLOW, PlateauVerdict
from hessian_probe.training.thresholds import (
    BACKOFF,
    BACKOFF_AT_MINIMUM,
    EVALUATION_COST,
    FIRST_SEARCH,
    GUARD,
    PAUSE,
    PRODUCT_COST,
)


class BackoffState(NamedTuple):
    """What a hook remembers of its searches; numbers of NumPy or JAX.

    Attributes:
        pause: steps, at least, between the next search without a result and the one after it.
        next_probe: update before which no search is made.
        spent_without_result: cost, in gradients, of searches without a result since the latest escape.
        rollback_threshold: loss above which the latest escape is to be taken back; the largest number where
            none is (not infinity, which `jax_debug_infs` refuses).
        last_step: update of the latest escape or return; 0 before the first.
    """

    pause: Any
    next_probe: Any
    spent_without_result: Any
    rollback_threshold: Any
    last_step: Any

    @property
    def _xp(self) -> ModuleType:
        """The library whose numbers these are."""
        return np if isinstance(self.pause, np.generic | np.ndarray) else jnp

    def after_judgement(self, step: Any, falls: Any, window: int) -> BackoffState:
        """Let an old escape stand, and make pauses short again where the loss `falls` as it should."""
        stands = step - self.last_step > GUARD * window
        threshold = select(stands, _largest(self.rollback_threshold), self.rollback_threshold)
        return self._replace(rollback_threshold=threshold, pause=select(falls, PAUSE * window, self.pause))

    def after_probe(
        self, step: Any, *, fruitless: Any, hopeless: Any, cost: Any, max_share: float
    ) -> BackoffState:
        """Return the state after a search: where it was `fruitless`, add its cost and start a pause.

        Pauses grow each time, and fastest where it was `hopeless`, at a minimum.  They last until all costs,
        in gradients, are within `max_share` of the run's.
        """
        xp, dtype = self._xp, self.pause.dtype
        now = step.astype(dtype)
        spent = self.spent_without_result + xp.asarray(cost, dtype)
        # The step at which the pause is over and all that was spent is within its share.
        next_probe = xp.maximum(now + self.pause, spent / max_share)
        pause = (next_probe - now) * (BACKOFF_AT_MINIMUM if hopeless else BACKOFF)
        return self._replace(
            pause=select(fruitless, pause, self.pause),
            next_probe=select(fruitless, next_probe, self.next_probe),
            spent_without_result=select(fruitless, spent, self.spent_without_result),
        )

    def after_escape(self, step: Any, moved: Any, value: Any, gain: Any, window: int) -> BackoffState:
        """If a step `moved` off a loss of `value`, reset cost and pause; set the threshold of a rollback."""
        return self._replace(
            pause=select(moved, PAUSE * window, self.pause),
            spent_without_result=select(moved, 0.0, self.spent_without_result),
            # Noise that reaches this far above the saddle would have hidden the gain.
            rollback_threshold=select(moved, value + gain, self.rollback_threshold),
            last_step=select(moved, step, self.last_step),
        )

    def after_rollback(self, step: Any, back: Any, window: int) -> BackoffState:
        """Where an escape was taken `back`, start a cooldown as long as the run so far."""
        xp = self._xp
        cooldown = 2 * step.astype(self.pause.dtype) + GUARD * window
        return self._replace(
            next_probe=select(back, xp.maximum(cooldown, self.next_probe), self.next_probe),
            rollback_threshold=select(back, _largest(self.rollback_threshold), self.rollback_threshold),
            last_step=select(back, step, self.last_step),
        )


def new_backoff(xp: ModuleType, window: int, dtype: Any) -> BackoffState:
    """Return the state before any search."""
    zero, start = (xp.full((), value, dtype) for value in (0, PAUSE * window))
    return BackoffState(start, zero, zero, xp.full((), _largest(zero), dtype), xp.zeros((), np.int32))


def _largest(number: Any) -> float:
    return float(np.finfo(number.dtype).max)


def asks_for_search(kind: Any, count: Any, every: Any) -> Any:
    """Return whether the verdict asks for a search, or the schedule where noise allows none.

    Of the `count` values seen, `every` came since the judgement before.
    """
    # Optimisers that step by signs oscillate about a saddle for ever, with an amplitude of their rate.
    stalled = (kind == FLAT) | (kind == SLOW) | (kind == OSCILLATING)
    before = count - every
    return stalled | ((kind == NOISY) & (count >= FIRST_SEARCH) & ((count ^ before) > before))


def least_gain(xp: ModuleType, verdict: PlateauVerdict, windows: Any) -> Any:
    """Return the least gain of an escape, in loss units: by what training gains in a window, and has gained.

    The verdict is on the losses; the latest half of the run is `windows` windows long.
    """
    return xp.maximum(WORTH * verdict.most / windows, LEAST_SHARE * verdict.progress)


def cost_in_gradients(num_hvps: Any, num_gradients: Any, num_losses: Any) -> Any:
    """Cost of products, gradients and evaluations, in gradients."""
    return PRODUCT_COST * num_hvps + num_gradients + EVALUATION_COST * num_losses


def awaits_rollback(state: Any) -> Any:
    """Whether the latest escape may still be taken back."""
    return state.rollback_threshold < _largest(state.rollback_threshold)


def exceeds_threshold(state: Any, value: Any) -> Any:
    """Whether the loss is so high that the latest escape should be taken back, or no number."""
    return awaits_rollback(state) & ~(value <= state.rollback_threshold)


def check_common(loss: Any, moments: str, max_share: float) -> None:
    """Refuse what neither hook can work with; raises TypeError or ValueError."""
    if not callable(loss):
        raise TypeError(f"loss must be a function of params; got {type(loss).__name__}")
    if moments not in MOMENTS:
        raise ValueError(f"moments={moments!r}; expected one of {', '.join(MOMENTS)}")
    if not 0 < max_share <= 1:
        raise ValueError(f"max_share={max_share}; expected a share in (0, 1]")
