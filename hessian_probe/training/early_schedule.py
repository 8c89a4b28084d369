"""Searches on a schedule, whatever the plateau test says: when they are due, and what training gains."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from hessian_probe.training.plateau_statistics import NOISY, SIGNIFICANT, PlateauStatistics
from hessian_probe.training.trends import fit

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


def scheduled(count: Any, every: int) -> Any:
    """Whether a search is due after 8, 16, 32 … values since the latest escape.

    Args:
        count: values seen, a multiple of `every`.
        every: values between judgements.

    Returns:
        Whether a power of two, at least FIRST_SEARCH, lies among the latest `every` values.
    """
    before = count - every
    return (count >= FIRST_SEARCH) & ((count ^ before) > before)


def spend_products(count: Any, every: int, kind: Any) -> Any:
    """Whether that search should spend products too.

    Args:
        count: as in `scheduled`.
        every: as there.
        kind: verdict of the plateau test; in noise it may not speak for thousands of steps.

    Returns:
        Whether it should.
    """
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
