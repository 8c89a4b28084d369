"""One rule that puts findings in order.

1. Evidence: findings below an even chance are dropped.  The rest are strong (confidence at least 0.9) or
   moderate, and strong ones come first.
2. Among strong ones, a cause comes before what it brings about: inputs of a bad scale saturate units and
   stretch valleys, or make the loss run away; dead units stop gradients; a step that is too long or too
   short, or a saddle, is a reason why optimisation falls short of what the model can do; a limit of the
   model is what is left when nothing hinders training, and is why a minimum is high.  `CAUSES` lists them
   in this order.
3. The others come by confidence: an order of causes says nothing about what may not be there.

"optimization" says no more than that the loss can be lower; anything found that hinders training is the more
telling answer and stands before it.

Two findings need others to be absent.  A limit of the model is claimed only where nothing that hinders
training was found, since both show in the same way.  What hinders training matters only where the training
loss can be lower; where no other way was seen to lower it, such findings are dropped, and so they are where
the training loss is small and lowering it further made the test loss no better: that is training enough.
Where it is enough and the test loss shows a trouble, strong findings about the steps come after that one.
Units that do not answer to the data hinder only where weights drawn anew end lower than training from here: a
narrow layer that separates classes is flat by its nature.  Where nothing was learnt, it separates none, and
saturation is told all the same.
"""

from __future__ import annotations

import dataclasses
import math

from hessian_probe.diagnosis.confidence import EVEN, MOST, STRONG
from hessian_probe.diagnosis.experiments import BETTER, LIKELY, Experiments
from hessian_probe.diagnosis.reference_models import LARGE
from hessian_probe.diagnosis.result import CAUSES, Finding, NotChecked
from hessian_probe.results import number

# Hinder training: with one of them, the loss says nothing about the model.
HINDRANCES = frozenset({
    "divergence", "input_scale", "dead_units", "saturation", "exploding_gradients", "vanishing_gradients",
    "oscillation", "noise", "slow", "ill_conditioned", "saddle",
})  # fmt: skip
# Matter only where the training loss can be lower.
NEED_ROOM = HINDRANCES - {"divergence"} | {"optimization"}
# Seen in what other steps bring; none where steps without decay of weights bring more than they.
OF_STEPS = frozenset({"oscillation", "noise", "slow", "ill_conditioned", "saddle"})
# What the test data show.
OF_TEST = frozenset({"overfitting", "mismatch"})
# Units that do not answer to the data.
UNIT_CAUSES = frozenset({"dead_units", "saturation"})
# Share of the loss without inputs below which a training loss is small, whatever a test would say.
SMALL = 0.1
# Share of the loss without inputs above which nothing was learnt.
NOTHING_LEARNT = 0.9
# Share of a layer that leaves little to learn with: there weights drawn anew need not end much lower.
NEARLY_ALL = 0.9
SLIGHTLY = 1.1
# Share of what weights drawn anew gain, that training from here may leave where more units answer.
LITTLE = 0.1
# Share of the loss without inputs by which the test loss must fall to matter.
SEEN = 0.02
# Standard errors that are beyond doubt.
ERRORS = 3.0
# Share of the loss without inputs by which the training loss must be above what is reachable.
ROOM = 0.05


def rank(case: Experiments, found: list[Finding], missing: list[NotChecked]) -> tuple[Finding, ...]:
    """Drop what is not supported and order the rest; "healthy" where nothing remains.

    Args:
        case: the measurements.
        found: all findings, of any confidence.
        missing: what was not checked.

    Returns:
        Ranked findings, at least one.
    """
    kept = [f for f in found if f.confidence >= EVEN]
    room = _headroom(case, any(f.cause == "input_scale" for f in kept))
    enough = _converged(case)
    if (not room >= ROOM and not _test_loss_improves(case)) or enough:
        beside = enough and room >= ROOM and any(f.cause in OF_TEST for f in kept)
        kept = [f for f in kept if f.cause not in NEED_ROOM or (beside and _of_steps(f))]
    kept = _drop_harmless_units(case, kept)
    if any(f.cause == "optimization" for f in kept) and case.limited_by_decay:
        kept = [f for f in kept if f.cause not in OF_STEPS]
    if any(f.cause in HINDRANCES for f in kept):
        kept = [f for f in kept if f.cause not in ("model_bias", "minimum")]
    if not kept:
        return (_healthy(case, found, room, missing),)
    hindered = any(f.cause in HINDRANCES for f in kept)

    def order(finding: Finding) -> tuple[int, float, float]:
        place, sure = CAUSES.index(finding.cause), -finding.confidence
        if finding.cause in NEED_ROOM and (enough or (finding.cause == "optimization" and hindered)):
            return 2, place, sure
        return (0, place, sure) if finding.confidence >= STRONG else (1, sure, place)

    return tuple(sorted(kept, key=order))


def _of_steps(finding: Finding) -> bool:
    return finding.cause in OF_STEPS and finding.confidence >= STRONG


def _headroom(case: Experiments, scaled: bool) -> float:
    """How far the training loss is above what is known to be reachable, as a share of the trivial loss."""
    # Where inputs are of a bad scale, what training on standardised ones reaches is reachable too.
    if not math.isfinite(case.value):
        return math.inf
    trivial = case.constant_predictor_loss if case.samples is not None else math.nan
    if not (math.isfinite(trivial) and trivial > 0):
        return math.inf  # nothing to measure it by: nothing is dropped
    best = case.best_seen if math.isfinite(case.best_seen) else 0.0
    if scaled and math.isfinite(case.adam_on_standardised):
        case.measured["the same from weights drawn anew, with inputs standardised"] = number(
            case.adam_on_standardised, 4
        )
        best = min(best, case.adam_on_standardised)
    # A run that bounces may have stopped at a low by luck: what counts is where it goes from here.
    going_on = case.trials[1.0].after if case.trials else case.value
    room = (max(case.value, min(going_on, 10 * case.value)) - best) / trivial
    case.measured["room: (loss − reachable) ÷ loss without inputs"] = f"{room:.3g}"
    return room


def _drop_harmless_units(case: Experiments, kept: list[Finding]) -> list[Finding]:
    """Drop units that do not answer where that does not hinder; where it may, the model is no sure limit."""
    deaf = [f for f in kept if f.cause in UNIT_CAUSES and not _reinit_helps(case, f)]
    if any(f.confidence >= STRONG for f in deaf):
        kept = [_doubted(f) if f.cause == "model_bias" else f for f in kept]
    return [f for f in kept if f not in deaf]


def _doubted(finding: Finding) -> Finding:
    return dataclasses.replace(finding, confidence=min(finding.confidence, LIKELY))


def _reinit_helps(case: Experiments, finding: Finding) -> bool:
    """Whether weights drawn anew bring what training from here does not: units that do not answer hinder."""
    if case.samples is None or not math.isfinite(case.adam_from_reinit):
        return True
    if finding.cause == "dead_units" and case.blocks_without_gradient is not None:
        return True
    from_here = min(loss for loss in (case.value, case.adam_from_here) if math.isfinite(loss))
    # Where training from here gets nearly as far, the units that answer are enough for it.
    near = from_here - case.adam_from_reinit < LITTLE * (case.value - case.adam_from_reinit)
    if finding.number < NEARLY_ALL and near and BETTER * from_here < case.value:
        return False
    if finding.cause == "saturation" and case.value > NOTHING_LEARNT * case.constant_predictor_loss:
        return True
    return (SLIGHTLY if finding.number >= NEARLY_ALL else BETTER) * case.adam_from_reinit < from_here


def _test_loss_improves(case: Experiments) -> bool:
    """Whether a lower training loss halves the test loss, and by an amount that can be seen."""
    # Where targets follow closely from the inputs, little is left to gain beside the loss without them.
    if case.test_samples is None:
        return False
    here, there = case.test_losses
    return 2 * there < here < case.constant_predictor_loss and _seen(case)


def _seen(case: Experiments) -> bool:
    """Whether the test loss falls by an amount that can be seen, or on more than half of the samples."""
    here, there = case.test_losses
    if here - there > SEEN * case.constant_predictor_loss:
        return True
    if case.task is None or case.task.kind != "squared_error":
        return False  # of labels that are told already a cross-entropy can always grow surer
    return case.test_sign_score > ERRORS


def _converged(case: Experiments) -> bool:
    """Whether the training loss is small, and a lower one makes the test loss hardly lower."""
    # It is not enough where another model does better on samples that it has not even seen.
    if not case.value < LARGE * case.constant_predictor_loss:
        return False
    rich = case.random_feature_loss
    richer = BETTER * rich < case.value and case.value - rich > SEEN * case.constant_predictor_loss
    if richer and case.value > SMALL * case.constant_predictor_loss:
        return False
    if case.test_samples is None:
        return case.value < SMALL * case.constant_predictor_loss
    here, there = case.test_losses
    case.measured["test loss here, and where Adam or a Newton step lowered the training loss"] = (
        f"{number(here, 3)}, {number(there, 3)}"
    )
    # Test data on which the model fails altogether tell nothing about training.
    better = BETTER * there < here and here - there > SEEN * case.constant_predictor_loss
    return not (here < case.constant_predictor_loss and (better or _test_loss_improves(case)))


def _still_large(case: Experiments) -> str:
    """Say that the loss is large, and where it goes; empty where it is small."""
    if not case.value > LARGE * case.constant_predictor_loss:
        return ""
    share = (
        f", though the loss is {number(case.value / case.constant_predictor_loss, 2)} of that without inputs"
    )
    if not case.trials:
        return share
    return f"{share}: {case.num_adam_steps} more steps bring it to {number(case.continued, 3)}"


def _healthy(case: Experiments, found: list[Finding], room: float, missing: list[NotChecked]) -> Finding:
    """Nothing was found; the confidence falls with every cause that was not checked."""
    worst = max(found, key=lambda f: f.confidence, default=None)
    doubt = max((f.confidence for f in found if f.confidence < EVEN), default=0.0)
    troubles = set(CAUSES) - {"healthy"}
    unknown = troubles & {cause for item in missing for cause in item.causes}
    checked = len(troubles) - len(unknown)
    nearest = (
        f"; the nearest to one was {worst.cause}" if worst is not None and worst.confidence >= 0.1 else ""
    )
    return Finding(
        cause="healthy",
        claim=f"nothing wrong was found{_still_large(case)}; {checked} of {len(troubles)} causes were "
        f"checked{nearest}",
        quantity="share of the loss without inputs that training could still gain",
        number=room if math.isfinite(room) else math.nan,
        low=room if math.isfinite(room) else math.nan,
        high=room if math.isfinite(room) else math.nan,
        threshold=ROOM,
        source="chosen on the planted troubles",
        confidence=min((1 - doubt) * checked / len(troubles), MOST),
        experiment="nothing: what was not checked is listed",
        cost="all checks together",
    )
