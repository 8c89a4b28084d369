"""What is left to gain within the reach, and the label at that resolution where second order gives none.

A minimum or a maximum by second order stands unless a larger change was seen.
"""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.gain import Gain, GainEstimate
from hessian_probe.points.measurements import Measurements
from hessian_probe.points.reviews.nonsmooth.review import at_a_kink
from hessian_probe.points.symmetries import flat_families
from hessian_probe.points.thresholds import (
    FAMILIES_NAMED,
    FAMILIES_SIZE,
    FEW_DIRECTIONS,
    FEWEST_BATCHES,
    NARROW,
    SUM_ROUNDING,
)
from hessian_probe.points.verdict import Descent, Verdict, none_beyond

EXACT = ("minimum", "maximum", "saddle")
OPEN = ("degenerate", "undetermined")


def applies(m: Measurements, verdict: Verdict) -> bool:
    """Whether the gradient is that of the loss."""
    # A derivative that is not the loss's own says nothing of what the loss can fall.
    facts = m.op.objective.facts
    misled = verdict.failed and (facts.custom_derivative or facts.random)
    return m.problem is None and not misled


def review(m: Measurements, verdict: Verdict) -> Verdict:
    """Say what is left to gain, and label by that what no exact statement labels."""
    assert m.extremes is not None
    sampled = m.sampled and m.op.objective.data.count >= FEWEST_BATCHES
    asked = m.settings.resolution, sampled, m.located.space
    estimate = GainEstimate(m.op, m.extremes, m.rounding, m.rng, m.unreserved, *asked)
    sign = estimate.sign = _side(m, verdict, m.extremes, estimate)
    for seen in verdict.higher_order:
        if seen.sign == sign and seen.lower is not None:
            estimate.try_move(seen.lower.move)
    # Curvature that holds only very near says little of what lies within the reach.
    radii = [check.radius for check in m.line_checks.values() if check.radius > 0]
    narrow = verdict.label != "saddle" and min(radii, default=math.inf) < NARROW * estimate.reach
    slope, tries = verdict.label == "not_critical", narrow or verdict.label not in EXACT
    gain = estimate.run(tries=tries, walk=verdict.label != "saddle", slope=slope)
    if estimate.kinks and verdict.label in ("minimum", "maximum") and gain.shown <= gain.resolution:
        gain = gain._replace(slope=gain.shown)  # a gradient at a kink is no slope
    numbers = Reason(
        "gain", gain=gain.value, resolution=gain.resolution, reach=gain.reach, shown=gain.shown, sign=sign
    )
    verdict = _labelled(m, verdict._replace(gain=gain), sign, estimate)
    if gain.beyond is not None:
        fall, distance = gain.beyond
        verdict = verdict.with_reasons(Reason("lower_beyond", sign=sign, fall=fall, distance=distance))
    if sign < 0 and verdict.label != "maximum":  # what the loss can rise is not what is left to gain
        verdict = verdict._replace(gain=None)
    if verdict.label in OPEN:  # what leaves it open comes first
        first, *rest = verdict.evidence
        return verdict._replace(evidence=(first, numbers, *rest))
    flat = _flat(m, estimate) if verdict.at_resolution else ()
    return verdict._replace(evidence=(numbers, *flat, *verdict.evidence))


def _flat(m: Measurements, estimate: GainEstimate) -> tuple[Reason, ...]:
    """Say along which directions the loss does not change, as far as that is seen."""
    facts, size, reasons = m.op.objective.facts, m.op.size, list[Reason]()
    if size <= FAMILIES_SIZE and not (facts.custom_derivative or facts.random):
        found = sorted(flat_families(m.op, m.rounding), key=lambda family: -family.dimension)
        names = [f"{family.name}: {family.dimension}" for family in found[:FAMILIES_NAMED]]
        if len(found) > FAMILIES_NAMED:
            names.append(f"{len(found) - FAMILIES_NAMED} more families")
        if found:  # families can overlap: their dimensions do not add up
            count = ("at least " if len(found) > 1 else "") + f"{found[0].dimension:,}"
            reasons.append(Reason("flat_families", count=count, names="; ".join(names)))
    if estimate.spectrum is not None:
        changes = 0.5 * np.abs(estimate.spectrum[0]) * estimate.reach**2
        flat = int(np.sum(changes <= estimate.resolution))
        if flat:
            reasons.append(Reason("flat_at_resolution", flat=flat, size=size))
    return tuple(reasons)


def _labelled(m: Measurements, verdict: Verdict, sign: float, estimate: GainEstimate) -> Verdict:
    """Label at the resolution what no exact statement labels."""
    gain, evidence, located = verdict.gain, verdict.evidence, verdict.located or m.located
    assert m.extremes is not None
    assert gain is not None
    low, high, end = *m.extremes.ends, m.extremes.lowest(sign)
    if verdict.label in EXACT:
        if verdict.label == "saddle" or gain.shown <= gain.resolution:
            return verdict
        if estimate.at_rest:
            side = "lower" if sign > 0 else "higher"
            return verdict.withdrawn(Reason("narrow", label=verdict.label, side=side, change=gain.shown))
        return verdict.relabelled("not_critical", *evidence, strict=True)
    if verdict.label == "not_critical" and gain.shown > gain.resolution:
        return verdict
    if located.kind == "exact" and not located.distance > 0:
        # A fall beyond what a gradient of rounding makes is one of higher order.
        slope = m.rounding.gradient_tolerance(m.extremes.top) * gain.reach
        seen = {each.kind for each in verdict.higher_order if each.sign == sign}
        if gain.shown > estimate.least + slope or seen & {"falls", "falling"} or estimate.uneven:
            lower = None if gain.move is None or sign < 0 else Descent(gain.move, straight=False)
            return verdict._replace(lower=verdict.lower or lower)
    elif sign > 0 and gain.shown > gain.resolution:
        if gain.curvature > gain.slope and high.value > m.extremes.band:
            return verdict.relabelled("saddle", *evidence)
        if not estimate.gradient_counts and low.value < -m.extremes.band:
            return verdict
        if verdict.label != "not_critical" and at_a_kink(m.op.objective, m.op.x):
            return verdict  # a gradient at a kink is no slope
        return verdict.relabelled("not_critical", *evidence, strict=True)
    if gain.tail:
        return verdict.relabelled("not_critical", Reason("tail"), *evidence, strict=True)
    if gain.further is not None:
        fall, distance = gain.further
        steady = Reason("falls_further", sign=sign, fall=fall, distance=distance)
        return verdict.relabelled("not_critical", steady, *evidence, strict=True)
    within = gain.value <= (1 + SUM_ROUNDING) * gain.resolution and _turns(verdict, sign, m.extremes)
    if verdict.failed and estimate.at_rest and not estimate.kinks:  # rounding may hide what curvature gains
        within &= -0.5 * sign * end.value * gain.reach**2 <= gain.resolution
    unseen = () if estimate.spectrum is not None else _unseen(m, sign, m.extremes, gain)
    if within and estimate.hidden is None and unseen is not None:
        label = "minimum" if sign > 0 else "maximum"
        if m.op.size > FEW_DIRECTIONS and at_a_kink(m.op.objective, m.op.x):
            return verdict.withdrawn(Reason("kinks_many_directions", size=m.op.size))
        beyond = estimate.lower_on_sphere() if sign > 0 else None
        if beyond is not None:
            fall, distance = beyond
            return verdict.withdrawn(
                Reason("lower_on_sphere", fall=fall, distance=distance, reach=gain.reach)
            )
        return verdict.relabelled(label, *evidence, *unseen)._replace(at_resolution=True)
    if verdict.label != "not_critical" or (estimate.hidden and gain.modelled > estimate.least_modelled):
        return verdict  # a gradient shows what the loss's own rounding hides
    if estimate.hidden and estimate.hidden.code == "resolution_noisy":
        return verdict  # whether the gradient is noise is asked on held-out batches
    doubt = estimate.hidden or Reason("gain_open", gain=gain.value)
    return verdict.relabelled("undetermined", doubt, *evidence)


def _unseen(
    m: Measurements, sign: float, extremes: ExtremeEigenpairs, gain: Gain
) -> tuple[Reason, ...] | None:
    """Say how much curvature of the wrong sign may be missed; None where that is too much or not known."""
    beyond = max(-extremes.lower if sign > 0 else extremes.upper, extremes.band)
    end, covered = extremes.lowest(sign), beyond <= m.settings.negative_tol * extremes.top
    # An end that is not resolved may lie further on the wrong side, by its residual.
    unresolved = 0.5 * max(end.residual - max(sign * end.value, 0.0), 0.0) * gain.reach**2
    if extremes.settled and not covered:
        return ()
    if not covered or unresolved > gain.resolution:
        return None
    return (none_beyond(m, "minimum" if sign > 0 else "maximum", beyond, extremes),)


def _side(m: Measurements, verdict: Verdict, extremes: ExtremeEigenpairs, estimate: GainEstimate) -> float:
    """−1 where the point may be a maximum, so that what there is to gain upwards is asked for; else 1."""
    low, high = extremes.ends
    critical = m.located.kind in ("exact", "near") or not estimate.gradient_counts
    if not critical or high.value > extremes.band:
        return 1.0
    falls = any(seen.kind == "falls" and seen.sign > 0 for seen in verdict.higher_order)
    return -1.0 if low.value < -extremes.band or falls else 1.0


def _turns(verdict: Verdict, sign: float, extremes: ExtremeEigenpairs) -> bool:
    """Whether the loss rises somewhere near (falls, where the sign is −1)."""
    curvature = max(sign * end.value for end in extremes.ends)
    other = {("rises", sign), ("falls", -sign)}
    return curvature > extremes.band or any((seen.kind, seen.sign) in other for seen in verdict.higher_order)
