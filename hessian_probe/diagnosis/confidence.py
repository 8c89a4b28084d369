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


def confidence(distance: float, spread: float) -> float:
    """Probability that a normal quantity, measured `distance` beyond a threshold, is beyond it.

    Returns:
        Φ(distance / spread), at most MOST; `spread` is its standard deviation.
    """
    if not math.isfinite(distance):
        return MOST if distance > 0 else 0.0
    return min(0.5 * math.erfc(-distance / (spread * math.sqrt(2))), MOST)


def log_confidence(number: float, threshold: float, spread: float) -> float:
    """The same for positive numbers whose logarithm is normal."""
    if not number > 0:
        return 0.0
    return confidence(math.log(number / threshold), spread)


def ratio_finding(
    cause: str,
    reason: str,
    claim: str,
    *,
    quantity: str,
    number: float,
    threshold: float,
    spread: float,
    source: str,
    remedy: str,
    experiment: str,
    cost: str,
    sure: float | None = None,
    factor: float | None = None,
) -> Finding:
    """A finding whose number is a ratio; `spread` is the standard deviation of its logarithm.

    Returns:
        Finding.  Its confidence is `sure`, or else the probability that the ratio is above the threshold.
    """
    return Finding(
        cause=cause,
        reason=reason,
        claim=claim,
        quantity=quantity,
        number=number,
        low=number * math.exp(-2 * spread),
        high=number * math.exp(2 * spread),
        threshold=threshold,
        source=source,
        confidence=log_confidence(number, threshold, spread) if sure is None else sure,
        remedy=remedy,
        experiment=experiment,
        cost=cost,
        factor=factor,
    )
