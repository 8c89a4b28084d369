"""Finite steps at kinks, and where the second derivative fails: they confirm or replace a verdict.

The loss is sampled on spheres a factor APART apart.  A claim needs the same finding on AGREE of them
in a row, the smallest that rounding lets see among them.  Points beside a kink are judged by what is left to
gain (`reviews/resolution.py`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax

from hessian_probe.arrays import Layout, Vector, add_scaled, norm, random_normal, scale
from hessian_probe.operators import derivatives
from hessian_probe.operators.data import Batch
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.tracing import LossKey
from hessian_probe.points.evidence import Reason
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.points.locate import LocatedPoint
from hessian_probe.points.measurements import Measurements
from hessian_probe.points.reviews.nonsmooth.sphere_sampling import Sphere, SphereSampling
from hessian_probe.points.rounding import SINGLE
from hessian_probe.points.thresholds import (
    AGREE,
    APART,
    CLOSER,
    DIRECTION_ROUNDINGS,
    FEW_DIRECTIONS,
    HIDDEN_SLOPE,
    ROUNDED_RADIUS,
    SAMPLED_PART,
    SECOND_ORDER,
    SPHERES,
    STATIONARY,
    STRAIGHT_SLOPE,
    TILT_SHARE,
)
from hessian_probe.points.verdict import Descent, Verdict, undetermined
from hessian_probe.programs.active_kinks import ties
from hessian_probe.results import number, signed


class Stationarity(NamedTuple):
    """What finite steps found.

    Attributes:
        label: the label, or None if they do not decide.
        evidence: what was found, what decided first.
        descent: displacement along which the loss falls on both sides, or None.
        falls: a lower loss was found on the two smallest spheres that show anything.
        rises: a higher one.
    """

    label: str | None
    evidence: tuple[Reason, ...]
    descent: Vector | None = None
    falls: bool = False
    rises: bool = False


def applies(m: Measurements, verdict: Verdict) -> bool:
    """Whether the loss has kinks, or its second derivative fails, and its gradient is a guide."""
    facts = m.op.objective.facts
    # Gradients that are drawn, coarse, or not those of the loss are no guide.
    misled = facts.random or facts.callback or facts.custom_derivative or m.op.eps > SINGLE
    failed = m.failed or verdict.failed
    return not misled and (m.problem is None or failed) and bool(facts.kinks or failed)


def review(m: Measurements, verdict: Verdict) -> Verdict:
    """Let finite steps confirm, withdraw or replace a verdict.

    Returns:
        The verdict as amended.

    Cost:
        Four gradients for a saddle; about 60 for each of four distances otherwise.
    """
    op, label, extremum = m.located.operator or m.op, verdict.label, verdict.label in ("minimum", "maximum")
    first: list[Reason] = []
    if label == "saddle":
        hidden = _hidden_slope(op, m)
        if hidden is None:
            return verdict
        first = [hidden]
    elif label in ("undetermined", "not_critical"):
        failed = m.failed or verdict.failed
        if not (failed if label == "undetermined" else at_a_kink(op.objective, op.x)):
            return verdict
    found = examine_stationarity(op, m, near=extremum)
    if extremum:
        if found.label in (None, label) and not (found.falls if label == "minimum" else found.rises):
            # At a kink the loss may fall within a wedge so narrow that no sample meets it.
            if not at_a_kink(op.objective, op.x):
                return verdict
            if op.size > FEW_DIRECTIONS:
                return undetermined(Reason("kinks_many_directions", size=op.size), *verdict.evidence)
            return verdict._replace(strict=False, certified=False).with_reasons(Reason("kink_sampled"))
        side = "lower" if label == "minimum" else "higher"
        first = [Reason("finite_steps_differ", label=label, side=side)]
    elif label == found.label == "not_critical":
        return verdict
    many = found.label in ("minimum", "maximum") and op.size > FEW_DIRECTIONS
    if label in ("degenerate", "undetermined") and found.label is None:
        return verdict.with_reasons(*found.evidence)
    if many:
        first = [Reason("kinks_many_directions", size=op.size), *found.evidence, *first]
    else:
        first = [*first, *found.evidence] if found.label is None else [*found.evidence, *first]
    decided = "undetermined" if many or found.label is None else found.label
    evidence = (*first, *verdict.evidence)
    if m.problem is not None and m.problem.code == "gradient_nonfinite":  # what training stumbles over
        evidence = (*verdict.evidence, *first)
    if m.sampled:
        return undetermined(Reason("finite_steps_not_held_out"), *evidence)
    replaced = Verdict(decided, False, False, None, evidence)
    if op is m.op:
        replaced = replaced._replace(located=LocatedPoint("exact", 0.0, op.value, None, ()))
    if found.descent is not None:
        replaced = replaced._replace(lower=Descent(found.descent, straight=True))
    return replaced


def _hidden_slope(op: HessianOperator, m: Measurements) -> Reason | None:
    """Say so if gradients on both sides of the point agree on a slope that the point does not show."""
    radii = (check.radius for check in m.line_checks.values() if check.radius > 0)
    distance, own = min(radii, default=0.1 * parameter_scale(op)), float(norm(op.gradient_vector))
    noise, means = 8 * m.rounding.gradient, []
    for share in CLOSER:
        draw = random_normal(m.rng, op.layout, op.active)
        unit = scale(1 / norm(draw), draw)
        ahead, behind = (op.moved(unit, s * share * distance).gradient_vector for s in (1.0, -1.0))
        means.append(0.5 * float(norm(add_scaled(ahead, 1.0, behind))))
        if not means[-1] > max(HIDDEN_SLOPE * max(float(norm(g)) for g in (ahead, behind)), 4 * own + noise):
            return None
    if means[1] < HIDDEN_SLOPE * means[0]:
        return None
    return Reason("hidden_slope", gradient=own, mean=means[1], distance=CLOSER[1] * distance)


def at_a_kink(objective: Objective, x: Vector) -> bool:
    """Whether operands of the loss's kinks tie at `x` on any batch; True also where that cannot be told.

    Returns:
        False only if none of these kinks lies at `x`, on any batch.

    Cost:
        One evaluation of the loss, and its compilation the first time.
    """
    kinks, eps = frozenset(objective.facts.kinks), float(objective.eps)

    def tie(batch: Batch) -> bool:
        program = objective.loss, objective.layout, batch.layout, objective.shapes(batch)
        return _ties(*program, kinks, eps)(jax.tree.leaves((x, objective.non_variables, batch.arrays)))

    return bool(kinks) and any(map(tie, objective.data))


@lru_cache(maxsize=64)
def _ties(
    key: LossKey, layout: Layout, batch_layout: Layout | None, shapes: Any, kinks: frozenset[str], eps: float
) -> Callable[[list[Any]], bool]:
    kernel = partial(inspect.unwrap(derivatives.value), key, layout, batch_layout)
    return ties(jax.make_jaxpr(kernel)(*shapes), len(shapes[0]), kinks, eps)


def examine_stationarity(op: HessianOperator, m: Measurements, *, near: bool) -> Stationarity:
    """Look at the loss over decades of distance, or as far as the curvature holds (`near`).

    Along extreme eigenvectors, the gradient, random directions and those found on the previous spheres.

    Returns:
        The finding.

    Cost:
        About 60 gradients for each of four distances.
    """
    ends = () if m.extremes is None else (m.extremes.low, m.extremes.high)
    directions = [end.vector for end in ends if end is not None]
    if math.isfinite(float(norm(op.gradient_vector))):
        directions.append(op.gradient_vector)
    around = SphereSampling(op, m.rounding, 0.0 if m.extremes is None else m.extremes.top, m.rng)
    spacing = op.eps * float(norm(op.x_vector))
    held = [check.radius for check in m.line_checks.values()] if near else []
    radius, carried, spheres = min([0.1 * parameter_scale(op), *held]), list[Vector](), list[Sphere]()
    for _ in range(SPHERES):
        if spacing > ROUNDED_RADIUS * radius:
            break
        sphere = around.look(radius, [*directions, *carried])
        radius /= APART
        if sphere is not None:
            spheres.append(sphere)
            carried = [sphere.low.direction, sphere.peak[0].direction]
    if not spheres:
        return Stationarity(None, (Reason("no_finite_step"),))
    if not any(sphere.moved for sphere in spheres):
        return Stationarity(None, (Reason("plateau", distance=spheres[0].distance),))
    seen = [sphere for sphere in spheres if sphere.low.change != 0 or sphere.high.change != 0]
    falls = len(seen) > 1 and all(s.low.change < 0 for s in seen[-2:])
    rises = len(seen) > 1 and all(s.high.change > 0 for s in seen[-2:])
    return _kind(seen, (DIRECTION_ROUNDINGS * op.eps) ** 2)._replace(falls=falls, rises=rises)


def _kind(seen: list[Sphere], share: float) -> Stationarity:
    """Find what AGREE spheres in a row say, the smallest visible among them."""
    near = seen[-AGREE:]
    if len(near) < AGREE:
        listed = ", ".join(number(s.distance, 2) for s in seen) or "no distance"
        return Stationarity(None, (Reason("finite_steps_rounded", listed=listed),))
    changes = [max(abs(s.low.change), abs(s.high.change)) for s in near]
    last, second_order = near[-1], all(_shrinks(outer, inner) for outer, inner in pairwise(near))
    if any(change > SAMPLED_PART * s.steepest * s.distance for change, s in zip(changes, near, strict=True)):
        jump = {"change": changes[-1], "distance": last.distance, "longest": last.steepest}
        return Stationarity(None, (Reason("finite_steps_jump", **jump),))
    steady = last.min_norm >= STRAIGHT_SLOPE * near[0].min_norm and not second_order
    if steady and all(sphere.slope for sphere in near):
        numbers = {"distance": last.distance, "shortest": last.min_norm, "longest": last.steepest}
        return Stationarity("not_critical", (Reason("finite_steps_slope", **numbers),))
    listed = "; ".join(
        f"{signed(s.low.change, 2)} to {signed(s.high.change, 2)} at {number(s.distance, 2)}" for s in seen
    )
    peaked = all(s.even_change < 0 and s.odd_change <= TILT_SHARE * abs(s.even_change) for s in near)
    bent = peaked or (second_order and all(s.even_change < 0 for s in near))
    down = scale(near[0].distance, near[0].peak[0].direction)
    if second_order or all(sphere.stationary <= STATIONARY for sphere in near):
        balance = Reason("gradient_vanishes")
        if not second_order:
            balance = Reason("zero_in_hull", share=max(s.stationary for s in near))
        if all(s.low.change > share * max(s.high.change, 0.0) for s in seen):
            risen = Reason("finite_steps_extremum", kind="lowest", side="higher", listed=listed)
            return Stationarity("minimum", (risen, balance))
        if all(s.high.change < share * min(s.low.change, 0.0) for s in seen):
            fallen = Reason("finite_steps_extremum", kind="highest", side="lower", listed=listed)
            return Stationarity("maximum", (fallen, balance), down)
        if bent and all(s.low.change < 0 < s.high.change for s in near):
            return Stationarity("saddle", (Reason("finite_steps_saddle", listed=listed), balance), down)
    disagree = Reason("finite_steps_disagree", listed=listed)
    return Stationarity(None, (disagree,), down if peaked else None)


def _shrinks(outer: Sphere, inner: Sphere) -> bool:
    """Whether the gradients shrink with the distance: then no slope and no kink is of first order."""
    # From every sphere to the next: far out a gradient may grow for other reasons, and hide a slope.
    if not inner.steepest > 0:
        return outer.steepest > 0
    shrunk = math.log(outer.steepest / inner.steepest) / math.log(outer.distance / inner.distance)
    return shrunk >= SECOND_ORDER
