"""When to search, and backoff, rollback and cooldown: rules that `Monitor` and `escape_saddles` share."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.optimizers.adjust_moments import MOMENTS
from hessian_probe.training.plateau_statistics import (
    FLAT,
    NOISY,
    OSCILLATING,
    SIGNIFICANT,
    SLOW,
    PlateauStatistics,
)
from hessian_probe.training.trends import fit

# A search that finds nothing is followed by a pause of PAUSE windows.  Every further one multiplies the pause
# by BACKOFF; at a minimum, where there is nothing to wait for, by BACKOFF_AT_MINIMUM.
PAUSE = 2.0
BACKOFF = 2.0
BACKOFF_AT_MINIMUM = 4.0
# The share of gradients that searches may cost is taken of the steps so far and of HORIZON more.  Without
# these, one early search without a result would end all searches of a short run.  An escape resets the cost.
HORIZON = 10_000
# The same for searches that only the schedule asks for, unless the loss is noisy: with 10,000 they took 11 to
# 19 % of 2,000 healthy steps of a large network; with 3,000 no plateau of benchmarks/escape.py is left later.
EARLY_HORIZON = 3_000
# A product is about this many gradients (benchmarks/speed.py: 1.2 stored, 1.7 recomputed; up to 2 on the
# small networks of benchmarks/escape.py), a loss at most this many (0.2 to 0.4 there).
PRODUCT_COST = 1.7
EVALUATION_COST = 0.5
# The loss has left its plateau, and the backoff ends, when it is lower by this many times the larger of its
# noise and its decrease over the window, both at the last search.
LEFT = 10.0
# Windows after which an escape stands. Where the step length was too long for where it led (deep linear
# networks of six layers, momentum), the loss rose above the saddle's sooner than that.
GUARD = 4
# The plateau test needs a window and a half.  Whatever it says, a search is made FIRST_SEARCH values after
# the start or the latest escape, and at every doubling: at those of WITH_PRODUCTS with products, and at the
# others too where the loss is noisy.  A saddle of curvature −1 under noise of 0.01 then holds for 128 steps
# instead of 2,000.
FIRST_SEARCH = 8
WITH_PRODUCTS = (16, 64)
# Before the plateau test has spoken, a step must gain EARLY times more: on a slope with a small rate negative
# curvature gained 4.6 times the decrease of a window, on plateaus it gains 20 times and more.
EARLY = 4.0
# Values from which a trend can be read at all.
FEWEST = 8


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

    def within_budget(self, now: Any, price: Any, max_share: float, full: Any) -> Any:
        """Whether searches without a result stay within their share, should this one find nothing too.

        Args:
            now: steps so far.
            price: of this one, in gradients.
            max_share: share of the run's gradients.
            full: whether HORIZON is added to the steps, or EARLY_HORIZON.

        Returns:
            Whether they do.
        """
        horizon = self._xp.where(full, HORIZON, EARLY_HORIZON)
        return self.spent_without_result + price <= max_share * (now + horizon)

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
        waits: Any,
        hopeless: Any,
        cost: Any,
        price: Any,
        level: Any,
        scale: Any,
        max_share: float,
    ) -> BackoffState:
        """Add the cost of a search without a result; one that the plateau test asked for starts a pause.

        Pauses grow each time, and fastest at a minimum.

        Args:
            step: number of updates.
            fruitless: whether nothing was found.
            waits: whether a pause follows then.
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
        paused = self._where(fruitless & waits, next_probe=next_probe, pause=longer, level=level, scale=scale)
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


def recent_decrease(xp: ModuleType, kind: Any, fall: Any, noise: Any) -> Any:
    """Decrease of the loss within a window; at an oscillation at least the spread of single values."""
    return xp.maximum(xp.maximum(fall, 0.0), xp.where(kind == OSCILLATING, noise, 0.0 * noise))


def cost_in_gradients(num_hvps: Any, num_gradients: Any, num_losses: Any) -> Any:
    """Cost of products, gradients and evaluations, in gradients."""
    return PRODUCT_COST * num_hvps + num_gradients + EVALUATION_COST * num_losses


def exceeds_threshold(state: Any, value: Any) -> Any:
    """Whether the loss is so high that the latest escape should be taken back, or no number."""
    return (state.rollback_threshold < np.inf) & ~(value <= state.rollback_threshold)


def scheduled(count: Any, every: int) -> Any:
    """Whether a power of two, at least FIRST_SEARCH, lies among the latest `every` of `count` values."""
    before = count - every
    return (count >= FIRST_SEARCH) & ((count ^ before) > before)


def spend_products(count: Any, every: int, kind: Any) -> Any:
    """Whether that search should spend products too; in noise the plateau test may be silent for long."""
    before = count - every
    first, second = ((before < at) & (count >= at) for at in WITH_PRODUCTS)
    return first | second | (scheduled(count, every) & (kind == NOISY))


def expected_decrease(xp: ModuleType, statistics: PlateauStatistics) -> Any:
    """Upper bound for the decrease of the loss within a window; infinite from too few values.

    The decrease of the line through the later half of all values (but FEWEST to a window of them), scaled to
    a window, with SIGNIFICANT standard errors on top.

    Args:
        xp: `numpy` or `jax.numpy`.
        statistics: what was seen.

    Returns:
        Scalar, at least 0.
    """
    recent, count = statistics.recent, statistics.count
    window = recent.shape[0]
    seen = xp.clip(count // 2, FEWEST, window)
    on = xp.arange(window, dtype=np.int32) >= window - seen
    rounding = float(np.finfo(recent.dtype).eps) * xp.abs(recent[-1])
    trend = fit(xp, (recent - recent[-1])[None], on[None], rounding)
    share = window / seen.astype(recent.dtype)
    most = share * (xp.maximum(trend.fall[0], 0.0) + SIGNIFICANT * trend.error[0])
    return xp.where(count >= FEWEST, most, xp.full_like(most, np.inf))


def check_common(loss: Any, moments: str, max_share: float) -> None:
    """Refuse what neither hook can work with; raises TypeError or ValueError."""
    if not callable(loss):
        raise TypeError(f"loss must be a function of params; got {type(loss).__name__}")
    if moments not in MOMENTS:
        raise ValueError(f"moments={moments!r}; expected one of {', '.join(MOMENTS)}")
    if not 0 < max_share <= 1:
        raise ValueError(f"max_share={max_share}; expected a share in (0, 1]")
