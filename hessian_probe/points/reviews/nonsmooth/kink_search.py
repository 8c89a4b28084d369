"""Where a slope ends at a kink: the floor of a valley with straight walls."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, cast, norm, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.results import number

# Steps along minus the gradient, as shares of the length of the parameters (at least 1).
STEPS = 0.1 * 0.1 ** np.arange(8)
# The slope has ended where less than this share of it is left.
LEFT = 0.5
# A step at which the curvature changes the slope by this share says nothing of a kink.
CURVED = 0.1
# The parameters' rounding must be below this share of a step.
ROUNDING_SHARE = 1e-2
# Times that the bracket around the kink is divided by nine, at most: 9¹⁶ > 1/eps.
REFINEMENTS = 16


class Kink(NamedTuple):
    """The end of a slope.

    Attributes:
        move: displacement to it.
        offset: its length; 0 where the slope does not even hold at the point.
        width: how accurately it is known.
        reason: a sentence with the numbers.
    """

    move: Vector
    offset: float
    width: float
    reason: str


def find_kink(op: HessianOperator, top: float) -> Kink | None:
    """Follow minus the gradient until the slope ends, if it does so by a kink.

    Args:
        op: operator at the point.
        top: ‖H‖ there.

    Returns:
        The kink, or None where the slope goes on as the derivatives say.

    Cost:
        16 evaluations of loss and slope, or up to 136.
    """
    length = float(norm(op.gradient_vector))
    if not (length > 0 and math.isfinite(length)):
        return None
    downhill = scale(-1 / length, op.gradient_vector)
    rounding = op.eps * float(norm(cast(op.x, op.layout.work_dtypes)))
    steps = STEPS[::-1] * parameter_scale(op)
    _, slopes = op.objective.line(op.x, downhill, steps)
    useful = (rounding <= ROUNDING_SHARE * steps) & (top * steps <= CURVED * length) & np.isfinite(slopes)
    ended = useful & (slopes > -LEFT * length)
    if not np.any(ended):
        return _behind(op, downhill, steps[useful], length)
    first = int(np.argmax(ended))
    if not np.any(useful[:first]):
        return _on_kink(downhill, length, float(steps[first]), float(slopes[first]))
    low, high = float(steps[first - 1]), float(steps[first])
    for _ in range(REFINEMENTS):
        if high - low <= 2 * rounding:
            break
        inner = np.linspace(low, high, 10)[1:-1]
        _, slopes = op.objective.line(op.x, downhill, inner)
        index = int(np.argmax(np.append(slopes > -LEFT * length, True)))
        edges = np.r_[low, inner, high]
        low, high = float(edges[index]), float(edges[index + 1])
    reason = (
        f"the gradient (norm {number(length, 2)}) holds over {number(low, 2)} only: a kink is there, and the "
        "point is beside it"
    )
    return Kink(scale(0.5 * (low + high), downhill), 0.5 * (low + high), high - low, reason)


def _on_kink(downhill: Vector, length: float, step: float, slope: float) -> Kink:
    reason = (
        f"the gradient here has norm {number(length, 2)}, but {number(step, 2)} along it the slope is "
        f"{number(slope, 2)}: the point is on a kink"
    )
    return Kink(scale(0.0, downhill), 0.0, 0.0, reason)


def _behind(op: HessianOperator, downhill: Vector, steps: np.ndarray, length: float) -> Kink | None:
    """Whether the slope does not hold uphill of the point: it is on top of a kink."""
    if len(steps) == 0:
        return None
    _, slopes = op.objective.line(op.x, downhill, -np.resize(steps, len(STEPS)))
    if slopes[0] > -LEFT * length:
        return _on_kink(downhill, length, float(-steps[0]), float(slopes[0]))
    return None
