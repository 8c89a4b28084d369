"""Is it a critical point at all, and of what kind?"""

from __future__ import annotations

import math

from hessian_probe.diagnosis.confidence import MOST, Found, log_confidence, ratio_finding
from hessian_probe.diagnosis.experiments import BETTER as LOWER
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.reference_models import LARGE
from hessian_probe.diagnosis.result import Finding, not_checked
from hessian_probe.escapes.escape import escape
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import number

# Share of the loss that leaving must bring over going on (smaller negative curvature is met all along any
# training), and how many times what going on brings.
MATERIAL = 0.01
BETTER = 3.0
SPREAD = 0.5
# Share of the loss below which an optimiser gains nothing: rounding of 40 steps in float32 stays below it.
STILL = 1e-4
# How many times lower Adam must end from a little beside, where the loss may differ by this share;
# from here it must be held at this share of the loss at least.
FREED = 3.0
SAME = 0.05
HELD = 0.5
# Probability of a label that carries none: it was settled by samples or by a prediction.
UNCERTIFIED = 0.9


def check(case: Experiments) -> Found:
    """Classify, among what the optimiser moves; at a saddle also measure what leaving it brings."""
    point = case.point
    case.measured["critical point"] = f"{point.label}: {point.evidence[0] if point.evidence else ''}"
    cost = f"{point.num_hvps} HVPs, {point.num_evaluations} evaluations"
    sure = MOST if point.certified else (point.confidence or UNCERTIFIED)
    beside = [] if point.label in ("saddle", "minimum") else _beside(case)
    if beside:
        return beside
    still = point.label == "undetermined" and _still(case, point)
    if point.label == "undetermined" and not still:
        return [not_checked(("saddle", "minimum"), f"a label: {'; '.join(point.evidence[:1])}")]
    if point.label == "minimum":
        return [_minimum(case, min(sure, MOST), cost)]
    if not still and (point.label not in ("saddle", "degenerate") or point.escape_direction is None):
        return []
    return [_saddle(case, point, sure, cost)]


def _still(case: Experiments, point: CriticalPoint) -> bool:
    """Whether a way down is known, and the optimiser gains nothing here at any multiple of its rate."""
    trials = case.trials.values()
    return point.escape_direction is not None and bool(trials) and all(t.gain < STILL for t in trials)


def _beside(case: Experiments) -> Found:
    """A little beside here, where the loss is the same, Adam finds a way that it does not find here."""
    # Parameters that are zero together, or alike, hold each other, also while the rest still moves: then the
    # point is no critical one, and its label is no saddle.
    here = min(case.value, case.adam_from_here)
    if not (LOWER * case.best_seen < here and here > HELD * case.value):
        return []
    first, after = case.adam_from_perturbed
    if not abs(first - case.value) < SAME * abs(case.value):
        return []
    factor = here / after if after > 0 else math.inf
    if not factor > FREED:
        return []
    steps = case.num_adam_steps
    return [
        ratio_finding(
            "saddle",
            f"parameters hold each other where they are: {steps} steps of Adam from here end at "
            f"{number(here, 3)}, from a little beside, where the loss is the same, at {number(after, 3)}",
            quantity="loss after Adam from here ÷ after Adam from a little beside",
            number=factor,
            threshold=FREED,
            spread=SPREAD,
            source="perturbed descent, Jin et al. 2017, arXiv:1703.00887; factor chosen on planted troubles",
            experiment="add noise to all parameters, a hundredth of their size (to zeros, of that of a "
            "usual start), then train on by Adam",
            cost=f"{2 * steps + 1} evaluations of the gradient",
        )
    ]


def _saddle(case: Experiments, point: CriticalPoint, sure: float, cost: str) -> Finding:
    """Leave it on a copy, and train on from there as from here."""
    move = escape(case.loss_of_trained, case.params, case.data, point=point, key=case.key)
    steps = move.num_evaluations - point.num_evaluations
    case.num_evaluations += steps
    unchanged, left, on = case.value, move.loss_after, ""
    if case.trials and move.status == "escaped":
        trained = case.steps(case.samples_in_a_step, case.num_steps)
        left = min(left, trained.run(move.params, case.opt_state, left).after)
        unchanged = min(unchanged, case.trials[1.0].after)
        case.num_evaluations += case.num_steps
        on = f" and {case.num_steps} steps of training"
    size = max(abs(case.value), 1e-300)
    gain, own = (unchanged - left) / size, (case.value - unchanged) / size
    ahead = log_confidence(gain / own, BETTER, SPREAD) if own > 0 else MOST
    case.measured[f"share of the loss that one escape{on} gains over going on"] = number(gain, 3)
    lowest = float(point.lowest.eigenvalues[0])
    what = "negative curvature near here, and nothing to be gained along the gradient"
    what = what if point.label == "undetermined" else "a saddle near here"
    return Finding(
        cause="saddle",
        claim=f"{what} (λ_min = {number(lowest, 3)}): one step along it{on} gain "
        f"{number(100 * gain, 3)} % of the loss, going on gains {number(100 * own, 2)} %",
        quantity="share of the loss that leaving gains over going on",
        number=gain,
        low=gain,
        high=gain,
        threshold=MATERIAL,
        source="negative curvature that gains less is met all along training; chosen on planted troubles",
        confidence=min(sure, ahead, log_confidence(gain, MATERIAL, SPREAD)),
        experiment="hp.escape(loss, params, data), then train on from its params",
        cost=f"{cost}, and {steps + (case.num_steps if on else 0)} evaluations for leaving it",
    )


def _minimum(case: Experiments, sure: float, cost: str) -> Finding:
    """A minimum is a cause only where the loss is large; the ranking sees to that."""
    share = case.value / case.constant_predictor_loss if case.constant_predictor_loss > 0 else math.nan
    # A loss that may be negative has no shares: whether it is low is not known, that nothing leads down is.
    large = MOST if case.constant_predictor_loss <= 0 else log_confidence(share, LARGE, SPREAD)
    among = " among what the optimizer moves" if case.fixed_by_optimizer else ""
    return Finding(
        cause="minimum",
        claim=f"a minimum: no direction{among} leads down, and the loss is {number(case.value, 3)}",
        quantity="loss ÷ loss without any use of the inputs",
        number=share,
        low=share,
        high=share,
        threshold=LARGE,
        source="a loss below this share is small; chosen on the planted troubles",
        confidence=min(sure, large),
        experiment="more informative inputs: a richer model does no better on samples held out"
        if case.random_feature_loss > case.value
        else "a larger model, or better data: going on cannot lower this loss",
        cost=cost,
    )
