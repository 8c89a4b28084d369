"""From measurements to a label: what the signs of the curvature say at a critical point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.line_check import LineCheck
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.settings import Settings
from hessian_probe.results import number, signed

LineChecks = Mapping[str, LineCheck]


class Verdict(NamedTuple):
    """A label with what it rests on."""

    label: str
    strict: bool
    certified: bool
    confidence: float | None
    evidence: tuple[str, ...]


def is_saddle(extremes: ExtremeEigenpairs) -> bool:
    """Whether curvature of both signs lies beyond the zero band."""
    assert extremes.low is not None
    assert extremes.high is not None
    return extremes.low.value < -extremes.band and extremes.high.value > extremes.band


def undetermined(*evidence: str) -> Verdict:
    """Make no claim, for the reasons given."""
    return Verdict("undetermined", False, False, None, evidence)


# How the first piece of evidence begins where Ctrl-C ended a classification.
INTERRUPTED = "interrupted"


def interrupted(extremes: ExtremeEigenpairs | None) -> Verdict:
    """Make no claim, since Ctrl-C came first; say what had been measured."""
    if extremes is None or extremes.low is None or extremes.high is None:
        return undetermined(f"{INTERRUPTED} before the curvature was measured")
    return undetermined(
        f"{INTERRUPTED} after {extremes.steps} Lanczos steps, before the label was settled",
        f"curvature from {signed(extremes.low.value)} to {signed(extremes.high.value)} was found, "
        f"zero band ±{number(extremes.band, 2)}",
    )


def was_interrupted(point: CriticalPoint) -> bool:
    """Whether Ctrl-C ended the classification."""
    return point.label == "undetermined" and point.evidence[0].startswith(INTERRUPTED)


def degenerate(*evidence: str) -> Verdict:
    """Say that second order is silent."""
    return Verdict("degenerate", False, False, None, evidence)


def _silent(extremes: ExtremeEigenpairs) -> str:
    if extremes.spectrum is not None:
        count = int(np.sum(np.abs(extremes.spectrum[0]) <= extremes.band))
        return f"second order is silent along {count} of {len(extremes.spectrum[0])} directions"
    return "second order is silent along at least one direction"


def _about(extremes: ExtremeEigenpairs) -> str:
    """Say how many products the probability statement needs, where that is known and not reached."""
    if extremes.needed is None or extremes.needed <= extremes.steps:
        return ""
    return f": about {extremes.needed} Lanczos steps would be needed"


class SecondOrderTest:
    """Labels a critical point by the signs of the extreme eigenvalues found there.

    Args:
        line_checks: line probes along the ends "low" and "high".
        ignored: names of the leaves that the loss does not read.
        settings: what was asked of the classification.
    """

    def __init__(self, line_checks: LineChecks, ignored: tuple[str, ...], settings: Settings) -> None:
        self.line_checks, self.ignored, self.settings = line_checks, ignored, settings

    def by_signs(self, extremes: ExtremeEigenpairs, evidence: tuple[str, ...]) -> Verdict:
        """Label by the signs of the extreme eigenvalues at a critical point."""
        assert extremes.low is not None
        assert extremes.high is not None
        evidence = (*evidence, *self.curvature(extremes))
        low, high, band = extremes.low.value, extremes.high.value, extremes.band
        if is_saddle(extremes):
            return Verdict("saddle", True, True, None, evidence)
        if not extremes.settled:
            need = f"not settled within {self.settings.budget} products; raise max_hvps{_about(extremes)}"
            return undetermined(need, *evidence)
        if (low < -band and high < -band) or (low > band and high > band):
            label = "minimum" if low > band else "maximum"
            return self._extremum(label, extremes, evidence)
        return Verdict("degenerate", False, False, None, (*evidence, _silent(extremes)))

    def _extremum(self, label: str, extremes: ExtremeEigenpairs, evidence: tuple[str, ...]) -> Verdict:
        strict = not self.ignored
        if extremes.complete:
            claim = f"all {extremes.steps} eigenvalues have one sign"
            return Verdict(label, strict, True, None, (*evidence, claim))
        beyond = -extremes.lower if label == "minimum" else extremes.upper
        allowed, asked = max(beyond, extremes.band), self.settings.negative_tol * extremes.top
        side = f"below {signed(-allowed, 2)}" if label == "minimum" else f"above {signed(allowed, 2)}"
        claim = (
            f"no eigenvalue {side} with probability {self.settings.confidence:g} "
            f"(random start, {extremes.steps} Lanczos steps)"
        )
        if allowed > asked:
            # Products help where the start has not been used up and rounding is not in the way.
            need = "float64 or a larger negative_tol would be needed"
            if extremes.band <= asked and extremes.needed is not None:
                need = f"raise max_hvps{_about(extremes)}"
            return undetermined(
                f"{claim}; asked: {number(asked, 2)}, that is {self.settings.negative_tol:g}·‖H‖; {need}",
                *evidence,
            )
        return Verdict(label, strict, False, self.settings.confidence, (*evidence, claim))

    def curvature(self, extremes: ExtremeEigenpairs) -> tuple[str, ...]:
        """State the curvature with how it was confirmed."""
        assert extremes.low is not None
        assert extremes.high is not None
        sentences = [
            f"curvature from {signed(extremes.low.value)} to {signed(extremes.high.value)}, "
            f"zero band ±{number(extremes.band, 2)}"
        ]
        for name, side in (("low", "lowest"), ("high", "highest")):
            check = self.line_checks.get(name)
            if check is not None and check.confirmed_by:
                what = "the loss" if check.confirmed_by == "loss" else "the slope"
                where = f"±{number(check.radius, 2)} along the {side} direction"
                sentences.append(f"differences of {what} at {where}: {signed(check.measured)}")
        return tuple(sentences)

    def unconfirmed(self, extremes: ExtremeEigenpairs) -> str:
        """Say which claimed curvature the loss itself does not show."""
        for name, end in (("low", extremes.low), ("high", extremes.high)):
            check = self.line_checks.get(name)
            if check is None or check.confirmed_by or end is None:
                continue
            if math.isnan(check.measured):
                return (
                    f"the Hessian claims curvature {signed(end.value)}, but no probed distance shows it in "
                    "the loss or its gradient: a kink, a custom derivative, or rounding; float64 would tell"
                )
            return (
                f"the Hessian claims curvature {signed(end.value)}, the loss shows {signed(check.measured)} "
                "over the same direction: a kink, or a custom derivative that is not that of the loss"
            )
        return ""
