"""What finite steps say of a point where the second derivative is blind or is contradicted.

The loss is sampled on spheres a factor APART apart.  A claim needs the same finding on AGREE of them
in a row, the smallest that rounding lets see among them.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, cast, norm
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.points.reviews.nonsmooth.sphere_sampling import STATIONARY, Sphere, SphereSampling
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.second_order import Verdict
from hessian_probe.results import number, signed

APART = 30.0
SPHERES = 4
AGREE = 3
# The parameters' own rounding must be below this share of a sphere's radius.
ROUNDING_SHARE = 1e-2
# A peak is lower on both sides: the tilt is at most this share of the bend.
TILT_SHARE = 0.5
# Gradients that shrink with the sphere by at least half the power that a second order term has leave no
# slope and no kink of first order.
SECOND_ORDER = 0.5
# A change of the loss is at most the longest gradient times the distance, of which samples show a part.
UNEXPLAINED = 4.0
# A straight slope keeps at least this share of its length over the distances.
STRAIGHT = 0.5
# A null direction is known only to DIRECTION_ROUNDINGS eps; its leakage into the steepest direction changes
# the loss by the square of that angle, which must not be read as an increase.
DIRECTION_ROUNDINGS = 16.0


class Stationarity(NamedTuple):
    """What finite steps found.

    Attributes:
        verdict: the label, or None if they do not decide.
        evidence: what was found, what decided first.
        direction: unit vector along which the loss falls on both sides, or None.
        scales: distances and the curvature by finite steps along it (there, on the smaller spheres along
            directions found again).
        falls: a lower loss was found on the two smallest spheres that show anything.
        rises: a higher one.
        extent: change of the loss on the largest sphere, the smaller one of fall and rise at a saddle.
        offset: distance from the parameters to the point that was examined.
    """

    verdict: Verdict | None
    evidence: tuple[Reason, ...]
    direction: Vector | None = None
    scales: tuple[tuple[float, float], ...] = ()
    falls: bool = False
    rises: bool = False
    extent: float = 0.0
    offset: float = 0.0


def examine_stationarity(
    op: HessianOperator,
    directions: list[Vector],
    rounding: Rounding,
    top: float,
    rng: np.random.Generator,
    farthest: float = math.inf,
    nearest: float = 0.0,
) -> Stationarity:
    """Look at the loss around a point over decades of distance.

    Args:
        op: operator at the point.
        directions: directions to look along, beside random ones and those found on the previous spheres.
        rounding: rounding error at the parameters.
        top: ‖H‖, as far as the second derivative shows it.
        rng: source of randomness.
        farthest: largest distance of interest.
        nearest: smallest one.

    Returns:
        The finding.

    Cost:
        About 60 gradients for each of up to six distances.
    """
    around = SphereSampling(op, rounding, top, rng)
    spacing = op.eps * float(norm(cast(op.x, op.layout.work_dtypes)))
    radius, spheres = min(0.1 * parameter_scale(op), farthest), []
    carried: list[Vector] = []
    for _ in range(SPHERES):
        if spacing > ROUNDING_SHARE * radius or radius < nearest:
            break
        sphere = around.look(radius, [*directions, *carried])
        radius /= APART
        if sphere is not None:
            spheres.append(sphere)
            carried = [sphere.low.direction, sphere.peak[0].direction]
    return _judge(spheres, (DIRECTION_ROUNDINGS * op.eps) ** 2)


def _judge(spheres: list[Sphere], share: float) -> Stationarity:
    """Find what AGREE spheres in a row say, the smallest visible among them."""
    if not spheres:
        return Stationarity(None, (Reason("no_finite_step"),))
    if not any(sphere.moved for sphere in spheres):
        return Stationarity(None, (Reason("plateau", distance=spheres[0].distance),))
    seen = [sphere for sphere in spheres if sphere.low.change != 0 or sphere.high.change != 0]
    falls = len(seen) > 1 and all(s.low.change < 0 for s in seen[-2:])
    rises = len(seen) > 1 and all(s.high.change > 0 for s in seen[-2:])
    return _kind(seen, share)._replace(falls=falls, rises=rises)


def _kind(seen: list[Sphere], share: float) -> Stationarity:
    near = seen[-AGREE:]
    if len(near) < AGREE:
        return Stationarity(None, (_hidden(seen),))
    if not _explained(near):
        return Stationarity(None, (_unexplained(near),))
    if _straight(near):
        return _slope(seen)
    if _second_order(near) or all(sphere.stationary <= STATIONARY for sphere in near):
        if all(s.low.change > share * max(s.high.change, 0.0) for s in seen):
            return _extremum("minimum", near)._replace(extent=seen[0].low.change)
        if all(s.high.change < share * min(s.low.change, 0.0) for s in seen):
            return _extremum("maximum", near)._replace(extent=-seen[0].high.change)
        if all(s.low.change < 0 < s.high.change for s in near) and _peaked(near):
            extent = min(-seen[0].low.change, seen[0].high.change)
            return _saddle(near)._replace(extent=extent)
    return Stationarity(None, (_disagree(seen),), _falling(near), _curvatures(near))


def _second_order(near: list[Sphere]) -> bool:
    """Whether the gradients shrink with the distance: then no slope and no kink is of first order."""
    # From every sphere to the next: far out a gradient may grow for other reasons, and hide a slope.
    return all(_shrinks(outer, inner) for outer, inner in pairwise(near))


def _shrinks(outer: Sphere, inner: Sphere) -> bool:
    if not inner.steepest > 0:
        return outer.steepest > 0
    shrunk = math.log(outer.steepest / inner.steepest) / math.log(outer.distance / inner.distance)
    return shrunk >= SECOND_ORDER


def _explained(near: list[Sphere]) -> bool:
    """Whether the gradients seen are long enough for the changes of the loss."""
    return all(
        max(abs(s.low.change), abs(s.high.change)) <= UNEXPLAINED * s.steepest * s.distance for s in near
    )


def _straight(near: list[Sphere]) -> bool:
    """Whether a slope keeps its length over the distances."""
    steady = near[-1].min_norm >= STRAIGHT * near[0].min_norm
    return steady and all(sphere.slope for sphere in near) and not _second_order(near)


def _peaked(near: list[Sphere]) -> bool:
    """Whether some direction is lower on both sides, or there is no first order at all."""
    if any(sphere.even_change >= 0 for sphere in near):
        return False
    return _second_order(near) or all(s.odd_change <= TILT_SHARE * abs(s.even_change) for s in near)


def _falling(near: list[Sphere]) -> Vector | None:
    """A direction that is lower on both sides, if every sphere has one."""
    both = all(
        sphere.even_change < 0 and sphere.odd_change <= TILT_SHARE * abs(sphere.even_change)
        for sphere in near
    )
    return near[0].peak[0].direction if both else None


def _curvatures(near: list[Sphere]) -> tuple[tuple[float, float], ...]:
    return tuple((sphere.distance, sphere.curvature) for sphere in near)


def _extremum(label: str, near: list[Sphere]) -> Stationarity:
    kind, side = ("lowest", "higher") if label == "minimum" else ("highest", "lower")
    values = [s.low.change if label == "minimum" else s.high.change for s in near]
    listed = ", ".join(
        f"{signed(value, 2)} at {number(sphere.distance, 2)}"
        for value, sphere in zip(values, near, strict=True)
    )
    evidence = (Reason("finite_steps_extremum", kind=kind, side=side, listed=listed), _balance(near))
    verdict = Verdict(label, False, False, None, evidence)
    direction = near[0].peak[0].direction if label == "maximum" else None
    return Stationarity(verdict, evidence, direction, _curvatures(near))


def _balance(near: list[Sphere]) -> Reason:
    if _second_order(near):
        return Reason("gradient_vanishes")
    return Reason("zero_in_hull", share=max(s.stationary for s in near))


def _saddle(near: list[Sphere]) -> Stationarity:
    listed = ", ".join(
        f"{signed(s.low.change, 2)} and {signed(s.high.change, 2)} at {number(s.distance, 2)}" for s in near
    )
    evidence = (Reason("finite_steps_saddle", listed=listed), _balance(near))
    verdict = Verdict("saddle", False, False, None, evidence)
    return Stationarity(verdict, evidence, near[0].peak[0].direction, _curvatures(near))


def _slope(seen: list[Sphere]) -> Stationarity:
    last = seen[-1]
    slope = Reason(
        "finite_steps_slope", distance=last.distance, shortest=last.min_norm, longest=last.steepest
    )
    return Stationarity(Verdict("not_critical", False, False, None, (slope,)), (slope,))


def _hidden(seen: list[Sphere]) -> Reason:
    if not seen:
        return Reason("finite_steps_hidden")
    return Reason("finite_steps_rounded", listed=", ".join(number(s.distance, 2) for s in seen))


def _unexplained(near: list[Sphere]) -> Reason:
    last = near[-1]
    change = max(abs(last.low.change), abs(last.high.change))
    return Reason("finite_steps_jump", change=change, distance=last.distance, longest=last.steepest)


def _disagree(seen: list[Sphere]) -> Reason:
    listed = "; ".join(
        f"{signed(s.low.change, 2)} to {signed(s.high.change, 2)} at {number(s.distance, 2)}" for s in seen
    )
    return Reason("finite_steps_disagree", listed=listed)
