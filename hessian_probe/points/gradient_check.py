"""Does the loss itself show the slope that its gradient claims?

A derivative of the user's own (straight-through rounding, a reversed or clipped gradient) need not be that
of the loss.
"""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import norm, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.results import number

# Distances along the gradient, a factor 4 apart.  Where the change that the slope makes is beyond VISIBLE
# roundings of the loss, its central difference must be the slope to SHARE at one of them: as near as that,
# it is so for every loss with that gradient.  SEEN of them at least must be visible.
DISTANCES = 0.25 ** np.arange(1, 17)
VISIBLE = 64.0
SHARE = 0.5
SEEN = 3


def gradient_check(op: HessianOperator, value_noise: float) -> str:
    """Say so if the loss does not change along the gradient as the gradient says, else "".

    Args:
        op: operator at the parameters.
        value_noise: accuracy of the loss.

    Returns:
        The sentence; "" for a loss without kinks and derivatives of its own, which is not looked at.

    Cost:
        32 evaluations where the loss has kinks or such derivatives.
    """
    facts, length = op.objective.facts, float(norm(op.gradient_vector))
    if not (facts.kinks or facts.custom_derivative) or facts.random or not length > 0:
        return ""
    steps = parameter_scale(op) * DISTANCES
    values, _ = op.objective.line(
        op.x, scale(1.0 / length, op.gradient_vector), np.concatenate([steps, -steps])
    )
    shown = (values[: len(steps)] - values[len(steps) :]) / (2 * steps)
    visible = (length * steps > VISIBLE * value_noise) & np.isfinite(shown)
    if np.sum(visible) < SEEN or np.any(np.abs(shown[visible] - length) <= SHARE * length):
        return ""
    nearest = int(np.flatnonzero(visible)[-1])
    found, where = number(float(shown[nearest]), 3), number(float(steps[nearest]), 2)
    return (
        f"the gradient claims a slope of {number(length, 3)}, the loss shows {found} over ±{where} along it: "
        "the derivative is not that of the loss"
    )
