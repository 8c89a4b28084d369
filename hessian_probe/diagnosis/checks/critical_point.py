"""Is it a critical point at all, and of what kind?"""

from __future__ import annotations

import math

from hessian_probe.diagnosis.confidence import MOST, Found, exact, finding, log_confidence, ratio
from hessian_probe.diagnosis.experiments import BETTER as LOWER
from hessian_probe.diagnosis.experiments import LIKELY, Experiments
from hessian_probe.diagnosis.reference_models import LARGE
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.escapes.escape import escape
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import number

# Share of the loss that leaving must gain over training on (smaller negative curvature occurs throughout
# training), and how many times what training on gains.
MATERIAL = 0.01
BETTER = 3.0
SPREAD = 0.5
# Share of the loss below which an optimiser gains nothing: rounding of 40 steps in float32 stays below it.
STILL = 1e-4
# Perturbed start: Adam must end FREED times lower from there than from here, the loss there may differ by the
# share SAME, and Adam from here must stay above the share HELD of the loss.
FREED = 3.0
SAME = 0.05
HELD = 0.5
# Probability of a label that carries none: samples or a prediction decided it.
UNCERTIFIED = 0.9
PERTURB = (
    "add noise to all parameters, a hundredth of their size (for zeros, of the size of usual initial "
    "weights), then train on with Adam"
)
BETTER_INPUTS = (
    "better_inputs",
    "more informative inputs: a richer model does no better on held-out samples",
)
LARGER_MODEL = ("larger_model", "a larger model, or better data: training on cannot lower this loss")


def check(case: Experiments) -> Found:
    """Classify in the parameters that the optimiser moves; at a saddle also measure what leaving it gains."""
    point = case.point
    case.measured["critical point"] = f"{point.label}: {point.evidence[0] if point.evidence else ''}"
    cost = f"{point.num_hvps} HVPs, {point.num_evaluations} evaluations"
    sure = MOST if point.certified else (point.confidence or UNCERTIFIED)
    perturbed = [] if point.label in ("saddle", "minimum") else check_perturbed(case)
    if perturbed:
        return perturbed
    if point.label == "minimum":
        return [_minimum(case, min(sure, MOST), cost)]
    known = point.escape_direction is not None
    if point.label == "undetermined":  # then a saddle, where the optimiser gains nothing at any of its rates
        still = case.trials and all(trial.gain < STILL for trial in case.trials.values())
        if not (known and still):
            return [NotChecked(("saddle", "minimum"), f"a label: {'; '.join(point.evidence[:1])}")]
    elif not known or point.label not in ("saddle", "degenerate"):
        return []
    return [_saddle(case, point, sure, cost)]


def check_perturbed(case: Experiments) -> Found:
    """From a small perturbation, at the same loss, Adam finds a descent that it does not find from here."""
    # Parameters that are all zero, or all equal, get no gradient that separates them, while the rest still
    # moves: then the point is not critical, and its label is not saddle.
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
        finding(
            ("saddle", "perturbation"),
            f"some parameters get no gradient because others are zero or equal: {steps} steps of Adam from "
            f"here end at {number(here, 3)}, from a small perturbation of the same loss at "
            f"{number(after, 3)}",
            "loss after Adam from here ÷ after Adam from a small perturbation",
            ratio(factor, FREED, SPREAD),
            source="perturbed descent, Jin et al. 2017, arXiv:1703.00887; factor chosen on synthetic "
            "failures",
            remedy=("perturb", PERTURB),
            cost=f"{2 * steps + 1} evaluations of the gradient",
        )
    ]


def _saddle(case: Experiments, point: CriticalPoint, sure: float, cost: str) -> Finding:
    """Leave it on a copy, and train on from there as from here."""
    move = escape(case.loss, case.params, case.data, trainable=case.moved, point=point, key=case.key)
    steps = move.num_evaluations - point.num_evaluations
    case.cost.add(losses=steps)
    unchanged, left, on = case.value, move.loss_after, ""
    if case.trials and move.status == "escaped":
        trained = case.steps(case.samples_in_a_step, case.num_steps)
        left = min(left, trained.run(move.params, case.opt_state, left).after)
        unchanged = min(unchanged, case.trials[1.0].after)
        on = f" and {case.num_steps} steps of training"
    size = max(abs(case.value), 1e-300)
    gain, own = (unchanged - left) / size, (case.value - unchanged) / size
    ahead = log_confidence(gain / own, BETTER, SPREAD) if own > 0 else MOST
    case.measured[f"share of the loss that one escape{on} gains over going on"] = number(gain, 3)
    lowest = float(point.lowest.eigenvalues[0])
    going_on = f"; training on, by {number(100 * own, 3)} %" if on else ""
    reason, what = "label", "a saddle near here"
    if point.label == "undetermined":
        reason, what = "negative_curvature", "negative curvature near here, and the gradient gains nothing"
    return finding(
        ("saddle", reason),
        f"{what} (λ_min = {number(lowest, 3)}): one step along it{on} {'lower' if on else 'lowers'} the loss "
        f"by {number(100 * (own + gain), 3)} % of its value{going_on}",
        "share of the loss that leaving gains over training on",
        exact(gain, MATERIAL),
        source="negative curvature that gains less occurs throughout training; chosen on synthetic failures",
        sure=min(sure, ahead, log_confidence(gain, MATERIAL, SPREAD)),
        remedy=("escape", "hp.escape(loss, params, data), then train on from its params"),
        cost=f"{cost}, and {steps + (case.num_steps if on else 0)} evaluations for leaving it",
    )


def _minimum(case: Experiments, sure: float, cost: str) -> Finding:
    """A minimum is a cause only where the loss is large; the ranking sees to that."""
    share = case.value / case.constant_predictor_loss if case.constant_predictor_loss > 0 else math.nan
    # A loss that may be negative has no shares: no direction descends, but whether it is low is not known.
    large = MOST if case.constant_predictor_loss <= 0 else log_confidence(share, LARGE, SPREAD)
    if case.samples is None and math.isnan(share):  # nor is its scale
        large = LIKELY
    among = " among what the optimiser moves" if case.fixed_by_optimizer else ""
    return finding(
        ("minimum", "label"),
        f"a minimum: at most {number(case.point.gain, 2)} is left to gain within "
        f"{number(case.point.reach, 2)} of here{among}, and the loss is {number(case.value, 3)}",
        "loss ÷ loss of the best constant output",
        exact(share, LARGE),
        source="a loss below this share is small; chosen on synthetic failures",
        sure=min(sure, large),
        remedy=BETTER_INPUTS if case.random_feature_loss > case.value else LARGER_MODEL,
        cost=cost,
    )
