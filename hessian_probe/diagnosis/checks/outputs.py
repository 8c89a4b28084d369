"""Can the outputs reach the targets, and does the loss fit them?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis.baselines import AGREE
from hessian_probe.diagnosis.case import single_rows
from hessian_probe.diagnosis.confidence import MOST, Found, exact, finding, log_confidence
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.reference_models import LARGE
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.optimizers.samples import Samples, join_batches
from hessian_probe.results import number

# Share of the constant's loss below which outputs within their range cannot come, that is reported.
FLOOR = 0.1
# Losses, or sums of outputs, are the same where they differ by at most this share: rounding of float32.
SAME = 1e-6
TIED = 1e-4
# Batches of one class each: this share of them, and by chance with at most this probability.
ONE_CLASS, BY_CHANCE = 0.8, 1e-4
# Labels divided by 255 are multiples of 1/255 up to this number of them.
MOST_CLASSES = 100
# Root mean square of the targets from which a usual rate takes thousands of steps, and its spread.
FAR_TARGETS, SPREAD = 300.0, 0.5
# A finding that is a matter of fit, not proved: a squared error of classes.
UNFIT = 0.6
# What is added to probabilities, or clips them, before a logarithm.
SMALLEST = (0.0, 1e-15, 1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
SOURCE = "measured here and at two other sets of parameters"


def check(case: Experiments) -> Found:
    """Look at the data, then at the loss with other parameters and inputs, then at the outputs."""
    out: Found = [*_of_data(case)]
    if case.whole is not None and (fault := _constant(case)) is not None:
        return [*out, fault]
    samples = case.samples
    if samples is None or samples.inputs is None or samples.targets is None:
        return [*out, NotChecked((), "data as (inputs, targets)", "outputs against targets")]
    if (fault := _ignored(case, samples)) is not None:
        return [*out, fault]
    if case.apply is None:
        return [*out, NotChecked((), "apply(params, inputs)", "outputs against targets")]
    return [*out, *_of_outputs(case, samples)]


def _fault(
    code: str, claim: str, quantity: str, value: float, remedy: tuple[str, str], **more: Any
) -> Finding:
    given = {"source": SOURCE, "cost": "a few losses and outputs", **more}
    return finding(
        ("program", code), claim, quantity, exact(value, given.pop("threshold", 0.0)), remedy=remedy, **given
    )


def _classes(targets: np.ndarray | None) -> np.ndarray | None:
    """Classes of targets (n,) from 0, 1, …; None where they are no classes."""
    if targets is None or targets.dtype.kind not in "iubf":
        return None
    rows = targets.reshape(len(targets), -1)
    if rows.shape[1] > 1:
        one_hot = bool(np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1))
        return rows.argmax(axis=1) if one_hot else None
    flat = rows[:, 0]
    whole = bool(np.all(flat == np.round(flat)) and flat.min() >= 0)
    few = whole and len(np.unique(flat)) <= min(MOST_CLASSES, max(2, len(flat) // 2))
    return flat.astype(np.int64) if few else None


# Data


def _of_data(case: Experiments) -> Iterator[Finding]:
    samples = case.given_samples
    if samples is None or samples.inputs is None or samples.targets is None:
        return
    targets, classes = samples.targets.reshape(samples.size, -1), _classes(samples.targets)
    inputs = samples.inputs
    if samples.size > 1 and np.all(inputs == inputs[:1]):
        yield _fault(
            "inputs_alike",
            "all inputs are the same, so no output can follow its target. The "
            f"{samples.size} inputs differ in no entry",
            "entries in which inputs differ",
            0.0,
            ("mend_inputs", "look at how batches are made: one input stands in for all of them"),
            source="equal inputs have equal outputs",
        )
    scaled = targets * 255.0 if targets.shape[1] == 1 and targets.dtype.kind == "f" else np.ones((1, 1)) / 3
    whole = np.round(scaled)
    if (
        np.all(np.abs(scaled - whole) < 1e-3)
        and 0 < whole.max() <= MOST_CLASSES
        and whole.min() >= 0
        and len(np.unique(whole)) <= MOST_CLASSES
        and np.max(np.abs(inputs)) > 1
    ):
        yield _fault(
            "labels_scaled",
            f"the labels, not the inputs, were divided by 255. Targets are multiples of 1/255 up to "
            f"{int(whole.max())}/255, and inputs reach {number(float(np.max(np.abs(inputs))), 3)}",
            "largest target",
            float(targets.max()),
            ("scale_inputs", "divide the inputs by 255, and leave the labels as they are"),
            source="labels are whole numbers",
        )
    if case.op is not None and classes is not None and (fault := _one_class(case, classes)) is not None:
        yield fault


def _one_class(case: Experiments, classes: np.ndarray) -> Finding | None:
    """Batches that hold samples of one class each."""
    samples = case.given_samples
    assert samples is not None
    if samples.batch_size is None or samples.batch_size < 2 or len(np.unique(classes)) < 2:
        return None
    parts = [join_batches(batch) for batch in case.given_data]
    labels = [_classes(part.targets) for part in parts if part is not None and part.targets is not None]
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    single = [len(each) for each in labels if each is not None and len(np.unique(each)) == 1]
    chance = sum(math.log(float(np.sum(shares**size))) for size in single)
    if len(single) < ONE_CLASS * len(parts) or chance > math.log(BY_CHANCE):
        return None
    return _fault(
        "one_class_batches",
        f"each batch holds samples of one class, so each step unlearns the others. {len(single)} of "
        f"{len(parts)} batches have one class, of {len(shares)} in all",
        "share of the batches with one class",
        len(single) / len(parts),
        ("shuffle", "shuffle the samples before they are put into batches, anew in each epoch"),
        threshold=ONE_CLASS,
        source=f"by chance with a probability below {BY_CHANCE:g}",
    )


# The loss


def _constant(case: Experiments) -> Finding | None:
    """A loss that no parameter changes."""
    assert case.whole is not None
    if not all(not np.any(np.asarray(leaf)) for leaf in case.op.gradient_vector):
        return None
    losses = [case.loss_on(case.whole.batch, at) for at in case.draws]
    if not np.all(np.isfinite(losses)) or np.ptp(losses) > SAME * abs(losses[0]):
        return None
    mix, why = case.mix, ""
    mend = "look for what cuts the loss from the parameters: a constant, an argmax, a rounding"
    if mix is not None and mix.operation == "softmax of one":
        why = ": a softmax over one unit is 1 whatever goes in"
        mend = (
            "for two classes use a sigmoid with binary cross-entropy, for more an output unit for each; for "
            "a regression no last activation"
        )
    return _fault(
        "constant_loss",
        f"no parameter changes the loss{why}. It is {number(losses[0], 4)} here, at re-initialised ones "
        "and at others, and the gradient is zero in every entry",
        "largest difference of the losses",
        float(np.ptp(losses)),
        ("mend_output", mend),
        place="" if mix is None else f"`{mix.operation}`{mix.place}",
    )


def _ignored(case: Experiments, samples: Samples) -> Finding | None:
    """A loss that does not change where all inputs are replaced by the first."""
    assert samples.inputs is not None
    if len(jax.tree.leaves(samples.batch)) != 2 or np.all(samples.inputs == samples.inputs[:1]):
        return None
    some = samples.part(single_rows(samples))
    assert some.inputs is not None
    alike = some.with_inputs(np.broadcast_to(some.inputs[:1], some.inputs.shape))
    before = []
    for at in case.draws:
        loss, other = case.loss_on(some.batch, at), case.loss_on(alike, at)
        if not math.isfinite(loss) or abs(other - loss) > SAME * abs(loss):
            return None
        before.append(loss)
    return _fault(
        "inputs_ignored",
        f"the outputs do not depend on the inputs. With every input replaced by the first one the loss of "
        f"{some.size} samples stays {number(before[0], 4)}, here and at two other sets of parameters",
        "change of the loss",
        0.0,
        (
            "use_inputs",
            "follow the inputs through the model: they are overwritten or never used",
        ),
    )


# Outputs


def _of_outputs(case: Experiments, samples: Samples) -> Iterator[Finding]:
    assert samples.inputs is not None
    assert samples.targets is not None
    if case.outputs is None or case.outputs.dtype.kind != "f" or not np.all(np.isfinite(case.outputs)):
        return
    some = samples.part(single_rows(samples))
    assert some.targets is not None
    run = jax.jit(lambda at, x: case.apply(at, x))
    seen = []
    for at in case.draws:
        outputs = np.asarray(run(at, jnp.asarray(some.inputs)), np.float64)
        seen.append((outputs.reshape(some.size, -1), case.loss_on(some.batch, at)))
    for fault in (
        _tied(some.targets, [outputs for outputs, _ in seen]),
        _unfit_loss(some.targets, seen),
        _out_of_reach(case),
        _squared_classes(case, samples.targets),
        _far_targets(case, samples.targets),
    ):
        if fault is not None:
            yield fault
            return


def _tied(targets: np.ndarray, outputs: list[np.ndarray]) -> Finding | None:
    """Outputs that sum to the same for all samples, against targets that do not."""
    rows = targets.reshape(len(targets), -1).astype(np.float64)
    if rows.shape != outputs[0].shape or rows.shape[1] < 2:
        return None
    sums = np.concatenate([each.sum(axis=1) for each in outputs])
    varied = max(float(np.ptp(each)) for each in outputs) > TIED
    spread = float(np.std(rows.sum(axis=1)))
    if not varied or np.ptp(sums) > TIED * abs(sums[0]) or spread < FLOOR * np.sqrt(np.mean(rows**2)):
        return None
    return _fault(
        "tied_outputs",
        f"the outputs are tied together, the targets are not: a softmax stands over independent targets."
        f" Outputs of every sample sum to {number(float(sums[0]), 3)} at all parameters, the targets to "
        f"{number(float(rows.sum(axis=1).min()), 3)} and {number(float(rows.sum(axis=1).max()), 3)}",
        "standard deviation of the sums of targets",
        spread,
        (
            "untie_outputs",
            "in place of the softmax a sigmoid for each output, or for a regression nothing",
        ),
    )


def _unfit_loss(targets: np.ndarray, seen: list[tuple[np.ndarray, float]]) -> Finding | None:
    """A loss whose formula these targets or outputs do not fit."""
    classes, outputs = _classes(targets), seen[0][0]
    count = 0 if classes is None else int(classes.max()) + 1
    flat = targets.reshape(len(targets), -1).astype(np.float64)
    beyond = float(np.mean((flat < 0) | (flat > 1)))
    if (
        flat.shape == outputs.shape
        and beyond > 0
        and _matches(seen, lambda out: _binary(out, flat, [_of_logits(out, flat)]))
    ):
        one = flat.shape[1] == 1 and count > 2
        what = f"one output cannot tell {count} classes apart" if one else "no output reaches such targets"
        return _fault(
            "binary_loss_beyond_targets",
            f"a binary cross-entropy is taken of targets beyond 0 and 1: {what}, and the loss has no lowest "
            f"value. Targets lie between {number(float(flat.min()), 3)} and {number(float(flat.max()), 3)}",
            "share of the targets beyond 0 and 1",
            beyond,
            (
                "fit_loss",
                "an output for each class with softmax cross-entropy"
                if one
                else "a squared error, without a last activation",
            ),
            source="it is the loss of probabilities",
        )
    outside = float(np.mean((outputs < -TIED) | (outputs > 1 + TIED)))
    several = classes is not None and count <= outputs.shape[1] and outputs.shape[1] > 1
    what = "no softmax stands before a loss of probabilities"
    if outside == 0:
        return None
    if flat.shape == outputs.shape and beyond == 0 and _matches(seen, lambda out: _binary(out, flat, [])):
        what = "no sigmoid stands before a loss of probabilities"
    elif several and _matches(seen, lambda out: [-_picked(out, classes)]):
        what = (
            "no logarithm of a softmax stands before a loss of log-probabilities, which has no lowest value"
        )
        if np.ptp(np.exp(outputs).sum(axis=1)) <= TIED:
            return None
    elif not several or not _matches(seen, lambda out: _categorical(out, classes)):
        return None
    return _fault(
        "logits_as_probabilities",
        f"{what}. The outputs lie between {number(float(outputs.min()), 3)} and "
        f"{number(float(outputs.max()), 3)}, {100 * outside:.0f} % outside of 0 and 1",
        "share of the outputs outside of 0 and 1",
        outside,
        ("cross_entropy_of_logits", "a cross-entropy that takes logits, such as those of optax.losses"),
    )


def _of_logits(out: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, out) - targets * out


def _picked(each: np.ndarray, classes: Any) -> float:
    return float(np.mean(each[np.arange(len(classes)), classes]))


def _matches(seen: list[tuple[np.ndarray, float]], formulas: Any) -> bool:
    """Whether one of the formulas gives the loss at all parameters."""
    fits = []
    for out, loss in seen:
        with np.errstate(all="ignore"):
            found = np.asarray(formulas(out), np.float64)
        fits.append(np.abs(found - loss) <= AGREE * abs(loss) + 1e-6)
    return bool(np.any(np.all(fits, axis=0)))


def _binary(out: np.ndarray, targets: np.ndarray, found: list[np.ndarray]) -> list[float]:
    """Mean and sum over outputs: binary cross-entropies of probabilities, and what else is found."""
    for small in SMALLEST:
        for one, other in (
            (np.clip(out, small, 1 - small), 1 - np.clip(out, small, 1 - small)),
            (out + small, 1 - out + small),
        ):
            found.append(-(targets * np.log(one) + (1 - targets) * np.log(other)))
    return [value for each in found for value in (float(np.mean(each)), float(np.mean(np.sum(each, axis=1))))]


def _categorical(out: np.ndarray, classes: Any) -> list[float]:
    """Cross-entropy of outputs that are taken for probabilities, as they are or divided by their sum."""
    found = []
    for each in (out, out / out.sum(axis=1, keepdims=True)):
        for small in SMALLEST:
            cut = (np.clip(each, small, 1.0), np.clip(each, small, 1 - small), np.maximum(each, small))
            found += [-_picked(np.log(kept), classes) for kept in (*cut, np.maximum(each, 0) + small)]
    return found


def _out_of_reach(case: Experiments) -> Finding | None:
    """Outputs whose range leaves a floor under the loss, or a rectifier before a loss of logits."""
    task = case.task
    if task is None or case.outputs is None or case.output_range == (-math.inf, math.inf):
        return None
    constant = case.constant_predictor_loss
    (low, high), logits = case.output_range, task.kind != "squared_error"
    within = f"within {low:.0f} and {high:.0f}" if math.isfinite(high) else "at or above 0"
    zeros = float(np.mean(case.outputs == 0))
    floor = case.loss_floor
    if logits and not math.isfinite(high) and zeros > FLOOR:
        return _fault(
            "rectified_logits",
            f"a rectifier stands before a loss of logits, which are never below 0 then and stop learning at 0. "
            f"{100 * zeros:.0f} % of the outputs are 0, and none is below at any parameters",
            "share of outputs that are 0",
            zeros,
            ("remove_last_activation", "remove the last activation of the model: this loss applies its own"),
            threshold=FLOOR,
        )
    if not floor > FLOOR * constant:
        return None
    what = "the last activation makes bounded values of what the loss takes for logits"
    mend = "remove the last activation of the model: this loss applies its own"
    if not logits:
        beyond = float(np.mean((task.targets < low) | (task.targets > high)))
        what = f"the last activation cannot reach {100 * beyond:.0f} % of the targets"
        mend = "remove the last activation of the model, or scale the targets into its range"
    return _fault(
        "bounded_logits" if logits else "targets_out_of_reach",
        f"{what}. Outputs stay {within} at all parameters tried, so the loss cannot fall below "
        f"{number(floor, 3)}; the best constant output has {number(constant, 3)}",
        "lowest loss within the range of outputs ÷ that of the best constant",
        floor / constant if constant > 0 else math.inf,
        ("remove_last_activation", mend),
        threshold=FLOOR,
    )


def _squared_classes(case: Experiments, targets: np.ndarray) -> Finding | None:
    """A squared error of classes, where the loss is still large."""
    task, classes = case.task, _classes(targets)
    if (
        task is None
        or task.kind != "squared_error"
        or classes is None
        or not case.value > LARGE * case.constant_predictor_loss
    ):
        return None
    share = case.value / case.constant_predictor_loss
    count, one_hot = len(np.unique(classes)), targets.reshape(len(targets), -1).shape[1] > 1
    if not one_hot and (count < 3 or targets.dtype.kind == "f"):
        return None
    return _fault(
        "squared_error_of_classes",
        f"a squared error is taken of {count} classes"
        + ("" if one_hot else ", which one output takes for numbers in order")
        + f". The loss is {number(share, 2)} of that of the best constant",
        "loss ÷ that of the best constant output",
        share,
        ("fit_loss", "an output for each class, with softmax cross-entropy"),
        sure=UNFIT,
        threshold=LARGE,
    )


def _far_targets(case: Experiments, targets: np.ndarray) -> Finding | None:
    """Targets so large that steps of a usual size hardly move the outputs towards them."""
    task = case.task
    if task is None or task.kind != "squared_error" or not case.value > LARGE * case.constant_predictor_loss:
        return None
    share = case.value / case.constant_predictor_loss
    size = float(np.sqrt(np.mean(np.square(targets.astype(np.float64)))))
    return _fault(
        "target_scale",
        f"the targets are far from the size that a model starts with. Their root mean square is "
        f"{number(size, 3)}, and the loss is {number(share, 2)} of that of "
        "the best constant",
        "root mean square of the targets",
        size,
        (
            "standardise_targets",
            "subtract the targets' mean and divide by their standard deviation; undo it after",
        ),
        sure=min(log_confidence(size, FAR_TARGETS, SPREAD), MOST),
        threshold=FAR_TARGETS,
        source="outputs begin at about 1; factor chosen on synthetic failures",
    )
