"""The rules that order findings.

1. Evidence: findings with confidence below 0.5 are dropped.  The rest are strong (0.9 or more) or moderate;
   strong ones come first.
2. Among strong ones, a cause comes before its effects: updates that climb explain whatever steps do; inputs
   of a bad scale saturate units, stretch valleys or make the loss diverge; dead units stop gradients; a wrong
   step size or a saddle keeps optimisation from what the model can reach; a limit of the model remains when
   nothing hinders training, and explains a high minimum.  `CAUSES` lists them in this order.
3. Moderate ones come by confidence: the order of causes means nothing for what may not be there.

"optimization" says only that the loss can be lower: findings that hinder training come before it.  A limit of
the model is reported only where nothing hinders training; what hinders it counts only where the training loss
can be lower, and has not converged: small, and a lower one did not improve the test loss.  Dead or saturated
units are reported only if training from a re-initialisation ends lower than from here: a narrow,
well-separated layer saturates legitimately.
"""

from __future__ import annotations

import dataclasses
import math

from hessian_probe.diagnosis.confidence import EVEN, MOST, STRONG, exact, finding
from hessian_probe.diagnosis.experiments import BETTER, LIKELY, Experiments
from hessian_probe.diagnosis.reference_models import LARGE
from hessian_probe.diagnosis.result import CAUSES, Finding, NotChecked
from hessian_probe.results import number

# Causes that hinder training: with one of them, the loss shows no limit of the model.
HINDRANCES = frozenset({
    "uphill", "divergence", "input_scale", "dead_units", "saturation", "exploding_gradients",
    "vanishing_gradients", "oscillation", "noise", "slow", "ill_conditioned", "saddle",
})  # fmt: skip
# Causes that count only where the training loss can be lower.
NEED_HEADROOM = HINDRANCES - {"uphill", "divergence"} | {"optimization"}
# Causes measured by other steps; dropped where steps without weight decay end lower than all of them.
OF_STEPS = frozenset({"oscillation", "noise", "slow", "ill_conditioned", "saddle"})
# How a recorded loss that rises shows.
OF_HISTORY = frozenset({"rise", "first_step", "history_not_finite", "not_finite"})
# Causes that a sum in place of a mean brings about by long steps; without one of them it is no fault.
OF_LENGTH = frozenset({"divergence", "oscillation", "exploding_gradients", "dead_units", "saturation"})
# Causes measured on the test data.
OF_TEST = frozenset({"overfitting", "mismatch"})
# Causes about units that do not respond to the data.
UNIT_CAUSES = frozenset({"dead_units", "saturation"})
# Share of the constant's loss below which a training loss is small, without test data too.
SMALL = 0.1
# Share of the constant's loss above which nothing was learnt.
NOTHING_LEARNT = 0.9
# What is missing where a finding ends the checks.
REST = "everything else"
# Share of the causes that must have been checked for "healthy", of those that apply: these need data.
MOST_CHECKED = 0.75
NEED_DATA = {
    "broadcast", "input_scale", "dead_units", "saturation", "exploding_gradients", "vanishing_gradients",
    "noise", "model_bias", "mismatch", "overfitting",
}  # fmt: skip
# Arguments by how many causes they allow to check, most first.
NEXT = {
    "given_data": "data", "optimizer": "optimizer and opt_state", "apply": "apply", "history": "history",
    "test_samples": "test_data", "trainer": "trainer",
}  # fmt: skip
# Share of dead or saturated units that leaves a layer little to learn with: then a re-initialisation need
# only end SLIGHTLY lower.
NEARLY_ALL = 0.9
SLIGHTLY = 1.1
# Units do not hinder where training from here gains all but this share of what a re-initialisation gains.
LITTLE = 0.1
# Share of the constant's loss by which the test loss must fall to count.
SEEN = 0.02
# Standard errors from which a difference counts as certain.
ERRORS = 3.0
# Share of the constant's loss by which the training loss must be above what is reachable.
HEADROOM = 0.05


def proved(found: Finding | NotChecked) -> bool:
    """Whether an experiment shows a fault of the program."""
    return isinstance(found, Finding) and found.cause == "program" and found.confidence >= STRONG


def rank(case: Experiments, found: list[Finding], missing: list[NotChecked]) -> tuple[Finding, ...]:
    """Drop what is not supported and order the rest; "healthy" alone where nothing remains."""
    kept = [f for f in found if f.confidence >= EVEN]
    if any(map(proved, kept)) or any(
        f.cause == "broadcast" or f.reason == "gradient_nonfinite" for f in kept
    ):
        # Nothing that depends on it was checked.
        return tuple(sorted(kept, key=lambda f: CAUSES.index(f.cause)))
    if case.samples is not None and not any(f.cause in OF_LENGTH for f in kept):
        kept = [f for f in kept if f.reason != "sum_for_mean"]
    headroom = _headroom(case, any(f.cause == "input_scale" for f in kept))
    converged = _converged(case, kept)
    if (not headroom >= HEADROOM and not _test_loss_improves(case)) or converged:
        steps_too = converged and headroom >= HEADROOM and any(f.cause in OF_TEST for f in kept)
        of_steps = [f for f in kept if steps_too and f.cause in OF_STEPS and f.confidence >= STRONG]
        kept = [f for f in kept if f.cause not in NEED_HEADROOM or f in of_steps]
    if any(f.cause == "uphill" for f in kept):  # no other rate, batch or place helps updates that climb
        kept = [f for f in kept if f.cause not in OF_STEPS and f.reason not in OF_HISTORY]
    kept = _drop_harmless_units(case, kept)
    if any(f.cause == "optimization" for f in kept) and case.limited_by_decay:
        kept = [f for f in kept if f.cause not in OF_STEPS]
    if any(f.cause in HINDRANCES for f in kept):
        kept = [f for f in kept if f.cause not in ("model_bias", "minimum")]
    if not kept:
        return (_healthy(case, found, headroom, missing),)
    hindered = any(f.cause in HINDRANCES for f in kept)

    def order(finding: Finding) -> tuple[int, float, float]:
        place, sure = CAUSES.index(finding.cause), -finding.confidence
        if finding.cause in NEED_HEADROOM and (converged or (finding.cause == "optimization" and hindered)):
            return 2, place, sure
        return (0, place, sure) if finding.confidence >= STRONG else (1, sure, place)

    return tuple(sorted(kept, key=order))


def _headroom(case: Experiments, scaled: bool) -> float:
    """Training loss above what is known to be reachable, as a share of the constant's loss."""
    # Where inputs are of a bad scale, what training on standardised ones reaches counts as reachable.
    if not math.isfinite(case.value):
        return math.inf
    constant = case.constant_predictor_loss if case.samples is not None else math.nan
    if not (math.isfinite(constant) and constant > 0):
        return math.inf  # without a scale nothing is dropped
    best = case.best_seen if math.isfinite(case.best_seen) else 0.0
    if scaled and math.isfinite(anew := case.adam_on_standardised):
        case.measured["the same from re-initialised weights, with inputs standardised"] = number(anew, 4)
        best = min(best, anew)
    # An oscillating run may have stopped at a low by luck, so the loss after further steps counts too.
    continued = case.trials[1.0].after if case.trials else case.value
    headroom = (max(case.value, min(continued, 10 * case.value)) - best) / constant
    case.measured["headroom: (loss − reachable) ÷ loss of the best constant output"] = f"{headroom:.3g}"
    return headroom


def _drop_harmless_units(case: Experiments, kept: list[Finding]) -> list[Finding]:
    """Drop dead and saturated units that do not hinder training; strong ones leave a model limit in doubt."""
    harmless = [f for f in kept if f.cause in UNIT_CAUSES and not _reinit_helps(case, f)]
    if any(f.confidence >= STRONG for f in harmless):
        kept = [
            dataclasses.replace(f, confidence=min(f.confidence, LIKELY)) if f.cause == "model_bias" else f
            for f in kept
        ]
    return [f for f in kept if f not in harmless]


def _reinit_helps(case: Experiments, finding: Finding) -> bool:
    """Whether training from a re-initialisation ends lower than from here, so that the units hinder."""
    if case.samples is None or not math.isfinite(case.adam_from_reinit):
        return True
    if finding.cause == "dead_units" and case.blocks_without_gradient is not None:
        return True
    from_here = min(loss for loss in (case.value, case.adam_from_here) if math.isfinite(loss))
    # Where training from here gets nearly as far, the units that respond suffice.
    near = from_here - case.adam_from_reinit < LITTLE * (case.value - case.adam_from_reinit)
    if finding.number < NEARLY_ALL and near and BETTER * from_here < case.value:
        return False
    if finding.cause == "saturation" and case.value > NOTHING_LEARNT * case.constant_predictor_loss:
        return True
    return (SLIGHTLY if finding.number >= NEARLY_ALL else BETTER) * case.adam_from_reinit < from_here


def _test_loss_improves(case: Experiments) -> bool:
    """Whether a lower training loss halves the test loss, by an amount that counts or on most samples."""
    # Where inputs nearly determine the targets, what is left to gain is small beside the constant's loss.
    if case.test_samples is None:
        return False
    here, there = case.test_losses
    if not 2 * there < here < case.constant_predictor_loss:
        return False
    if here - there > SEEN * case.constant_predictor_loss:
        return True
    # A cross-entropy can always fall further on labels that are already right.
    return case.task is not None and case.task.kind == "squared_error" and case.test_sign_score > ERRORS


def _converged(case: Experiments, kept: list[Finding]) -> bool:
    """Whether the training loss is small, and a lower one hardly lowers the test loss."""
    if case.samples is None:  # without a scale of small losses: at a minimum, and nothing came lower
        if not math.isfinite(case.value) or case.point.label != "minimum":
            return False
        factors = [f.number for f in kept if f.cause == "optimization"]
        return not any(case.value * (1 - 1 / factor) > case.point.resolution for factor in factors)
    # Not where a reference model does better even on held-out samples.
    if not case.value < LARGE * case.constant_predictor_loss:
        return False
    rich = case.random_feature_loss
    richer = BETTER * rich < case.value and case.value - rich > SEEN * case.constant_predictor_loss
    if richer and case.value > SMALL * case.constant_predictor_loss:
        return False
    if case.test_samples is None:
        return case.value < SMALL * case.constant_predictor_loss
    here, there = case.test_losses
    said = f"{number(here, 3)}, {number(there, 3)}"
    case.measured["test loss here, and where Adam or a Newton step lowered the training loss"] = said
    # Test data on which the model fails altogether show nothing about training.
    better = BETTER * there < here and here - there > SEEN * case.constant_predictor_loss
    return not (here < case.constant_predictor_loss and (better or _test_loss_improves(case)))


def _still_large(case: Experiments) -> str:
    """Say that the loss is large, and what further steps reach; empty where it is small."""
    if not case.value > LARGE * case.constant_predictor_loss:
        return ""
    ratio = case.value / case.constant_predictor_loss
    share = f", though the loss is {number(ratio, 2)} of that of the best constant output"
    if not case.trials:
        return share
    return f"{share}: {case.num_adam_steps} more steps reach {number(case.continued, 3)}"


def _healthy(case: Experiments, found: list[Finding], headroom: float, missing: list[NotChecked]) -> Finding:
    """Nothing was found; every cause that was not checked lowers the confidence.

    Returns:
        "nothing_found" where the loss is about that of a model without inputs or too little was checked.
    """
    worst = max(found, key=lambda f: f.confidence, default=None)
    doubt = max((f.confidence for f in found if f.confidence < EVEN), default=0.0)
    causes = set(CAUSES) - {"healthy", "nothing_found"} - (NEED_DATA if case.given_data is None else set())
    checked = len(causes - {cause for item in missing for cause in item.causes})
    nearest = f"; the nearest one was {worst.cause}" if worst is not None and worst.confidence >= 0.1 else ""
    cause, reason, said = "healthy", "nothing_found", _still_large(case)
    if case.samples is not None and case.value > NOTHING_LEARNT * case.constant_predictor_loss:
        cause, reason = "nothing_found", "like_without_inputs"
        said = f", though the loss is about that of a model without inputs{said.replace(', though', ':', 1)}"
    elif checked < MOST_CHECKED * len(causes):
        cause, reason = "nothing_found", "little_checked"
    pass_next = ", ".join(NEXT[name] for name in NEXT if cause != "healthy" and getattr(case, name) is None)
    remedy = ("pass_more", f"pass {pass_next}") if pass_next else ("none", "nothing")
    return finding(
        (cause, reason),
        f"nothing wrong was found{said}; {checked} of {len(causes)} causes were checked{nearest}",
        "share of the constant's loss that training could still gain",
        exact(headroom if math.isfinite(headroom) else math.nan, HEADROOM),
        source="chosen on synthetic failures",
        sure=min((1 - doubt) * checked / len(causes), MOST),
        remedy=(remedy[0], f"{remedy[1]}: `not_checked` lists what was not checked"),
        cost="all checks together",
    )
