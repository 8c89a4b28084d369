"""The label of a critical point from the signs of its extreme eigenvalues; defines `Verdict`.

Where the critical point is predicted elsewhere, the eigenvalues are searched for there; curvature that the
label rests on is checked on the loss.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, dot
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.restricted import RestrictedHessian
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs, ExtremesSearch, Point
from hessian_probe.points.gain import Gain
from hessian_probe.points.line_check import spot_check
from hessian_probe.points.locate import LocatedPoint
from hessian_probe.points.measurements import Measurements, after
from hessian_probe.points.preconditions import no_product
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.reviews.sampling.noise import SamplingErrors
from hessian_probe.points.rounding import Rounding


class Descent(NamedTuple):
    """A displacement to a lower loss; whether that falls from the start, where second order shows none."""

    move: Vector
    straight: bool


class HigherOrder(NamedTuple):
    """What the loss does on small spheres along the flat directions.

    Attributes:
        kind: "falls" (as near as can be seen), "falling" (on the widest sphere, or near by but by no power of
            three or more), "rises", "flat" (slopes are rounding errors) or "unclear".
        reason: evidence.
        sign: −1 where this is about −f.
        lower: a move to a lower loss (of −f where `sign` is −1) if one was seen, else None.
    """

    kind: str
    reason: Reason
    sign: float
    lower: Descent | None = None


class Verdict(NamedTuple):
    """A label with what it rests on; the first reason decided it.

    Attributes:
        label: as in `CriticalPoint`, like the three that follow.
        strict, certified, confidence: what the label rests on.
        evidence: reasons.
        failed: whether the second derivative is not what the loss shows.
        judged: the place that the label is about, if that is not the parameters.
        located: the critical point found by finite steps, where these replaced the label.
        higher_order: what the loss does along flat directions.
        lower: a descent that second order does not show.
        gain: what is left to gain.
        at_resolution: whether an extremum rests on the gain, noise of the data included.
        sampling: errors over the data.
    """

    label: str
    strict: bool
    certified: bool
    confidence: float | None
    evidence: tuple[Reason, ...]
    failed: bool = False
    judged: Point | None = None
    located: LocatedPoint | None = None
    higher_order: tuple[HigherOrder, ...] = ()
    lower: Descent | None = None
    gain: Gain | None = None
    at_resolution: bool = False
    sampling: SamplingErrors = SamplingErrors()

    def with_reasons(self, *reasons: Reason) -> Verdict:
        """Add further evidence."""
        return self._replace(evidence=(*self.evidence, *reasons))

    def relabelled(self, label: str, *evidence: Reason, strict: bool = False) -> Verdict:
        """Give another label, not certified and without a probability."""
        return self._replace(label=label, strict=strict, certified=False, confidence=None, evidence=evidence)

    def withdrawn(self, *reasons: Reason) -> Verdict:
        """Make no claim, for further reasons, which come first."""
        return self.relabelled("undetermined", *reasons, *self.evidence)


def undetermined(*evidence: Reason) -> Verdict:
    """Make no claim, for the reasons given."""
    return Verdict("undetermined", False, False, None, evidence)


def interrupted(extremes: ExtremeEigenpairs | None) -> Verdict:
    """Make no claim, since Ctrl-C came first; say what had been measured."""
    if extremes is None or extremes.low is None or extremes.high is None:
        return undetermined(Reason("interrupted", when="before the curvature was measured"))
    return undetermined(Reason("interrupted", when=after(extremes)), curvature_found(extremes))


def was_interrupted(point: CriticalPoint) -> bool:
    """Whether Ctrl-C ended the classification."""
    return point.label == "undetermined" and point.reasons[0] == "interrupted"


def is_saddle(extremes: ExtremeEigenpairs) -> bool:
    """Whether curvature of both signs lies beyond the zero band."""
    low, high = extremes.ends
    return low.value < -extremes.band and high.value > extremes.band


def curvature_found(extremes: ExtremeEigenpairs) -> Reason:
    """State both extreme eigenvalues and the zero band."""
    low, high = extremes.ends
    return Reason("curvature", low=low.value, high=high.value, band=extremes.band)


def judge(m: Measurements) -> Verdict:
    """Label by second order: whether a critical point is near, and the signs of the curvature there."""
    if m.problem is not None:
        if m.problem.code == "interrupted":
            return interrupted(m.extremes)
        label = "degenerate" if m.problem.code == "no_parameter_read" else "undetermined"
        lower = None if m.lower is None else Descent(m.lower, straight=False)
        return Verdict(label, False, False, None, (m.problem,), failed=m.failed, lower=lower)
    assert m.extremes is not None
    curvature = _curvature(m, m.extremes)
    unconfirmed = _unconfirmed(m, m.extremes)
    if unconfirmed is not None:
        return undetermined(unconfirmed)._replace(failed=True)
    if m.located.kind == "far":
        return Verdict("not_critical", True, False, None, (*m.located.evidence, *curvature))
    if m.located.kind == "unknown":
        return undetermined(*m.located.evidence, *curvature)
    if m.located.operator is None:
        return _spot_checked(m, _by_signs(m, m.extremes, m.located.evidence), m.op)
    return _judge_there(m, m.extremes, m.located.operator)


def _judge_there(m: Measurements, extremes: ExtremeEigenpairs, there: HessianOperator) -> Verdict:
    """Check at the predicted critical point what was seen here; it is what the label is about."""
    evidence = m.located.evidence
    if is_saddle(extremes):
        return _saddle_there(m, extremes, there)
    if not m.located.regular:
        return undetermined(Reason("not_regular"), *evidence, *_curvature(m, extremes))
    rounding = Rounding.measured(there, m.rng)
    moved = ExtremesSearch(there, rounding, m.rng, m.settings, m.unreserved, m.job).run()
    if moved.status == "interrupted":
        raise KeyboardInterrupt
    if moved.low is None or moved.high is None:
        return undetermined(no_product(moved), *evidence)
    verdict = _by_signs(m, moved, (*evidence, Reason("spectrum_there")))
    return _spot_checked(m, verdict._replace(judged=Point(there, moved)), there)


def _saddle_there(m: Measurements, extremes: ExtremeEigenpairs, there: HessianOperator) -> Verdict:
    low, high = (float(dot(end.vector, there.apply(end.vector))) for end in extremes.ends)
    if not (low < -extremes.margin and high > extremes.margin):
        return undetermined(Reason("signs_differ_there", low=low, high=high), *m.located.evidence)
    found = Reason("curvature_there", low=low, high=high)
    verdict = _by_signs(m, extremes, (*m.located.evidence, found))
    verdict = verdict._replace(judged=Point(there, extremes))
    if m.located.regular and m.located.polished:
        return verdict
    if m.located.regular:
        return verdict._replace(certified=False).with_reasons(Reason("saddle_predicted"))
    return verdict._replace(strict=False, certified=False).with_reasons(Reason("saddle_vanishing"))


def _spot_checked(m: Measurements, verdict: Verdict, op: HessianOperator) -> Verdict:
    """Withdraw a minimum or maximum if a sample near it is lower or higher."""
    if verdict.label not in ("minimum", "maximum") or not m.line_checks:
        return verdict
    sign = 1.0 if verdict.label == "minimum" else -1.0
    radius = min(check.radius for check in m.line_checks.values())
    found = spot_check(op, sign, radius, m.rounding, m.rng)
    if found is None:
        return verdict
    side = "lower" if sign > 0 else "higher"
    sampled = Reason("spot_check", label=verdict.label, side=side, distance=found)
    return verdict.withdrawn(sampled)._replace(failed=True)


def _by_signs(m: Measurements, extremes: ExtremeEigenpairs, evidence: tuple[Reason, ...]) -> Verdict:
    """Label by the signs of the extreme eigenvalues at a critical point."""
    evidence, band = (*evidence, *_curvature(m, extremes)), extremes.band
    low, high = (end.value for end in extremes.ends)
    if is_saddle(extremes):
        return Verdict("saddle", True, True, None, evidence)
    if not extremes.settled:
        need = _steps_needed(extremes)
        return undetermined(Reason("not_settled", budget=m.settings.budget, need=need), *evidence)
    if high < -band or low > band:
        return _extremum(m, "minimum" if low > band else "maximum", extremes, evidence)
    silent = Reason("silent_somewhere")
    if extremes.spectrum is not None:
        values = extremes.spectrum[0]
        silent = Reason("silent", flat=int(np.sum(np.abs(values) <= band)), size=len(values))
    return Verdict("degenerate", False, False, None, (*evidence, silent))


def _extremum(
    m: Measurements, label: str, extremes: ExtremeEigenpairs, evidence: tuple[Reason, ...]
) -> Verdict:
    strict, settings = not m.op.objective.ignored, m.settings
    if extremes.complete:
        signs = Reason("all_one_sign", count=extremes.steps, sign=1 if label == "minimum" else -1)
        # That a null space given by the caller is flat was sampled.
        proved = not isinstance(m.op, RestrictedHessian)
        return Verdict(label, strict, proved, None, (*evidence, signs))
    beyond = -extremes.lower if label == "minimum" else extremes.upper
    allowed, asked = max(beyond, extremes.band), settings.negative_tol * extremes.top
    if allowed > asked:
        # Products help where the start has not been used up and rounding does not prevent it.
        need = "float64 or a larger negative_tol would be needed"
        if extremes.band <= asked and extremes.needed is not None:
            need = f"raise max_hvps{_steps_needed(extremes)}"
        tol = f"{settings.negative_tol:g}"
        weak = none_beyond(m, label, allowed, extremes, asked=asked, negative_tol=tol, need=need)
        return undetermined(weak, *evidence)
    claim = none_beyond(m, label, allowed, extremes)
    return Verdict(label, strict, False, settings.confidence, (*evidence, claim))


def none_beyond(
    m: Measurements, label: str, beyond: float, extremes: ExtremeEigenpairs, **weak: float | str
) -> Reason:
    """Say with which probability no curvature of the wrong sign is missed; `weak`: why that is too weak."""
    return Reason(
        "bound_too_weak" if weak else "none_beyond",
        side="below" if label == "minimum" else "above",
        bound=-beyond if label == "minimum" else beyond,
        confidence=f"{m.settings.confidence:g}",
        steps=extremes.steps,
        **weak,
    )


def _steps_needed(extremes: ExtremeEigenpairs) -> str:
    """Say how many products the probability statement needs, where that is known and not reached."""
    if extremes.needed is None or extremes.needed <= extremes.steps:
        return ""
    return f" (about {extremes.needed} Lanczos steps are needed)"


def _curvature(m: Measurements, extremes: ExtremeEigenpairs) -> tuple[Reason, ...]:
    """State the curvature with how it was confirmed."""
    reasons = [curvature_found(extremes)]
    for name, check in m.line_checks.items():
        if check.confirmed_by:
            numbers = {"of": check.confirmed_by, "radius": check.radius, "measured": check.measured}
            reasons.append(Reason("curvature_confirmed", **numbers, side=f"{name}est"))
    return tuple(reasons)


def _unconfirmed(m: Measurements, extremes: ExtremeEigenpairs) -> Reason | None:
    """Say which claimed curvature the loss itself does not show."""
    for name, end in zip(("low", "high"), extremes.ends, strict=True):
        check = m.line_checks.get(name)
        if check is None or check.confirmed_by:
            continue
        if math.isnan(check.measured):
            return Reason("curvature_unconfirmed", claimed=end.value)
        return Reason("curvature_contradicted", claimed=end.value, shown=check.measured)
    return None
