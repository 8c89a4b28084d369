"""From measurements to a label: what the signs of the curvature say at a critical point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hessian_probe.points.extreme_eigenpairs import Ends
from hessian_probe.points.line_check import LineProbe
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.settings import Settings
from hessian_probe.results import number, signed

Probes = Mapping[str, LineProbe]


class Verdict(NamedTuple):
    """A label with what it rests on."""

    label: str
    strict: bool
    certified: bool
    confidence: float | None
    evidence: tuple[str, ...]


def is_saddle(ends: Ends) -> bool:
    """Whether curvature of both signs lies beyond the zero band."""
    assert ends.low is not None
    assert ends.high is not None
    return ends.low.value < -ends.band and ends.high.value > ends.band


def undetermined(*evidence: str) -> Verdict:
    """Make no claim, for the reasons given."""
    return Verdict("undetermined", False, False, None, evidence)


# How the first piece of evidence begins where Ctrl-C ended a classification.
INTERRUPTED = "interrupted"


def interrupted(ends: Ends | None) -> Verdict:
    """Make no claim, since Ctrl-C came first; say what had been measured."""
    if ends is None or ends.low is None or ends.high is None:
        return undetermined(f"{INTERRUPTED} before the curvature was measured")
    return undetermined(
        f"{INTERRUPTED} after {ends.steps} Lanczos steps, before the label was settled",
        f"curvature from {signed(ends.low.value)} to {signed(ends.high.value)} was found, "
        f"zero band ±{number(ends.band, 2)}",
    )


def was_interrupted(point: CriticalPoint) -> bool:
    """Whether Ctrl-C ended the classification."""
    return point.label == "undetermined" and point.evidence[0].startswith(INTERRUPTED)


def degenerate(*evidence: str) -> Verdict:
    """Say that second order is silent."""
    return Verdict("degenerate", False, False, None, evidence)


def _silent(ends: Ends) -> str:
    if ends.spectrum is not None:
        count = int(np.sum(np.abs(ends.spectrum[0]) <= ends.band))
        return f"second order is silent along {count} of {len(ends.spectrum[0])} directions"
    return "second order is silent along at least one direction"


def _about(ends: Ends) -> str:
    """Say how many products the probability statement needs, where that is known and not reached."""
    if ends.needed is None or ends.needed <= ends.steps:
        return ""
    return f": about {ends.needed} Lanczos steps would be needed"


class Judge:
    """Labels a critical point by the signs of the extreme eigenvalues found there.

    Args:
        probes: line probes along the ends "low" and "high".
        ignored: names of the leaves that the loss does not read.
        settings: what was asked of the classification.
    """

    def __init__(self, probes: Probes, ignored: tuple[str, ...], settings: Settings) -> None:
        self.probes, self.ignored, self.settings = probes, ignored, settings

    def by_signs(self, ends: Ends, evidence: tuple[str, ...]) -> Verdict:
        """Label by the signs of the extreme eigenvalues at a critical point."""
        assert ends.low is not None
        assert ends.high is not None
        evidence = (*evidence, *self.curvature(ends))
        low, high, band = ends.low.value, ends.high.value, ends.band
        if is_saddle(ends):
            return Verdict("saddle", True, True, None, evidence)
        if not ends.settled:
            need = f"not settled within {self.settings.budget} products; raise max_hvps{_about(ends)}"
            return undetermined(need, *evidence)
        if (low < -band and high < -band) or (low > band and high > band):
            label = "minimum" if low > band else "maximum"
            return self._extremum(label, ends, evidence)
        return Verdict("degenerate", False, False, None, (*evidence, _silent(ends)))

    def _extremum(self, label: str, ends: Ends, evidence: tuple[str, ...]) -> Verdict:
        strict = not self.ignored
        if ends.complete:
            claim = f"all {ends.steps} eigenvalues have one sign"
            return Verdict(label, strict, True, None, (*evidence, claim))
        beyond = -ends.lower if label == "minimum" else ends.upper
        allowed, asked = max(beyond, ends.band), self.settings.negative_tol * ends.top
        side = f"below {signed(-allowed, 2)}" if label == "minimum" else f"above {signed(allowed, 2)}"
        claim = (
            f"no eigenvalue {side} with probability {self.settings.confidence:g} "
            f"(random start, {ends.steps} Lanczos steps)"
        )
        if allowed > asked:
            # Products help where the start has not been used up and rounding is not in the way.
            need = "float64 or a larger negative_tol would be needed"
            if ends.band <= asked and ends.needed is not None:
                need = f"raise max_hvps{_about(ends)}"
            return undetermined(
                f"{claim}; asked: {number(asked, 2)}, that is {self.settings.negative_tol:g}·‖H‖; {need}",
                *evidence,
            )
        return Verdict(label, strict, False, self.settings.confidence, (*evidence, claim))

    def curvature(self, ends: Ends) -> tuple[str, ...]:
        """State the curvature with how it was confirmed."""
        assert ends.low is not None
        assert ends.high is not None
        sentences = [
            f"curvature from {signed(ends.low.value)} to {signed(ends.high.value)}, "
            f"zero band ±{number(ends.band, 2)}"
        ]
        for name, side in (("low", "lowest"), ("high", "highest")):
            probe = self.probes.get(name)
            if probe is not None and probe.confirmed_by:
                what = "the loss" if probe.confirmed_by == "loss" else "the slope"
                where = f"±{number(probe.radius, 2)} along the {side} direction"
                sentences.append(f"differences of {what} at {where}: {signed(probe.measured)}")
        return tuple(sentences)

    def unconfirmed(self, ends: Ends) -> str:
        """Say which claimed curvature the loss itself does not show."""
        for name, end in (("low", ends.low), ("high", ends.high)):
            probe = self.probes.get(name)
            if probe is None or probe.confirmed_by or end is None:
                continue
            if math.isnan(probe.measured):
                return (
                    f"the Hessian claims curvature {signed(end.value)}, but no probed distance shows it in "
                    "the loss or its gradient: a kink, a custom derivative, or rounding; float64 would tell"
                )
            return (
                f"the Hessian claims curvature {signed(end.value)}, the loss shows {signed(probe.measured)} "
                "over the same direction: a kink, or a custom derivative that is not that of the loss"
            )
        return ""
