"""A look around: does the loss itself go the way that a minimum or a maximum says?

A second derivative is blind to kinks and stairs.  Random directions are not.
"""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import norm, random_normal, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.line_check import NEARER

# Random directions looked at; along each the loss is taken at ± NEARER shares of the distance.
DIRECTIONS = 4
# Rounding of the loss, and of its slope, that a sample may fall by.
ROUNDINGS = 8.0


def spot_check(
    op: HessianOperator, sign: float, distance: float, value_noise: float, rng: np.random.Generator
) -> float | None:
    """Find a sample that is lower than a minimum (`sign` +1) or higher than a maximum (−1).

    Args:
        op: operator at the point.
        sign: +1 for a minimum, −1 for a maximum.
        distance: distance over which the curvature was seen to hold.
        value_noise: accuracy of the loss.
        rng: source of the directions.

    Returns:
        The distance of such a sample, or None if there is none.

    Cost:
        DIRECTIONS · 8 evaluations.
    """
    steps = np.concatenate([distance * NEARER, -distance * NEARER])
    slope = float(norm(op.gradient_vector))
    for _ in range(DIRECTIONS):
        direction = random_normal(rng, op.layout, op.active)
        values, _ = op.objective.line(op.x, scale(1 / norm(direction), direction), steps)
        allowed = ROUNDINGS * value_noise + 2 * slope * np.abs(steps)
        wrong = sign * (values - op.value) < -allowed
        if np.any(wrong):
            return float(np.min(np.abs(steps[wrong])))
    return None
