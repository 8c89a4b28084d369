"""The label of a critical point from the signs of its extreme eigenvalues; defines `Verdict`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.line_check import LineCheck
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.settings import Settings

LineChecks = Mapping[str, LineCheck]


class Verdict(NamedTuple):
    """A label with what it rests on; the first reason decided it."""

    label: str
    strict: bool
    certified: bool
    confidence: float | None
    evidence: tuple[Reason, ...]

    def with_reasons(self, *reasons: Reason) -> Verdict:
        """Add further evidence."""
        return self._replace(evidence=(*self.evidence, *reasons))


def is_saddle(extremes: ExtremeEigenpairs) -> bool:
    """Whether curvature of both signs lies beyond the zero band."""
    assert extremes.low is not None
    assert extremes.high is not None
    return extremes.low.value < -extremes.band and extremes.high.value > extremes.band


def undetermined(*evidence: Reason) -> Verdict:
    """Make no claim, for the reasons given."""
    return Verdict("undetermined", False, False, None, evidence)


def interrupted(extremes: ExtremeEigenpairs | None) -> Verdict:
    """Make no claim, since Ctrl-C came first; say what had been measured."""
    if extremes is None or extremes.low is None or extremes.high is None:
        return undetermined(Reason("interrupted", when="before the curvature was measured"))
    when = f"after {extremes.steps} Lanczos steps, before the label was settled"
    return undetermined(Reason("interrupted", when=when), curvature_found(extremes))


def was_interrupted(point: CriticalPoint) -> bool:
    """Whether Ctrl-C ended the classification."""
    return point.label == "undetermined" and point.reasons[0] == "interrupted"


def degenerate(*evidence: Reason) -> Verdict:
    """Say that second order is silent."""
    return Verdict("degenerate", False, False, None, evidence)


def curvature_found(extremes: ExtremeEigenpairs) -> Reason:
    """State both extreme eigenvalues and the zero band."""
    assert extremes.low is not None
    assert extremes.high is not None
    low, high = extremes.low.value, extremes.high.value
    return Reason("curvature", low=low, high=high, band=extremes.band)


def _silent(extremes: ExtremeEigenpairs) -> Reason:
    if extremes.spectrum is None:
        return Reason("silent_somewhere")
    values = extremes.spectrum[0]
    return Reason("silent", flat=int(np.sum(np.abs(values) <= extremes.band)), size=len(values))


def _steps_needed(extremes: ExtremeEigenpairs) -> str:
    """Say how many products the probability statement needs, where that is known and not reached."""
    if extremes.needed is None or extremes.needed <= extremes.steps:
        return ""
    return f" (about {extremes.needed} Lanczos steps are needed)"


class SecondOrderTest:
    """Labels a critical point by the signs of the extreme eigenvalues found there.

    Args:
        line_checks: what the loss shows along "low" and "high".
        ignored: names of the leaves that the loss does not read.
        settings: what was asked of the classification.
    """

    def __init__(self, line_checks: LineChecks, ignored: tuple[str, ...], settings: Settings) -> None:
        self.line_checks, self.ignored, self.settings = line_checks, ignored, settings

    def by_signs(self, extremes: ExtremeEigenpairs, evidence: tuple[Reason, ...]) -> Verdict:
        """Label by the signs of the extreme eigenvalues at a critical point."""
        assert extremes.low is not None
        assert extremes.high is not None
        evidence = (*evidence, *self.curvature(extremes))
        low, high, band = extremes.low.value, extremes.high.value, extremes.band
        if is_saddle(extremes):
            return Verdict("saddle", True, True, None, evidence)
        if not extremes.settled:
            need = _steps_needed(extremes)
            return undetermined(Reason("not_settled", budget=self.settings.budget, need=need), *evidence)
        if (low < -band and high < -band) or (low > band and high > band):
            label = "minimum" if low > band else "maximum"
            return self._extremum(label, extremes, evidence)
        return Verdict("degenerate", False, False, None, (*evidence, _silent(extremes)))

    def _extremum(self, label: str, extremes: ExtremeEigenpairs, evidence: tuple[Reason, ...]) -> Verdict:
        strict = not self.ignored
        if extremes.complete:
            sign = 1 if label == "minimum" else -1
            signs = Reason("all_one_sign", count=extremes.steps, sign=sign)
            return Verdict(label, strict, True, None, (*evidence, signs))
        beyond = -extremes.lower if label == "minimum" else extremes.upper
        allowed, asked = max(beyond, extremes.band), self.settings.negative_tol * extremes.top
        claim = {
            "side": "below" if label == "minimum" else "above",
            "bound": -allowed if label == "minimum" else allowed,
            "confidence": f"{self.settings.confidence:g}",
            "steps": extremes.steps,
        }
        if allowed > asked:
            # Products help where the start has not been used up and rounding does not prevent it.
            need = "float64 or a larger negative_tol would be needed"
            if extremes.band <= asked and extremes.needed is not None:
                need = f"raise max_hvps{_steps_needed(extremes)}"
            tol = f"{self.settings.negative_tol:g}"
            weak = Reason("bound_too_weak", **claim, asked=asked, negative_tol=tol, need=need)
            return undetermined(weak, *evidence)
        evidence = (*evidence, Reason("none_beyond", **claim))
        return Verdict(label, strict, False, self.settings.confidence, evidence)

    def curvature(self, extremes: ExtremeEigenpairs) -> tuple[Reason, ...]:
        """State the curvature with how it was confirmed."""
        reasons = [curvature_found(extremes)]
        for name, side in (("low", "lowest"), ("high", "highest")):
            check = self.line_checks.get(name)
            if check is not None and check.confirmed_by:
                of, shown = check.confirmed_by, check.measured
                confirmed = Reason(
                    "curvature_confirmed", of=of, radius=check.radius, side=side, measured=shown
                )
                reasons.append(confirmed)
        return tuple(reasons)

    def unconfirmed(self, extremes: ExtremeEigenpairs) -> Reason | None:
        """Say which claimed curvature the loss itself does not show."""
        for name, end in (("low", extremes.low), ("high", extremes.high)):
            check = self.line_checks.get(name)
            if check is None or check.confirmed_by or end is None:
                continue
            if math.isnan(check.measured):
                return Reason("curvature_unconfirmed", claimed=end.value)
            return Reason("curvature_contradicted", claimed=end.value, shown=check.measured)
        return None
