"""Minimum, maximum or saddle where second order is silent, by the reduced loss on the flat space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.points.evidence import Reason
from hessian_probe.points.reviews.degenerate.flat_floor import FlatFloor, follow_floor
from hessian_probe.points.reviews.degenerate.leading_order import LeadingOrder, leading_order, steep_fall
from hessian_probe.points.reviews.degenerate.lyapunov_schmidt import ReducedLoss, RelaxedPoints
from hessian_probe.points.reviews.degenerate.sphere_minima import (
    LEVEL,
    NUM_RADII,
    RATIO,
    along_sphere,
    directions,
    minima_intersect,
    sphere_minima,
)

# Radii (as counted in `sphere_minima`) at which a descent is sought first.
FIRST_RADII = (1, 2, 4)
# Lines along which the order is measured: through the lowest points, and random ones.
LOWEST_LINES = 3
RANDOM_LINES = 3
# Where orders differ, a line close to one of another order shows neither: SPARE_LINES others may replace it.
SPARE_LINES = 5
# A form that rises along all directions is claimed up to RISING_DIMENSIONS, a rise of different orders along
# different directions up to UNEVEN_DIMENSIONS: beyond, the starts are too few to find every narrow valley.
RISING_DIMENSIONS = 6
UNEVEN_DIMENSIONS = 2
# Radii in a row, each RATIO of the next, on which a fall along a curve must show; on which a rise must,
# which lines then confirm.
FALLING_RUN = 4
RISING_RUN = 3
# Exponents along a run may differ by so much.
TOLERANCE = 0.2
# Share of the starts that must come to rest at a lowest point.
ARRIVED = 0.75


class LocalForm(NamedTuple):
    """What the reduced loss does around 0.

    Attributes:
        kind: "falls" (lower values as near as can be seen), "rises" (or nowhere falls), "flat" (constant
            to rounding) or "unclear".
        reason: evidence.
        lower: a point with a lower loss where it falls, or where −f rises.
    """

    kind: str
    reason: Reason
    lower: RelaxedPoints | None = None


@np.errstate(all="ignore")
def find_local_form(reduced: ReducedLoss, parameter_scale: float, budget: int) -> LocalForm:
    """Find out what the reduced loss does around 0.

    Args:
        reduced: the reduced loss; with sign −1 that of −f.
        parameter_scale: length of the parameters, at least 1.
        budget: products that may be spent.

    Returns:
        The finding.

    Cost:
        In one flat dimension some 2,000 evaluations, in more at most 40,000.
    """
    if reduced.dimension == 1:
        return _along_line(reduced, parameter_scale)
    fall = _quick_fall(reduced, parameter_scale)
    if fall is not None:
        return fall
    units = directions(max(reduced.dimension, 3), reduced.rng)[:, : reduced.dimension]
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    lines = [leading_order(reduced, unit, parameter_scale) for unit in units[:RANDOM_LINES]]
    falling = next((line for line in lines if line.kind == "falls"), None)
    if falling is not None:
        return _falls(reduced, falling)
    if all(line.kind == "flat" for line in lines):
        return _floor(reduced, follow_floor(reduced, units, parameter_scale))
    return _around(reduced, parameter_scale, lines, units[RANDOM_LINES : RANDOM_LINES + SPARE_LINES], budget)


def _along_line(reduced: ReducedLoss, parameter_scale: float) -> LocalForm:
    line = leading_order(reduced, np.ones(1), parameter_scale)
    if line.kind == "falls":
        return _falls(reduced, line)
    if line.kind == "flat":
        valley = follow_floor(reduced, np.array([[1.0], [-1.0]]), parameter_scale)
        steep = None if valley.constant else steep_fall(reduced, np.ones(1), valley.radius)
        return _floor(reduced, valley) if steep is None else _falls(reduced, steep)
    if line.kind == "rises":
        return LocalForm(
            "rises",
            Reason("line_order", sign=reduced.sign, order=line.order, near=line.near, far=line.far),
            _lowest(reduced, np.ones(1), line.far),
        )
    return LocalForm("unclear", Reason("line_unclear"))


def _falls(reduced: ReducedLoss, line: LeadingOrder) -> LocalForm:
    return LocalForm(
        "falls",
        Reason("flat_order", sign=-reduced.sign, order=line.order, near=line.near, far=line.far),
        line.lower,
    )


def _floor(reduced: ReducedLoss, valley: FlatFloor) -> LocalForm:
    if valley.constant:
        return LocalForm(
            "flat",
            Reason(
                "floor",
                largest=valley.largest,
                error=valley.noise,
                radius=valley.radius,
                directions=valley.directions,
            ),
        )
    return LocalForm(
        "unclear",
        Reason("floor_ends", sign=reduced.sign, radius=valley.radius, largest=valley.largest),
    )


def _quick_fall(reduced: ReducedLoss, parameter_scale: float) -> LocalForm | None:
    """Go down on a few spheres, and measure the order along the lines found."""
    found, _ = _spheres(reduced, parameter_scale, FIRST_RADII)
    _, claim = reduced.thresholds(found)
    down = found.good & (found.outward < -claim)
    for radius in sorted(set(np.round(found.radius, 12)))[:LOWEST_LINES]:
        rows = np.flatnonzero(down & np.isclose(found.radius, radius, rtol=1e-6))
        if len(rows) == 0:
            continue
        lowest = rows[np.argmin(found.outward[rows])]
        line = leading_order(reduced, found.z[lowest] / found.radius[lowest], parameter_scale)
        if line.kind == "falls":
            return _falls(reduced, line)
    return None


def _spheres(
    reduced: ReducedLoss, parameter_scale: float, radii: tuple[int, ...]
) -> tuple[RelaxedPoints, int]:
    """Lowest points on spheres, radius by radius, and how many there are of each."""
    units = directions(reduced.dimension, reduced.rng)
    sizes = 0.5 * parameter_scale * RATIO ** np.array(radii, float)
    z = (sizes[:, None, None] * units[None]).reshape(-1, reduced.dimension)
    return sphere_minima(reduced, reduced.relax(z)), len(units)


def _lowest(reduced: ReducedLoss, unit: np.ndarray, radius: float) -> RelaxedPoints:
    return reduced.relax(radius * unit[None])


class _SphereMinimum(NamedTuple):
    """Lowest point on one sphere."""

    radius: float
    row: int
    slope: float
    noise: float
    claim: float
    arrived: bool


def _around(
    reduced: ReducedLoss, parameter_scale: float, lines: list[LeadingOrder], spare: np.ndarray, budget: int
) -> LocalForm:
    """Judge by the lowest points on spheres of all radii; `spare` are directions of further lines."""
    found, starts = _spheres(reduced, parameter_scale, tuple(range(NUM_RADII))[::-1])
    noise, claim = reduced.thresholds(found)
    with np.errstate(all="ignore"):
        level = np.linalg.norm(along_sphere(found), axis=1) <= LEVEL * np.abs(found.outward)
    spheres = []
    for start in range(0, len(found.z), starts):
        rows = np.arange(start, start + starts)
        good = rows[found.good[rows]]
        if len(good) < ARRIVED * starts:
            continue
        row = int(good[np.argmin(found.outward[good])])
        arrived = level[row] and np.sum(level[good]) >= ARRIVED * starts
        spheres.append(
            _SphereMinimum(found.radius[row], row, found.outward[row], noise[row], claim[row], bool(arrived))
        )
    run = _nearest_run(spheres)
    never_falls = all(line.kind in ("rises", "flat") for line in lines)
    if run is None and never_falls and minima_intersect(reduced, found, starts, budget):
        return LocalForm(
            "rises",
            Reason("spheres_level", sign=reduced.sign, near=found.radius[0], far=found.radius[-1]),
        )
    if run is None:
        return LocalForm("unclear", Reason("spheres_unclear"))
    order = _order(run)
    if run[0].slope < 0 and order is not None:
        return LocalForm(
            "falls",
            Reason("spheres_fall", sign=reduced.sign, order=order, near=run[0].radius, far=run[-1].radius),
            found.take(np.array([run[-1].row])),
        )
    if run[0].slope > 0 and order is not None and all(sphere.arrived for sphere in run):
        if reduced.dimension <= UNEVEN_DIMENSIONS:
            lines = _stand_in(reduced, parameter_scale, lines, spare)
        return _rises(reduced, parameter_scale, found, run, order, lines)
    return LocalForm("unclear", Reason("spheres_no_power", sign=reduced.sign))


def _nearest_run(spheres: list[_SphereMinimum]) -> list[_SphereMinimum] | None:
    """Take the smallest spheres on which the slope is beyond doubt, unless smaller ones contradict."""
    sure = [i for i, s in enumerate(spheres) if abs(s.slope) > s.claim]
    if not sure:
        return None
    sign = np.sign(spheres[sure[0]].slope)
    length = RISING_RUN if sign > 0 else FALLING_RUN
    run = spheres[sure[0] : sure[0] + length]
    if len(run) < length:
        return None
    if any(abs(s.slope) <= s.claim or np.sign(s.slope) != sign for s in run):
        return None
    if any(sign * s.slope < -s.noise for s in spheres[: sure[0]]):
        return None
    return run


def _order(run: list[_SphereMinimum]) -> float | None:
    slopes, radii = (np.log([abs(getattr(s, name)) for s in run]) for name in ("slope", "radius"))
    exponents = np.diff(slopes) / np.diff(radii)
    if np.ptp(exponents) > TOLERANCE or np.min(exponents) < 2.0 - TOLERANCE:
        return None
    return float(exponents[0]) + 1.0


def _stand_in(
    reduced: ReducedLoss, parameter_scale: float, lines: list[LeadingOrder], spare: np.ndarray
) -> list[LeadingOrder]:
    """Replace the lines that show no order, as far as spare directions go."""
    unclear = sum(line.kind == "unclear" for line in lines)
    lines = [line for line in lines if line.kind != "unclear"]
    for unit in spare:
        if unclear == 0:
            break
        line = leading_order(reduced, unit, parameter_scale)
        if line.kind != "unclear":
            lines.append(line)
            unclear -= 1
    return lines


def _rises(
    reduced: ReducedLoss,
    parameter_scale: float,
    found: RelaxedPoints,
    run: list[_SphereMinimum],
    order: float,
    lines: list[LeadingOrder],
) -> LocalForm:
    """Confirm a rise along the lines through the lowest points and along random ones."""
    lowest = [
        leading_order(reduced, found.z[s.row] / found.radius[s.row], parameter_scale)
        for s in run[:LOWEST_LINES]
    ]
    orders = {line.order for line in (*lowest, *lines)}
    even = len(orders) == 1 and all(line.kind == "rises" for line in (*lowest, *lines))
    # Where orders differ, the lowest points lie on a curve, and a line through one of them has no order.
    clean = len(lines) == RANDOM_LINES and all(line.kind == "rises" for line in lines)
    clean = clean and all(line.kind != "falls" for line in lowest)
    if not clean or not (even or reduced.dimension <= UNEVEN_DIMENSIONS):
        return LocalForm("unclear", Reason("rise_not_everywhere", sign=reduced.sign))
    if reduced.dimension > RISING_DIMENSIONS:
        return LocalForm(
            "unclear",
            Reason("rise_many_dimensions", sign=reduced.sign, dimension=reduced.dimension),
        )
    orders = {line.order for line in lines} | {round(order)}
    powers = " and ".join(map(str, sorted(orders)))
    return LocalForm(
        "rises",
        Reason("spheres_rise", sign=reduced.sign, powers=powers, near=run[0].radius, far=run[-1].radius),
        found.take(np.array([run[-1].row])),
    )
