"""From a number and its uncertainty to a confidence; what a check returns."""

from __future__ import annotations

import math
from typing import NamedTuple

from hessian_probe.diagnosis.result import Finding, NotChecked

Found = list[Finding | NotChecked]
# No confidence is above this.
MOST = 0.99
# From STRONG on a finding is strong; below EVEN it is dropped.
STRONG = 0.9
EVEN = 0.5
# Where most thresholds come from.
CHOSEN = "chosen on synthetic failures (make bench-diagnose)"


class Sign(NamedTuple):
    """One of several measurements that show the same cause; the surest one becomes the finding.

    The fields are those of `Finding`; `sure` is its confidence, `error` the standard error of its number, and
    `text` what was measured, in words.
    """

    reason: str
    sure: float
    quantity: str
    number: float
    error: float
    threshold: float
    source: str
    text: str = ""

    @property
    def measure(self) -> Measure:
        """The number with an interval of two standard errors."""
        low, high = (self.number + side * self.error for side in (-2, 2))
        return Measure(self.number, self.threshold, low, high, self.sure)


def confidence(distance: float, spread: float) -> float:
    """Probability Φ(distance / spread), at most MOST, that a normal quantity is beyond its threshold."""
    if not math.isfinite(distance):
        return MOST if distance > 0 else 0.0
    return min(0.5 * math.erfc(-distance / (spread * math.sqrt(2))), MOST)


def log_confidence(number: float, threshold: float, spread: float) -> float:
    """The same for positive numbers whose logarithm is normal."""
    if not number > 0:
        return 0.0
    return confidence(math.log(number / threshold), spread)


def joint_confidence(spread: float, *pairs: tuple[float, float]) -> float:
    """The least of the same for pairs of a number and its threshold: all of them must hold."""
    return min(log_confidence(number, threshold, spread) for number, threshold in pairs)


class Measure(NamedTuple):
    """A number, its threshold, the ends of its uncertainty, and the confidence that it is beyond."""

    number: float
    threshold: float
    low: float
    high: float
    sure: float = MOST


def exact(number: float, threshold: float = 0.0) -> Measure:
    """A number without uncertainty."""
    return Measure(number, threshold, number, number)


def ratio(number: float, threshold: float, spread: float) -> Measure:
    """A ratio; `spread` is the standard deviation of its logarithm."""
    low, high = (number * math.exp(side * spread) for side in (-2, 2))
    return Measure(number, threshold, low, high, log_confidence(number, threshold, spread))


def finding(
    code: tuple[str, str],
    claim: str,
    quantity: str,
    measure: Measure,
    *,
    source: str = CHOSEN,
    sure: float | None = None,
    remedy: tuple[str, str],
    cost: str,
    factor: float | None = None,
    place: str = "",
) -> Finding:
    """A finding of a cause for a reason (`code`); `sure` replaces the confidence of the measure."""
    number, threshold, low, high, known = measure
    sure = known if sure is None else sure
    numbers = (number, low, high, threshold)
    return Finding(*code, claim, quantity, *numbers, source, sure, *remedy, cost, factor, place)
