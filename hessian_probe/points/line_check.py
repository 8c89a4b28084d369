"""Does the loss itself show the curvature that the Hessian claims, and how far does that hold?"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, cast, dot, norm
from hessian_probe.operators.hessian import HessianOperator

# A direction is probed at ±t for t falling by √2, PER_CALL of them in one compiled call.
PER_CALL = 4
MAX_CALLS = 28
# The curvature holds over t where (slope(t) − slope(−t)) / 2t deviates from λ by at most this share.
# The difference is symmetric, so that a cubic term, which only tilts, does not count.
SLOPE_SHARE = 0.25
# Rounding of one slope, in eps of the slope along the direction.
SLOPE_ROUNDINGS = 16.0
# A difference of losses confirms λ where it deviates by at most this share, noise included.
VALUE_SHARE = 0.5
# The curvature must hold nearer too, at these shares of that distance, as far as rounding lets see: a
# kink shows as one that grows like 1/t.
NEARER = 0.5 ** np.array([2.0, 6.0, 12.0, 20.0])


class LineCheck(NamedTuple):
    """What the loss does along a direction.

    Attributes:
        radius: largest probed distance over which the curvature holds; 0 if none.
        change: ½|λ|·radius², what the curvature changes the loss by over that distance.
        confirmed_by: "loss", "slope" (losses too noisy to difference) or "" (not confirmed).
        measured: the second difference, in loss / params².
        downhill: sign of the direction whose loss was lower at the radius; 0 where they are equal.
    """

    radius: float
    change: float
    confirmed_by: str
    measured: float
    downhill: float


NOTHING = LineCheck(0.0, 0.0, "", math.nan, 0.0)


def parameter_scale(op: HessianOperator) -> float:
    """Distance from which probing starts: the length of the parameters, at least 1."""
    return max(float(norm(cast(op.x, op.layout.work_dtypes))), 1.0)


def line_check(
    op: HessianOperator, direction: Vector, curvature: float, value_noise: float, slope_noise: float
) -> LineCheck:
    """Find the distance over which slope and loss show `curvature` along a unit direction.

    Args:
        op: operator at the parameters.
        direction: unit vector.
        curvature: λ claimed by the Hessian along it.
        value_noise: accuracy of the loss.
        slope_noise: accuracy of the gradient.

    Returns:
        The probe; `confirmed_by` is "" where no distance shows the claimed curvature.  A distance
        counts only if the curvature holds nearer too: it does not at a kink, nor where the loss
        comes back by chance.
    """
    line = _Line(op, direction, curvature, value_noise, slope_noise)
    start = parameter_scale(op)
    for call in range(MAX_CALLS):
        exponents = 0.5 * np.arange(call * PER_CALL, (call + 1) * PER_CALL)
        pairs = line.pairs(start * 0.5**exponents)
        for pair in pairs:
            if line.slope_noise > SLOPE_SHARE * abs(curvature) * pair.step:
                return NOTHING
            if line.holds(pair) and line.holds_within(pair.step):
                return line.judge(pair)
    return NOTHING


class _Pair(NamedTuple):
    """Curvature seen between +step and −step: from slopes, from losses; and ahead minus behind."""

    step: float
    by_slope: float
    by_loss: float
    apart: float


class _Line:
    """The loss along one direction, with what is claimed of it."""

    def __init__(
        self,
        op: HessianOperator,
        direction: Vector,
        curvature: float,
        value_noise: float,
        slope_noise: float,
    ) -> None:
        self.op, self.direction, self.curvature = op, direction, curvature
        self.value_noise = value_noise
        # A slope is itself rounded, and below the smallest normal number it is cut off.
        finfo = jnp.finfo(op.objective.scalar_dtype)
        rounding = SLOPE_ROUNDINGS * float(finfo.eps) * abs(float(dot(op.gradient_vector, direction)))
        self.slope_noise = slope_noise + rounding + SLOPE_ROUNDINGS * float(finfo.tiny)

    def pairs(self, steps: np.ndarray) -> list[_Pair]:
        """Evaluate at ± every step."""
        values, slopes = self.op.objective.line(self.op.x, self.direction, np.concatenate([steps, -steps]))
        count = len(steps)
        with np.errstate(invalid="ignore", over="ignore"):
            by_slope = (slopes[:count] - slopes[count:]) / (2 * steps)
            by_loss = (values[:count] + values[count:] - 2 * self.op.value) / steps**2
            apart = values[:count] - values[count:]
        return [_Pair(*map(float, row)) for row in zip(steps, by_slope, by_loss, apart, strict=True)]

    def holds(self, pair: _Pair) -> bool:
        """Whether the slopes show the claimed curvature there (never for NaN)."""
        error = abs(pair.by_slope - self.curvature)
        return math.isfinite(pair.by_loss) and error <= SLOPE_SHARE * abs(self.curvature)

    def holds_within(self, distance: float) -> bool:
        """Whether it holds nearer too, as far as the gradient's accuracy allows to see."""
        allowed = SLOPE_SHARE * abs(self.curvature)
        return all(
            self.holds(pair) or self.slope_noise > allowed * pair.step
            for pair in self.pairs(distance * NEARER)
        )

    def judge(self, pair: _Pair) -> LineCheck:
        """Confirm the curvature by the losses at the widest distance where it holds."""
        size, step = abs(self.curvature), pair.step
        downhill = 0.0 if abs(pair.apart) <= 4 * self.value_noise else -math.copysign(1.0, pair.apart)
        noise = 4 * self.value_noise / step**2
        measured, by = pair.by_loss, "loss"
        if noise > VALUE_SHARE * size:
            measured, by = pair.by_slope, "slope"
        elif abs(measured - self.curvature) > VALUE_SHARE * size + noise:
            by = ""
        return LineCheck(step, 0.5 * size * step**2, by, measured, downhill)
