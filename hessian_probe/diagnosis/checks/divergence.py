"""Does the loss run away?"""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.arrays import first_nonfinite
from hessian_probe.diagnosis.context import Context
from hessian_probe.diagnosis.evidence import MOST, Found, log_confidence
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.results import number

# A loss this many times its lowest is running away; spread of its logarithm on noisy curves.  Both were
# chosen on the tuning half of the planted troubles.
RISE = 2.0
SPREAD = 0.35
# Share of the history that counts as its end.
LAST = 0.1


def check(context: Context) -> Found:
    """Look for numbers that are not finite, then for a loss that rises."""
    where = nonfinite(context)
    if where:
        return [_finding(context, f"{where} is not finite", math.inf, MOST)]
    if context.history is None or "loss" not in context.history:
        return [NotChecked("divergence", "history={'loss': […]}, the losses of past steps")]
    losses = context.history["loss"]
    if not np.all(np.isfinite(losses)):
        return [_finding(context, "the recorded loss is not finite at some step", math.inf, MOST)]
    last = float(np.median(losses[-max(1, int(LAST * len(losses))) :]))
    lowest = float(np.min(losses))
    rise = last / lowest if lowest > 0 else math.nan
    context.measured["loss at the end ÷ lowest"] = number(rise, 3)
    sure = log_confidence(rise, RISE, SPREAD) if last > 0.5 * float(losses[0]) else 0.0
    claim = f"the loss rose from {number(lowest, 3)} to {number(last, 3)} and stays there"
    return [_finding(context, claim, rise, sure)]


def nonfinite(context: Context) -> str:
    """Name what is not finite, if anything is."""
    op = context.op
    leaf = first_nonfinite(op.layout, op.x)
    if leaf:
        return leaf
    if not math.isfinite(context.value):
        return "the loss"
    leaf = first_nonfinite(op.layout, op.gradient_vector)
    return f"the gradient with respect to {leaf}" if leaf else ""


def _finding(context: Context, claim: str, rise: float, sure: float) -> Finding:
    return Finding(
        cause="divergence",
        claim=claim,
        quantity="loss at the end ÷ lowest loss",
        number=rise,
        low=rise * math.exp(-2 * SPREAD),
        high=rise * math.exp(2 * SPREAD),
        threshold=RISE,
        source="chosen on the planted troubles (make bench-diagnose)",
        confidence=sure,
        experiment="go back to the parameters of the lowest loss and go on with a tenth of the learning rate",
        cost="none: the recorded history",
    )
