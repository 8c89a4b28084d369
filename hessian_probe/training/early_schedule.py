"""Looks before the plateau test has spoken: when they are due, and what training brings meanwhile."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from hessian_probe.training.plateau_statistics import NOISY, SIGNIFICANT, PlateauStatistics
from hessian_probe.training.trends import fit

# Whatever the plateau test says, which needs a window and a half, a look is taken when so many values have
# been seen since the start or the latest escape, and at every doubling; those of THOROUGH with products, and
# the others too where the loss is noisy: a saddle of curvature −1 under noise of 0.01 then holds for 128
# steps instead of 2,000.
FIRST_LOOK = 8
THOROUGH = (16, 64)
# Before the plateau test has spoken, training is taken to bring so many times what it shows: on a slope with
# a small rate negative curvature brought 4.6 times a window's fall, on plateaus it brings 20 times and more.
EARLY = 4.0
# Values from which a trend can be read at all.
FEWEST = 8


def scheduled(count: Any, every: int) -> Any:
    """Whether a look is due that 8, 16, 32 … values since the latest escape ask for.

    Args:
        count: values seen, a multiple of `every`.
        every: values between judgements.

    Returns:
        Whether a power of two, at least FIRST_LOOK, lies among the latest `every` values.
    """
    before = count - every
    return (count >= FIRST_LOOK) & ((count ^ before) > before)


def spend_products(count: Any, every: int, kind: Any) -> Any:
    """Whether that look should spend products too.

    Args:
        count: as in `scheduled`.
        every: as there.
        kind: verdict of the plateau test; in noise it may not speak for thousands of steps.

    Returns:
        Whether it should.
    """
    before = count - every
    first, second = ((before < at) & (count >= at) for at in THOROUGH)
    return first | second | (scheduled(count, every) & (kind == NOISY))


def expected_decrease(xp: ModuleType, statistics: PlateauStatistics) -> Any:
    """What training may bring within a window at most, from the values seen: infinite from too few.

    The fall of the line through the later half of all values (but FEWEST to a window of them), scaled to a
    window, with SIGNIFICANT standard errors on top.

    Args:
        xp: `numpy` or `jax.numpy`.
        statistics: what was seen.

    Returns:
        Scalar, at least 0.
    """
    recent, count = statistics.recent, statistics.count
    window = recent.shape[0]
    seen = xp.clip(count // 2, FEWEST, window)
    on = xp.arange(window) >= window - seen
    rounding = float(np.finfo(recent.dtype).eps) * xp.abs(recent[-1])
    trend = fit(xp, (recent - recent[-1])[None], on[None], rounding)
    share = window / seen.astype(recent.dtype)
    most = share * (xp.maximum(trend.fall[0], 0.0) + SIGNIFICANT * trend.error[0])
    return xp.where(count >= FEWEST, most, xp.full_like(most, np.inf))
