"""Does the loss itself show the curvature and the slope that its derivatives claim, and how far?

A derivative of the user's own (straight-through rounding, a reversed or clipped gradient) need not be that
of the loss, and a second derivative is blind to kinks and steps; values along lines and in random
directions are not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, cast, dot, norm, random_normal, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.thresholds import (
    GRADIENT_DISTANCES,
    GRADIENT_SEEN,
    GRADIENT_SHARE,
    LINE_CALLS,
    LINE_POINTS,
    NEARER,
    SAMPLE_ROUNDINGS,
    SLOPE_ROUNDINGS,
    SLOPE_SHARE,
    SPOT_DIRECTIONS,
    VALUE_SHARE,
    VISIBLE_ROUNDINGS,
)


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
    """Distance from which probing starts: the length of the parameters that the loss reads, at least 1."""
    read = cast(op.x, op.layout.work_dtypes)
    return max(float(norm(tuple(leaf for leaf, flag in zip(read, op.active, strict=True) if flag))), 1.0)


def line_check(
    op: HessianOperator,
    direction: Vector,
    curvature: float,
    rounding: Rounding,
    slope_error: float | None = None,
) -> LineCheck:
    """Find the distance over which slope and loss show `curvature` along a unit direction.

    Args:
        op: operator at the parameters.
        direction: unit vector.
        curvature: λ claimed by the Hessian along it.
        rounding: rounding error at the parameters.
        slope_error: rounding error of the slope along the direction; None means that of the gradient.

    Returns:
        The check; `confirmed_by` is "" where no distance shows the claimed curvature.  A distance
        counts only if the curvature holds nearer too: it does not at a kink, nor where the loss
        comes back by chance.
    """
    slope_error = rounding.gradient if slope_error is None else slope_error
    line = _Line(op, direction, curvature, rounding.value, slope_error)
    start = parameter_scale(op)
    for call in range(LINE_CALLS):
        exponents = 0.5 * np.arange(call * LINE_POINTS, (call + 1) * LINE_POINTS)
        pairs = line.pairs(start * 0.5**exponents)
        for pair in pairs:
            if line.slope_error > SLOPE_SHARE * abs(curvature) * pair.step:
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
        value_error: float,
        slope_error: float,
    ) -> None:
        self.op, self.direction, self.curvature = op, direction, curvature
        self.value_error = value_error
        # A slope is itself rounded, and below the smallest normal number it is cut off.
        finfo = jnp.finfo(op.objective.scalar_dtype)
        rounding = SLOPE_ROUNDINGS * float(finfo.eps) * abs(float(dot(op.gradient_vector, direction)))
        self.slope_error = slope_error + rounding + SLOPE_ROUNDINGS * float(finfo.tiny)

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
            self.holds(pair) or self.slope_error > allowed * pair.step
            for pair in self.pairs(distance * np.array(NEARER))
        )

    def judge(self, pair: _Pair) -> LineCheck:
        """Confirm the curvature by the losses at the widest distance where it holds."""
        size, step = abs(self.curvature), pair.step
        downhill = 0.0 if abs(pair.apart) <= 4 * self.value_error else -math.copysign(1.0, pair.apart)
        noise = 4 * self.value_error / step**2
        measured, by = pair.by_loss, "loss"
        if noise > VALUE_SHARE * size:
            measured, by = pair.by_slope, "slope"
        elif abs(measured - self.curvature) > VALUE_SHARE * size + noise:
            by = ""
        return LineCheck(step, 0.5 * size * step**2, by, measured, downhill)


def gradient_check(op: HessianOperator, rounding: Rounding) -> Reason | None:
    """Say so if the loss does not change along the gradient as the gradient claims.

    Args:
        op: operator at the parameters.
        rounding: rounding error at the parameters.

    Returns:
        The reason; None for a loss without kinks and custom derivatives, which is not examined.

    Cost:
        32 evaluations where the loss has kinks or such derivatives.
    """
    facts, length = op.objective.facts, float(norm(op.gradient_vector))
    if not (facts.kinks or facts.custom_derivative) or facts.random or not length > 0:
        return None
    steps = parameter_scale(op) * 0.25 ** np.arange(1, GRADIENT_DISTANCES + 1)
    values, _ = op.objective.line(
        op.x, scale(1.0 / length, op.gradient_vector), np.concatenate([steps, -steps])
    )
    shown = (values[: len(steps)] - values[len(steps) :]) / (2 * steps)
    visible = (length * steps > VISIBLE_ROUNDINGS * rounding.value) & np.isfinite(shown)
    if np.sum(visible) < GRADIENT_SEEN or np.any(np.abs(shown[visible] - length) <= GRADIENT_SHARE * length):
        return None
    nearest = int(np.flatnonzero(visible)[-1])
    found, distance = float(shown[nearest]), float(steps[nearest])
    return Reason("gradient_contradicted", claimed=length, shown=found, distance=distance)


def spot_check(
    op: HessianOperator, sign: float, distance: float, rounding: Rounding, rng: np.random.Generator
) -> float | None:
    """Find a sample that is lower than a minimum (`sign` +1) or higher than a maximum (−1).

    Args:
        op: operator at the point.
        sign: +1 for a minimum, −1 for a maximum.
        distance: distance over which the curvature was seen to hold.
        rounding: rounding error at the parameters.
        rng: source of the directions.

    Returns:
        The distance of such a sample, or None if there is none.

    Cost:
        SPOT_DIRECTIONS · 8 evaluations.
    """
    nearer = distance * np.array(NEARER)
    steps = np.concatenate([nearer, -nearer])
    slope = float(norm(op.gradient_vector))
    for _ in range(SPOT_DIRECTIONS):
        direction = random_normal(rng, op.layout, op.active)
        values, _ = op.objective.line(op.x, scale(1 / norm(direction), direction), steps)
        allowed = SAMPLE_ROUNDINGS * rounding.value + 2 * slope * np.abs(steps)
        wrong = sign * (values - op.value) < -allowed
        if np.any(wrong):
            return float(np.min(np.abs(steps[wrong])))
    return None
