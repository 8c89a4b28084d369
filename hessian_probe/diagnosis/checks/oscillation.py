"""Are the optimiser's steps too long?  Shorter ones are tried on copies."""

from __future__ import annotations

import math
from typing import NamedTuple

from hessian_probe.diagnosis.confidence import Found, confidence, log_confidence
from hessian_probe.diagnosis.experiments import MATERIAL, Context
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.optimizers.trial_runs import Trial
from hessian_probe.results import number

SPREAD = 0.5
# Oscillation: from here the sharpness is at the limit (see stability.EDGE).
AT_LIMIT = 0.95
SPREAD_OF_RATIO = 0.05
# Or: the share of steps in which the gradient along the top eigenvector changes sign.  Momentum crosses a
# valley in several steps.
FLIPS = 0.3
SPREAD_OF_FLIPS = 0.1
# Share of the gain of shorter steps from which larger batches are the better explanation.
MOST_OF_IT = 0.5
NEEDS = "optimizer and opt_state, and data as batches of arrays with samples along axis 0"


def check(context: Context) -> Found:
    """Try the user's optimiser for some steps at several rates."""
    if not context.trials:
        _sharpness(context)  # needs no samples
        return [NotChecked("oscillation, slow, noise", context.no_trials or NEEDS)]
    text = ", ".join(f"× {f:.3g}: {number(t.after, 4)}" for f, t in context.trials.items())
    context.measured[f"loss after {context.num_steps} steps at multiples of the rate"] = text
    out: Found = []
    stability = context.stability
    if stability is not None and stability.status == "undetermined":
        out.append(NotChecked("sharpness against the stability limit", stability.reason))
    if context.still:  # steps of length zero tell nothing of others
        return [*out, NotChecked("oscillation", "an optimizer that still moves")]
    return [*out, _oscillation(context)]


class Way(NamedTuple):
    """One way to see that steps are too long."""

    sure: float
    quantity: str
    number: float
    error: float
    threshold: float
    source: str


def _oscillation(context: Context) -> Finding:
    """Shorter steps gain, and it is seen in one of three ways that they gain because they are shorter."""
    gain = _shorter(context, context.trials)
    gains = log_confidence(gain, MATERIAL, SPREAD)
    way = max(_ways(context, gains), key=lambda way: way.sure)
    best = min((f for f in context.trials if f < 1), key=lambda f: context.trials[f].after)
    found = context.stability
    known = (
        ""
        if found is None or found.status == "undetermined"
        else (f"sharpness is {number(found.ratio, 3)} of what {found.method} can stand, ")
    )
    return Finding(
        cause="oscillation",
        claim=f"steps are too long: {known}{way.quantity} = {number(way.number, 3)}, and {best:.3g} times "
        f"the rate gains {number(100 * gain, 2)} % of the loss",
        quantity=way.quantity,
        number=way.number,
        low=way.number - 2 * way.error,
        high=way.number + 2 * way.error,
        threshold=way.threshold,
        source=way.source,
        confidence=min(gains, way.sure, 1 - _noise_explains(context, gain)),
        experiment=f"lower the learning rate, or decay it from here: multiply it by {best:.3g}",
        cost=f"{5 * context.num_steps} steps on a copy, and the products of hp.stability",
    )


def _noise_explains(context: Context, gain: float) -> float:
    """How sure it is that steps of the same length on all samples gain most of what shorter ones do."""
    if context.samples_in_a_step is None or not gain > 0:
        return 0.0
    full = context.gain(context.trials[1.0].after, context.full_batch[1.0].after)
    return log_confidence(full / gain, MOST_OF_IT, SPREAD)


def _ways(context: Context, gains: float) -> list[Way]:
    """The sharpness at the limit; a gradient that alternates in sign; a gain without noise.

    Far out on the walls of a valley the curvature can be small: that it is crossed shows in the signs.  Where
    each step takes all samples, shorter steps do not gain by averaging noise.

    Args:
        context: the measurements.
        gains: how sure it is that shorter steps gain.

    Returns:
        The ways that were measured, at least one.
    """
    without_noise = _shorter(context, context.full_batch) if gains >= 0.1 else 0.0
    sure = log_confidence(without_noise, MATERIAL, SPREAD)
    source = "a gain that is no accident of the batches; chosen on planted troubles"
    quantity = "share of the loss that shorter steps on all samples gain"
    ways = [Way(sure, quantity, without_noise, 0.0, MATERIAL, source)]
    found = context.stability
    if found is None or found.status == "undetermined":
        return ways
    ratio, error = _sharpness(context)
    limit = f"{found.formula}, {found.source}; at the limit from 0.95 on"
    sure = confidence(ratio - AT_LIMIT, max(error, SPREAD_OF_RATIO))
    ways.append(Way(sure, "sharpness ÷ stability limit", ratio, error, AT_LIMIT, limit))
    if gains >= 0.1 or ratio > AT_LIMIT / 2:
        full = context.steps(None, context.num_steps)
        flips = full.run(context.params, context.opt_state, context.value, 1.0, found.direction).flips
        context.num_evaluations += context.num_steps
        quantity = "share of steps in which the gradient along the sharpest direction changes sign"
        context.measured[quantity] = number(flips, 2)
        source = "below the limit no sign changes; chosen on planted troubles"
        sure = confidence(flips - FLIPS, SPREAD_OF_FLIPS)
        ways.append(Way(sure, quantity, flips, SPREAD_OF_FLIPS, FLIPS, source))
    return ways


def _shorter(context: Context, trials: dict[float, Trial]) -> float:
    """Share of the loss that the best of shorter steps gains over steps as they are."""
    return context.gain(trials[1.0].after, min(trial.after for f, trial in trials.items() if f < 1))


def _sharpness(context: Context) -> tuple[float, float]:
    """Sharpness ÷ stability limit, and its error; NaN where it is not known."""
    found = context.stability
    if found is None or found.status == "undetermined":
        return math.nan, math.nan
    context.measured["sharpness ÷ stability limit"] = number(found.ratio, 4)
    return found.ratio, found.error / found.limit
