"""Valley floors that cross at the point, as those of x²y²: a minimum that is flat along some lines only."""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import add_scaled, cast, row, unflatten_rows
from hessian_probe.points.reviews.degenerate.lyapunov_schmidt import ReducedLoss, RelaxedPoints
from hessian_probe.points.rounding import ProductNoise, neighbour
from hessian_probe.spectrum.dense import dense_eigh

# Dimensions up to which the starts on a sphere are taken to find every floor.
DIMENSIONS = 3
# Share of the starts on every sphere that must end on a floor; the others must lie higher.
ARRIVED = 0.75
# Floors whose Hessian is looked at, on the widest and on the narrowest sphere.
LOOKED_AT = 3


def minima_intersect(reduced: ReducedLoss, found: RelaxedPoints, starts: int, budget: int) -> bool:
    """Whether the lowest points on all spheres are critical points at the loss's own height.

    At each of them the gradient must vanish to rounding, and at some of them the whole Hessian must
    show no negative curvature.

    Args:
        reduced: the reduced loss.
        found: lowest points, sphere by sphere.
        starts: rows of each sphere.
        budget: products that may be spent.

    Returns:
        True if so; False also where the budget does not allow to look.
    """
    if reduced.dimension > DIMENSIONS or budget < 2 * LOOKED_AT * (reduced.op.size + 1):
        return False
    noise = reduced.noise(found)
    steep = np.linalg.norm(found.slope, axis=1)
    limit = np.linalg.norm(noise.slope, axis=1) + np.linalg.norm(reduced.flat.T @ reduced.here)
    level = found.good & (steep <= limit)
    spheres = np.arange(len(found.z)).reshape(-1, starts)
    for rows in spheres:
        if np.mean(level[rows]) < ARRIVED or np.any(found.outward[rows] < -noise.outward[rows]):
            return False
    extremes = (spheres[0], spheres[-1])
    return all(_convex(reduced, found, r) for rows in extremes for r in rows[level[rows]][:LOOKED_AT])


def _convex(reduced: ReducedLoss, found: RelaxedPoints, index: int) -> bool:
    """Whether the Hessian at a point has no negative curvature (of −f where that is looked at)."""
    op = reduced.op
    move = row(unflatten_rows(op.layout, reduced.moves(found.z[[index]], found.y[[index]])), 0)
    there = op.at(add_scaled(cast(op.x, op.layout.work_dtypes), 1.0, move))
    values, vectors = dense_eigh(there)
    noise = ProductNoise(neighbour(there, reduced.rng))
    lowest = row(unflatten_rows(op.layout, vectors[:, [0 if reduced.sign > 0 else -1]].T), 0)
    noise.rayleigh(lowest, float(values[0 if reduced.sign > 0 else -1]))
    top = float(np.max(np.abs(values)))
    return bool(np.min(reduced.sign * values) >= -noise.band(op, top))
