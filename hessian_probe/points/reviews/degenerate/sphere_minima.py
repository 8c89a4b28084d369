"""Where on small spheres in the flat space is the reduced loss lowest?

On a sphere of radius ρ the lowest value m(ρ) of the reduced loss φ decides: m'(ρ) is the outward slope of
φ at the lowest point.  Slopes are judged, not values: a constant added to the loss does not hide them.
"""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import add_scaled, cast, row, unflatten_rows
from hessian_probe.points.reviews.degenerate.lyapunov_schmidt import ReducedLoss, RelaxedPoints
from hessian_probe.points.rounding import Rounding
from hessian_probe.spectrum.dense import dense_eigh

# Radii, each a quarter of the one before, from half the length of the parameters (at least 1) down.
NUM_RADII = 12
RATIO = 0.25
# Starts on each sphere in two or more dimensions, and steps taken from each; every step is one evaluation.
STARTS = 16
STEPS = 60
# A step turns by at most MAX_TURN radians, the first one by FIRST_TURN.
MAX_TURN = 0.5
FIRST_TURN = 0.2
# A lowest point is found where the slope along the sphere is at most this share of the outward one.
LEVEL = 0.02
# Dimensions up to which the starts on a sphere are taken to find every floor.
DIMENSIONS = 3
# Share of the starts on every sphere that must end on a floor; the others must lie higher.
ARRIVED = 0.75
# Floors whose Hessian is computed, on the widest and on the narrowest sphere.
LOOKED_AT = 3


def directions(dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors to start from, shape (s, dimension): random ones with their opposites."""
    if dimension == 1:
        return np.array([[1.0], [-1.0]])
    if dimension == 2:
        angles = 2 * np.pi * (np.arange(STARTS) + rng.random()) / STARTS
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    half = rng.standard_normal((STARTS // 2, dimension))
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    return np.concatenate([half, -half])


def along_sphere(found: RelaxedPoints) -> np.ndarray:
    """Slope of φ within the sphere, shape (s, k)."""
    return found.slope - (found.outward / found.radius)[:, None] * found.z


def sphere_minima(reduced: ReducedLoss, start: RelaxedPoints) -> RelaxedPoints:
    """Go down along the sphere from every row, and come to rest.

    Steps have the length that the last change of the slope suggests (J. Barzilai and J. M. Borwein, IMA J.
    Numer. Anal. 8, 1988, doi:10.1093/imanum/8.1.141), bounded as a turn; R is stepped towards rest at the
    same time.

    Args:
        reduced: the reduced loss.
        start: points to start from.

    Returns:
        The points reached, settled; rows of `start` that were not at rest are given back as they are.
    """
    if reduced.dimension == 1:
        return start
    radius = start.radius[:, None]
    found, last = start, None
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            slope = along_sphere(found)
            size = np.linalg.norm(slope, axis=1, keepdims=True)
            length = FIRST_TURN * radius / size
            if last is not None:
                moved, changed = found.z - last[0], slope - last[1]
                curvature = np.abs(np.sum(moved * changed, axis=1, keepdims=True))
                length = np.sum(moved**2, axis=1, keepdims=True) / curvature
            length = np.minimum(length, MAX_TURN * radius / size)
            length = np.where(np.isfinite(length) & start.good[:, None], length, 0.0)
            z = found.z - length * np.where(np.isfinite(slope), slope, 0.0)
            z *= radius / np.linalg.norm(z, axis=1, keepdims=True)
            y = found.y - np.where(np.isfinite(found.rest), found.rest, 0.0) / reduced.curvature
            last = found.z, slope
            found = reduced.at(z, y)
    return reduced.relax(found.z, np.where(np.isfinite(found.y), found.y, 0.0))


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
    rounding = Rounding.measured(there, reduced.rng)
    lowest = row(unflatten_rows(op.layout, vectors[:, [0 if reduced.sign > 0 else -1]].T), 0)
    rounding.compare_quotient(lowest, float(values[0 if reduced.sign > 0 else -1]))
    top = float(np.max(np.abs(values)))
    return bool(np.min(reduced.sign * values) >= -rounding.band(top))
