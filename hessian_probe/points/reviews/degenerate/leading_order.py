"""Leading order of the reduced loss along a line through the point, and whether it rises or falls.

φ(t) = Σ c_m tᵐ along ±ẑ.  Its outward slopes at many radii, each with its noise, are fitted by even and by
odd powers.  The lowest coefficient beyond its error decides: an odd one falls on one side, an even one
rises or falls on both.  A coefficient within its error counts as zero, as curvature within the zero band.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.points.reviews.degenerate.lyapunov_schmidt import ReducedLoss, RelaxedPoints

# Radii, each half of the one before, from half the length of the parameters (at least 1) down.
NUM_RADII = 24
# Highest even and odd power fitted, and radii that a fit needs beyond its unknowns.
HIGHEST = 12
SPARE_RADII = 2
# A fit holds where the mean square of its residual is at most MISFIT times the expected error.
MISFIT = 2.0
# A coefficient beyond this number of standard errors counts.
ERRORS = 4.0
# The noise of a slope is an upper bound; a fit takes this share of it as the standard error.
STANDARD = 0.25
# The slope must show the order by itself over this number of octaves, its exponent within TOLERANCE.
OCTAVES = 4
# A fall of high order shows over a narrow range only, but steeply: on STEEP_RADII radii in a row, each
# STEEP_GROWTH times the one before, as one power, of at least STEEP_ORDER, over three orders of magnitude.
STEEP_RADII = 6
STEEP_GROWTH = 1.08
STEEP_ORDER = 8.0
STEEP_RANGE = 1e3
# A line is flat where it is so up to this share of the parameters' length; `flat_floor` follows it further.
FLAT_WITHIN = 0.125
TOLERANCE = 0.3


class LeadingOrder(NamedTuple):
    """What φ does along a line.

    Attributes:
        kind: "rises" or "falls" (on one side at least) as near as can be seen, "flat" (constant to
            rounding) or "unclear".
        order: the power it starts with, 0 where none is seen.
        side: +1 or −1, the side on which it falls.
        near: smallest radius at which that shows beyond rounding.
        far: largest radius of the range on which it rests.
        lower: where it falls, the furthest point before it rises again; else None.
    """

    kind: str
    order: int
    side: float
    near: float
    far: float
    lower: RelaxedPoints | None = None


class _OutwardSlopes(NamedTuple):
    """Outward slopes on one side by ascending radius, with noise, and what can be told from zero."""

    radii: np.ndarray
    slope: np.ndarray
    noise: np.ndarray
    claim: np.ndarray


def leading_order(reduced: ReducedLoss, unit: np.ndarray, parameter_scale: float) -> LeadingOrder:
    """Look along ±unit.

    Args:
        reduced: the reduced loss.
        unit: direction in N, shape (k,).
        parameter_scale: length of the parameters, at least 1.

    Returns:
        What is seen.

    Cost:
        Some 200 to 1,500 evaluations.
    """
    radii = 0.5 * parameter_scale * 0.5 ** np.arange(NUM_RADII)[::-1]
    z = np.concatenate([radii, -radii])[:, None] * unit[None]
    found = reduced.relax(z, tight=True)
    noise, claim = reduced.thresholds(found)
    good = found.good & np.isfinite(noise)
    both = np.flatnonzero(good[:NUM_RADII] & good[NUM_RADII:])
    # A gap ends the range: what lies beyond it is another branch.
    if len(both):
        both = both[: int(np.argmax(np.append(np.diff(both), 2) > 1)) + 1]
    sides = [
        _OutwardSlopes(radii[both], found.outward[rows], noise[rows], claim[rows])
        for rows in (both, both + NUM_RADII)
    ]
    seen = _judge(sides[0], sides[1], parameter_scale)
    if seen.kind != "falls":
        return seen
    downhill = sides[0 if seen.side > 0 else 1]
    falling = (downhill.slope < 0) | (downhill.radii < seen.near)
    last = both[int(np.argmin(np.append(falling, False))) - 1] + (0 if seen.side > 0 else NUM_RADII)
    return seen._replace(lower=found.take(np.array([last])))


def steep_fall(reduced: ReducedLoss, unit: np.ndarray, start: float) -> LeadingOrder | None:
    """Look for a fall of high order along ±unit that begins to show beyond `start`."""
    radii = start * STEEP_GROWTH ** np.arange(2 * STEEP_RADII)
    for side in (1.0, -1.0):
        found = reduced.relax(side * radii[:, None] * unit[None], tight=True)
        _, claim = reduced.thresholds(found)
        falls = found.good & (found.outward < -claim)
        first = int(np.argmax(falls))
        window = slice(first, first + STEEP_RADII)
        if np.sum(falls[window]) < STEEP_RADII:
            continue
        slopes = -found.outward[window]
        exponents = np.diff(np.log(slopes)) / np.log(STEEP_GROWTH)
        error = 2.0 * claim[window][:-1] / slopes[:-1] / np.log(STEEP_GROWTH)
        order = float(exponents[-1]) + 1.0
        same = np.all(np.abs(exponents - exponents[-1]) <= TOLERANCE + error)
        if same and order >= STEEP_ORDER and slopes[-1] >= STEEP_RANGE * slopes[0]:
            last = found.take(np.array([first + STEEP_RADII - 1]))
            return LeadingOrder(
                "falls", round(order), side, radii[first], radii[first + STEEP_RADII - 1], last
            )
    return None


def _judge(ahead: _OutwardSlopes, behind: _OutwardSlopes, parameter_scale: float) -> LeadingOrder:
    nothing = LeadingOrder("unclear", 0, 0.0, 0.0, 0.0)
    if len(ahead.radii) < OCTAVES:
        return nothing
    near = ahead.radii <= FLAT_WITHIN * parameter_scale
    if np.any(near) and all(np.all(np.abs(s.slope[near]) <= s.noise[near]) for s in (ahead, behind)):
        return LeadingOrder("flat", 0, 0.0, float(ahead.radii[0]), float(ahead.radii[near][-1]))
    order, sign = _lowest_order(ahead, behind)
    if order < 3:
        return nothing
    if order % 2 == 0 and sign > 0:
        shown = [_shown(s, order, 1.0) for s in (ahead, behind)]
        if None in shown:
            return nothing
        return LeadingOrder("rises", order, 0.0, max(s[0] for s in shown if s), min(s[1] for s in shown if s))
    for side, slopes in ((1.0, ahead), (-1.0, behind)):
        seen = _shown(slopes, order, -1.0)
        if seen is not None:
            return LeadingOrder("falls", order, side, *seen)
    return nothing


def _shown(slopes: _OutwardSlopes, order: int, sign: float) -> tuple[float, float] | None:
    """Find the range of radii over which the slope itself has that sign and order, the nearest ones seen."""
    towards = sign * slopes.slope
    beyond = np.flatnonzero(np.abs(slopes.slope) > slopes.claim)
    if len(beyond) < OCTAVES:
        return None
    first = beyond[0]
    window = slice(first, first + OCTAVES)
    if np.any(towards[: first + OCTAVES] < -slopes.noise[: first + OCTAVES]):
        return None
    if np.any(towards[window] <= slopes.claim[window]):
        return None
    exponents = np.diff(np.log(towards[window])) / np.diff(np.log(slopes.radii[window]))
    error = slopes.claim[window][:-1] / towards[window][:-1] / np.log(2.0)
    if np.any(np.abs(exponents - (order - 1)) > TOLERANCE + error):
        return None
    return float(slopes.radii[first]), float(slopes.radii[first + OCTAVES - 1])


def _lowest_order(ahead: _OutwardSlopes, behind: _OutwardSlopes) -> tuple[int, float]:
    """Return the lowest power with a coefficient beyond its error, and its sign; 0 if there is none."""
    even = 0.5 * (ahead.slope + behind.slope)
    odd = 0.5 * (ahead.slope - behind.slope)
    error = 0.5 * (ahead.noise + behind.noise)
    found = [_fit(ahead.radii, part, error, start) for part, start in ((even, 2), (odd, 1))]
    orders = [item for item in found if item is not None]
    if len(orders) < 2:
        return 0, 0.0
    return min((item for item in orders if item[0]), default=(0, 0.0))


def _fit(radii: np.ndarray, slope: np.ndarray, error: np.ndarray, start: int) -> tuple[int, float] | None:
    """Fit slope = Σ m c_m r^(m−1) over m = start, start + 2, … on the widest range where that holds."""
    powers = np.arange(start, HIGHEST + 1, 2)
    error = np.maximum(STANDARD * error, np.finfo(float).tiny)
    for count in range(len(radii), len(powers) + SPARE_RADII - 1, -1):
        r = radii[:count] / radii[count - 1]
        columns = r[:, None] ** (powers - 1) / error[:count, None]
        scale = np.linalg.norm(columns, axis=0)
        u, s, vt = np.linalg.svd(columns / scale, full_matrices=False)
        if not np.all(np.isfinite(s)) or s[-1] <= 1e-13 * s[0]:
            continue
        target = slope[:count] / error[:count]
        weights = vt.T @ ((u.T @ target) / s)
        left = target - (columns / scale) @ weights
        if float(left @ left) / (count - len(powers)) > MISFIT:
            continue
        errors = np.sqrt(np.sum((vt.T / s) ** 2, axis=1))
        beyond = np.flatnonzero(np.abs(weights) > ERRORS * errors)
        if len(beyond) == 0:
            return 0, 0.0
        return int(powers[beyond[0]]), float(np.sign(weights[beyond[0]]))
    return None
