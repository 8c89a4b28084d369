"""When to search, and backoff, rollback and cooldown: rules that `Monitor` and `escape_saddles` share."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.escapes.thresholds import LEAST_SHARE, WORTH
from hessian_probe.optimizers.adjust_moments import MOMENTS
from hessian_probe.training.plateau_statistics import (
    FLAT,
    NOISY,
    OSCILLATING,
    SLOW,
    PlateauStatistics,
)
from hessian_probe.training.thresholds import (
    BACKOFF,
    BACKOFF_AT_MINIMUM,
    EVALUATION_COST,
    FIRST_SEARCH,
    GAIN_ROUNDINGS,
    GUARD,
    HORIZON,
    LEFT,
    PAUSE,
    PRODUCT_COST,
)


class BackoffState(NamedTuple):
    """What a hook remembers of its searches; numbers of NumPy or JAX.

    Attributes:
        pause: steps, at least, between the next search without a result and the one after it.
        next_probe: update before which a plateau starts no search.
        level: loss at the latest search without a result; NaN where there is none.
        scale: larger of the loss's noise and its decrease over the window then.
        spent_without_result: cost, in gradients, of searches without a result since the latest escape.
        rollback_threshold: loss above which the latest escape is to be taken back; infinite where none is.
        cooldown_until: update before which no search is made, because an escape was taken back.
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

    @property
    def _xp(self) -> ModuleType:
        """The library whose numbers these are."""
        return np if isinstance(self.pause, np.generic | np.ndarray) else jnp

    def _where(self, condition: Any, **new: Any) -> BackoffState:
        """Replace numbers where a condition holds."""
        olds = {name: getattr(self, name) for name in new}
        news = {name: self._xp.asarray(value, olds[name].dtype) for name, value in new.items()}
        return self._replace(**{name: self._xp.where(condition, news[name], olds[name]) for name in new})

    def after_progress(self, step: Any, level: Any, window: int) -> BackoffState:
        """End the backoff once the loss has left the plateau of the latest search; let old escapes stand.

        Args:
            step: number of updates.
            level: present loss, the median of a window.
            window: of the plateau test.

        Returns:
            The state after it.
        """
        stands = step - self.last_step > GUARD * window
        left = self.level - level > LEFT * self.scale
        return self._where(stands, rollback_threshold=np.inf)._where(left, pause=PAUSE * window, level=np.nan)

    def after_probe(
        self,
        step: Any,
        *,
        fruitless: Any,
        hopeless: Any,
        cost: Any,
        price: Any,
        level: Any,
        scale: Any,
        max_share: float,
    ) -> BackoffState:
        """Add the cost of a search without a result, and start a pause.

        Pauses grow each time, and fastest at a minimum.

        Args:
            step: number of updates.
            fruitless: whether nothing was found.
            hopeless: whether there was no negative curvature either.
            cost: of the search, in gradients.
            price: of the next one at most.
            level: loss there, the median of a window.
            scale: larger of the loss's noise and its fall over the window.
            max_share: share of the run's gradients that searches without a result may cost.

        Returns:
            The state after it.
        """
        xp, dtype = self._xp, self.pause.dtype
        now = step.astype(dtype)
        spent = self.spent_without_result + xp.where(fruitless, cost, 0).astype(dtype)
        # The step at which the pause is over and the next search is within its share.
        next_probe = xp.maximum(now + self.pause, (spent + price) / max_share - HORIZON)
        longer = (next_probe - now) * xp.where(hopeless, BACKOFF_AT_MINIMUM, BACKOFF).astype(dtype)
        paused = self._where(fruitless, next_probe=next_probe, pause=longer, level=level, scale=scale)
        return paused._replace(spent_without_result=spent)

    def after_escape(self, step: Any, moved: Any, value: Any, gain: Any, window: int) -> BackoffState:
        """If a step was taken, reset the cost and the pause, and set the threshold for a rollback.

        Args:
            step: number of updates.
            moved: whether a step was taken.
            value: loss before it.
            gain: its decrease of the loss.
            window: of the plateau test.

        Returns:
            The state after it.
        """
        return self._where(
            moved,
            pause=PAUSE * window,
            level=np.nan,
            spent_without_result=0.0,
            # Noise that reaches this far above the saddle would have hidden the gain.
            rollback_threshold=value + gain,
            last_step=step,
        )

    def after_rollback(self, step: Any, window: int) -> BackoffState:
        """Start a cooldown as long as the run so far, because an escape was taken back."""
        cooldown_until = 2 * step.astype(self.pause.dtype) + GUARD * window
        return self._where(
            True, level=np.nan, rollback_threshold=np.inf, cooldown_until=cooldown_until, last_step=step
        )


def new_backoff(xp: ModuleType, window: int, dtype: Any) -> BackoffState:
    """Return the state before any search."""
    nan, endless = (xp.asarray(value, dtype) for value in (np.nan, np.inf))
    zero = xp.zeros((), dtype)
    start = xp.asarray(PAUSE * window, dtype)
    return BackoffState(start, zero, nan, zero, zero, endless, zero, xp.zeros((), np.int32))


def is_stalled(kind: Any) -> Any:
    """Whether a verdict of the plateau test asks for a search: no progress, or an oscillation."""
    # Optimisers that step by signs oscillate about a saddle for ever, with an amplitude of their rate.
    return (kind == FLAT) | (kind == SLOW) | (kind == OSCILLATING)


def asks_for_search(kind: Any, count: Any, every: int) -> Any:
    """Whether a search is asked for by the verdict, or by the schedule where noise allows none."""
    before = count - every
    scheduled = (count >= FIRST_SEARCH) & ((count ^ before) > before)
    return is_stalled(kind) | ((kind == NOISY) & scheduled)


def least_gain(
    xp: ModuleType, statistics: PlateauStatistics, fall: Any, noise: Any, level: Any, rounding: Any
) -> Any:
    """Least decrease of the loss that makes an escape.

    Args:
        xp: `numpy` or `jax.numpy`.
        statistics: of the losses.
        fall: of the loss over the latest window.
        noise: standard deviation of single values in it.
        level: median of that window.
        rounding: error of the loss.

    Returns:
        Scalar.
    """
    # Where it is slow the loss falls beyond doubt; at an oscillation a fall is chance, and in noise it may be
    # as large as that.
    falls, noisy = xp.maximum(fall, 0.0), statistics.kind == NOISY
    decrease = xp.where(noisy, falls + noise, xp.where(statistics.kind == SLOW, falls, 0.0))
    gained = xp.where(statistics.filled > 0, xp.maximum(statistics.blocks[0] - level, 0.0), 0.0)
    return xp.maximum(xp.maximum(GAIN_ROUNDINGS * rounding, WORTH * decrease), LEAST_SHARE * gained)


def cost_in_gradients(num_hvps: Any, num_gradients: Any, num_losses: Any) -> Any:
    """Cost of products, gradients and evaluations, in gradients."""
    return PRODUCT_COST * num_hvps + num_gradients + EVALUATION_COST * num_losses


def exceeds_threshold(state: Any, value: Any) -> Any:
    """Whether the loss is so high that the latest escape should be taken back, or no number."""
    return (state.rollback_threshold < np.inf) & ~(value <= state.rollback_threshold)


def check_common(loss: Any, moments: str, max_share: float) -> None:
    """Refuse what neither hook can work with; raises TypeError or ValueError."""
    if not callable(loss):
        raise TypeError(f"loss must be a function of params; got {type(loss).__name__}")
    if moments not in MOMENTS:
        raise ValueError(f"moments={moments!r}; expected one of {', '.join(MOMENTS)}")
    if not 0 < max_share <= 1:
        raise ValueError(f"max_share={max_share}; expected a share in (0, 1]")
