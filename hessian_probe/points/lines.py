"""Does the loss itself show the curvature that the Hessian claims, and how far does that hold?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, cast, dot, norm
from hessian_probe.operators.hessian import HessianOperator

# A direction is probed at ±t for t falling by √2, PER_CALL of them in one compiled call.
PER_CALL = 4
MAX_CALLS = 28
# The curvature holds over t where (slope(t) − slope(−t)) / 2t deviates from λ by at most this share.
# The difference is symmetric, so that a cubic term, which only tilts, does not count.
SLOPE_SHARE = 0.25
# A difference of losses confirms λ where it deviates by at most this share, noise included.
VALUE_SHARE = 0.5


class LineProbe(NamedTuple):
    """What the loss does along a direction.

    Attributes:
        radius: largest probed distance over which the curvature holds; 0 if none.
        change: ½|λ|·radius², what the curvature changes the loss by over that distance.
        confirmed_by: "loss", "slope" (losses too noisy to difference) or "" (nothing confirms it).
        measured: the second difference, in loss / params².
        downhill: sign of the direction whose loss was lower at the radius; 0 where they are equal.
    """

    radius: float
    change: float
    confirmed_by: str
    measured: float
    downhill: float


def reach(op: HessianOperator) -> float:
    """Distance from which probing starts: the length of the parameters, at least 1."""
    return max(float(norm(cast(op.x, op.layout.work_dtypes))), 1.0)


def probe_line(
    op: HessianOperator, direction: Vector, curvature: float, value_noise: float, slope_noise: float
) -> LineProbe:
    """Find the distance over which slope and loss show `curvature` along a unit direction.

    Args:
        op: operator at the parameters.
        direction: unit vector.
        curvature: λ claimed by the Hessian along it.
        value_noise: accuracy of the loss.
        slope_noise: accuracy of the gradient.

    Returns:
        The probe; `confirmed_by` is "" where no distance shows the claimed curvature.
    """
    slope = float(dot(op.gradient_vector, direction))
    size, start = abs(curvature), reach(op)
    for call in range(MAX_CALLS):
        steps = start * 0.5 ** (0.5 * np.arange(call * PER_CALL, (call + 1) * PER_CALL))
        values, slopes = op.objective.line(op.x, direction, np.concatenate([steps, -steps]))
        for i, t in enumerate(steps):
            pair = (slopes[i] - slope, slope - slopes[PER_CALL + i])
            if not np.all(np.isfinite(pair)):
                continue
            if slope_noise > SLOPE_SHARE * size * t:
                return LineProbe(0.0, 0.0, "", float("nan"), 0.0)
            if abs(pair[0] + pair[1] - 2 * curvature * t) > 2 * SLOPE_SHARE * size * t:
                continue
            ahead, behind = values[i], values[PER_CALL + i]
            second = (ahead + behind - 2 * op.value) / t**2
            noise = 4 * value_noise / t**2
            apart = ahead - behind
            downhill = 0.0 if abs(apart) <= 4 * value_noise else -float(np.sign(apart))
            if noise > VALUE_SHARE * size:
                measured, by = (pair[0] + pair[1]) / (2 * t), "slope"
            else:
                measured = second
                by = "loss" if abs(second - curvature) <= VALUE_SHARE * size + noise else ""
            return LineProbe(float(t), 0.5 * size * t**2, by, float(measured), downhill)
    return LineProbe(0.0, 0.0, "", float("nan"), 0.0)
