"""Does the gradient along a direction of weak curvature vanish within the distance that is checked?

Where Newton steps stall, the gradient that is left lies along a direction u of weak curvature.  Either it
vanishes somewhere along it, or it goes on and there is no critical point near.
"""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, flatten, norm, scale, unflatten
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.line_check import parameter_scale

# Up to this number of variables the whole Hessian is formed, to relax the other directions.
SIZE = 256
# Distances fall by √2 over 20 octaves on either side: a slope that vanishes like any power from 1/2 to 3 of
# the distance to a zero falls below half of itself at one of them at least.
DISTANCES = 0.5 ** (0.5 * np.arange(40))
# The other directions are relaxed in at most RESTS chord steps, until what is left across is at
# most this share of the slope.
RESTS = 3
ACROSS = 0.1
# The slope must keep this share of itself.
KEPT = 0.5


def weak_slope(op: HessianOperator, band: float, budget: int) -> Reason | None:
    """Say that the gradient does not vanish nearby, or None where that is not seen.

    Args:
        op: operator where Newton steps stalled.
        band: zero band.
        budget: products that may be spent.

    Returns:
        The reason, or None.

    Cost:
        n products, and 81 to 324 evaluations; few where the slope vanishes.
    """
    if op.size > SIZE or budget < op.size:
        return None
    length, far = float(norm(op.gradient_vector)), parameter_scale(op)
    u = scale(1.0 / length, op.gradient_vector)
    steps = far * np.concatenate([DISTANCES, -DISTANCES])
    line, lowest = _RelaxedLine(op, u, band), length
    for t in (0.0, *steps):
        lowest = min(lowest, line.slope(float(t)))
        if not lowest >= KEPT * length:
            return None
    return Reason("weak_slope", gradient=length, lowest=lowest, distance=far)


class _RelaxedLine:
    """The points x + t·u + y at which the gradient across u vanishes."""

    def __init__(self, op: HessianOperator, u: Vector, band: float) -> None:
        self.op, self.u = op, u
        self.line = flatten(u)
        across = np.eye(op.size) - np.outer(self.line, self.line)
        self.values, self.vectors = np.linalg.eigh(across @ op.dense() @ across)
        self.inside = np.abs(self.values) > band

    def slope(self, t: float) -> float:
        """Slope along u with all other directions relaxed; −∞ where they do not relax."""
        x = add_scaled(cast(self.op.x, self.op.layout.work_dtypes), t, self.u)
        for _ in range(RESTS + 1):
            there = self.op.at(x)
            gradient = flatten(there.gradient_vector)
            if not np.all(np.isfinite(gradient)):
                break
            slope = float(self.line @ gradient)
            across = gradient - slope * self.line
            if np.linalg.norm(across) <= ACROSS * slope:
                return slope
            parts = self.vectors.T @ across
            step = -(self.vectors[:, self.inside] @ (parts[self.inside] / self.values[self.inside]))
            x = add_scaled(x, 1.0, unflatten(self.op.layout, step))
        return -np.inf
