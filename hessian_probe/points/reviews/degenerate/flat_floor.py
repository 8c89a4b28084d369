"""Is the reduced loss constant along the flat space: does the point lie on a critical manifold?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.points.reviews.degenerate.lyapunov_schmidt import NOISE_FACTOR, ReducedLoss

# Radii in units of the parameters' length (at least 1), each GROWTH times the one before; up to LAST, or
# until relaxation fails, where the loss's own scale shows.
FIRST = 1.0 / 16.0
GROWTH = 1.25
LAST = 64.0
# The floor must be constant to rounding over this far, along this share of the directions.  Dixon and
# Price's function of six variables, which falls like the 32nd power, is told from a floor from 0.15 on in
# float64, and relaxation fails at 0.4 in float32; floors of linear networks are followed to 0.55.
NEEDED = 0.5
SHARE = 0.75
# Where rounding hides slopes above √eps·‖H‖ times the radius, nothing is followed further.
# Off by more than this share of the radius from where it was expected, the point is on another branch.
JUMP = 0.25


class FlatFloor(NamedTuple):
    """How far the reduced loss is constant to rounding.

    Attributes:
        constant: whether it is, along the directions tried, as far as they could be followed, and far enough.
        radius: the distance over which it was seen to be.
        directions: number of directions tried.
        largest: largest slope seen there.
        noise: its noise.
    """

    constant: bool
    radius: float
    directions: int
    largest: float
    noise: float


def follow_floor(reduced: ReducedLoss, units: np.ndarray, parameter_scale: float) -> FlatFloor:
    """Go out along every direction in N, at rest along R, while that can be done.

    Args:
        reduced: the reduced loss.
        units: directions in N, shape (s, k).
        parameter_scale: length of the parameters, at least 1.

    Returns:
        Whether all gradients out to there are zero to rounding.

    Cost:
        Some 3,000 evaluations for 16 directions, at most 20,000.
    """
    count, top = len(units), float(np.max(reduced.curvature, initial=0.0))
    here = float(np.linalg.norm(reduced.flat.T @ reduced.here))
    rows, far = np.arange(count), 0.0
    y = np.zeros((count, len(reduced.curvature)))
    largest = noise = 0.0
    with np.errstate(all="ignore"):
        spare = np.sum((reduced.stiff.T @ reduced.here) ** 2 / np.abs(reduced.curvature))
    rounding = NOISE_FACTOR * reduced.eps * abs(reduced.op.value) + spare
    for step in range(int(np.log(LAST / FIRST) / np.log(GROWTH)) + 1):
        radius = FIRST * parameter_scale * GROWTH**step
        found = reduced.relax(radius * units[rows], y[rows], tight=True)
        bounds = reduced.noise(found)
        along = np.linalg.norm(found.slope, axis=1)
        limit = np.linalg.norm(bounds.slope, axis=1) + here + reduced.eps * top * radius
        with np.errstate(all="ignore"):
            # What is left of the gradient along R shifts y, and that the slope by at most ‖H‖ times as much.
            slack = top * np.linalg.norm(found.rest / reduced.curvature, axis=1)
            jump = np.linalg.norm(found.y - y[rows], axis=1)
            at_rest = np.linalg.norm(found.rest, axis=1) <= np.linalg.norm(bounds.rest, axis=1)
        kept = (
            found.good
            & (limit <= np.sqrt(reduced.eps) * top * radius)
            & (at_rest | (slack <= limit))
            & ((jump <= JUMP * radius) | (step == 0))
        )
        # A slope that rounding hides all along may still add up to a fall.
        fallen = found.value < -(bounds.value + rounding)
        moved = kept & ((along > limit + slack) | fallen)
        enough = far >= NEEDED * parameter_scale
        if np.any(moved & (np.logical_not(enough) | (found.outward < -limit - slack))):
            worst = int(np.argmax(np.where(moved, along - limit, -np.inf)))
            return FlatFloor(False, float(radius), count, float(along[worst]), float(limit[worst]))
        if np.any(moved) or (enough and not np.all(kept)) or np.sum(kept) < SHARE * count:
            break
        far, rows = float(radius), rows[kept]
        largest, noise = max(largest, float(np.max(along[kept]))), max(noise, float(np.max(limit[kept])))
        # Off the tangent space the floor bends away like the square of the distance.
        y[rows] = GROWTH**2 * found.y[kept]
    return FlatFloor(far >= NEEDED * parameter_scale, far, count, largest, noise)
