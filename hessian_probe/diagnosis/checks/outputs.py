"""Can the outputs reach the targets, and does the loss fit them?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis.baselines import AGREE
from hessian_probe.diagnosis.case import single_rows
from hessian_probe.diagnosis.confidence import Found, log_confidence
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.faults import fault
from hessian_probe.diagnosis.reference_models import LARGE, UNBOUNDED
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.optimizers.samples import Samples, join_batches

# Share of the constant's loss that outputs within their range must leave, or of outputs that are 0.
FLOOR = 0.1
# Losses, and sums of outputs, are the same where they differ by at most this share: rounding of float32.
SAME, TIED = 1e-6, 1e-4
# Batches of one class each: this share of them, and by chance with at most this probability.
ONE_CLASS, BY_CHANCE = 0.8, 1e-4
# Classes at most; labels divided by 255 are multiples of 1/255 up to this number of them.
MOST_CLASSES = 100
# Root mean square of the targets from which a usual rate takes thousands of steps, and its spread.
FAR_TARGETS, SPREAD = 300.0, 0.5
# Confidence in what is a matter of fit and not proved: a squared error of classes.
UNFIT = 0.6
# What is added to probabilities, or clips them, before a logarithm.
SMALLEST = (0.0, 1e-15, 1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
OWN, SCALED = ": this loss applies its own", ", or scale the targets into its range"
# Outputs (n, k) at several sets of parameters, each with the loss there.
Seen = list[tuple[np.ndarray, float]]


def check(case: Experiments) -> Found:
    """Look at the data, then at the loss with other parameters and inputs, then at the outputs."""
    out: Found = [*_of_data(case)]
    if case.whole is not None and (found := _constant(case)) is not None:
        return [*out, found]
    samples = case.samples
    if samples is None or samples.inputs is None or samples.targets is None:
        return [*out, NotChecked((), "data as (inputs, targets)", "outputs against targets")]
    if (found := _ignored(case, samples)) is not None:
        return [*out, found]
    if case.apply is None:
        return [*out, NotChecked((), "apply(params, inputs)", "outputs against targets")]
    return [*out, *_of_outputs(case, samples)]


def _classes(targets: np.ndarray) -> np.ndarray | None:
    """Classes of targets (n,) from 0, 1, …; None where they are no classes."""
    rows = targets.reshape(len(targets), -1)
    if targets.dtype.kind not in "iubf":
        return None
    if rows.shape[1] > 1:
        one_hot = bool(np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1))
        return rows.argmax(axis=1) if one_hot else None
    flat = rows[:, 0]
    if not np.all(flat == np.round(flat)) or flat.min() < 0:
        return None
    few = len(np.unique(flat)) <= min(MOST_CLASSES, max(2, len(flat) // 2))
    return flat.astype(np.int64) if few else None


# Data


def _of_data(case: Experiments) -> Iterator[Finding]:
    samples = case.given_samples
    if samples is None or samples.inputs is None or samples.targets is None or samples.size < 2:
        return
    inputs, targets = samples.inputs, samples.targets.reshape(samples.size, -1)
    if np.all(inputs == inputs[:1]) and not np.all(targets == targets[:1]):
        yield fault("inputs_alike", 0.0, {"count": samples.size})
    largest = float(np.max(np.abs(inputs)))
    if targets.shape[1] == 1 and targets.dtype.kind == "f" and largest > 1:
        scaled = targets * 255.0
        whole = np.round(scaled)
        if np.all(np.abs(scaled - whole) < TIED) and 0 <= whole.min() < whole.max() <= MOST_CLASSES:
            told = {"count": int(whole.max()), "largest": largest}
            yield fault("labels_scaled", float(targets.max()), told)
    if samples.batch_size is not None:
        yield from _of_batches(case, samples)


def _of_batches(case: Experiments, samples: Samples) -> Iterator[Finding]:
    """Batches that are the same, or hold samples of one class each."""
    assert samples.targets is not None
    parts = [part for part in (join_batches(batch) for batch in case.given_data) if part is not None]
    leaves = [jax.tree.leaves(part.batch) for part in parts]
    if len(parts) > 2 and all(all(map(np.array_equal, leaves[0], each)) for each in leaves[1:]):
        yield fault("batches_alike", 0.0, {"batches": len(parts)})
        return
    classes = _classes(samples.targets)
    if classes is None or len(parts) < 2:
        return
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    ends = np.cumsum([part.size for part in parts])[:-1]
    single = [len(each) for each in np.split(classes, ends) if len(np.unique(each)) == 1]
    chance = sum(math.log(float(np.sum(shares**size))) for size in single)
    if len(shares) > 1 and len(single) >= ONE_CLASS * len(parts) and chance <= math.log(BY_CHANCE):
        told = {"count": len(single), "batches": len(parts), "classes": len(shares)}
        source = f"by chance with a probability below {BY_CHANCE:g}"
        yield fault("one_class_batches", len(single) / len(parts), told, ONE_CLASS, source=source)


# The loss


def _constant(case: Experiments) -> Finding | None:
    """A loss that no parameter changes."""
    assert case.whole is not None
    if any(np.any(np.asarray(leaf)) for leaf in case.op.gradient_vector):
        return None
    losses = [case.loss_on(case.whole.batch, at) for at in case.draws]
    if not np.all(np.isfinite(losses)) or np.ptp(losses) > SAME * abs(losses[0]):
        return None
    place, why = "", ""
    mend = "look for what cuts the loss from the parameters: a constant, an argmax, a rounding"
    if case.mix is not None and case.mix.operation == "softmax of one":
        place, why = f"`softmax`{case.mix.place}", ": a softmax over one unit is 1 whatever goes in"
        mend = (
            "a sigmoid with binary cross-entropy for two classes, a unit for each of more classes, or no "
            "last activation for a regression"
        )
    told = {"why": why, "mend": mend, "loss": losses[0]}
    return fault("constant_loss", float(np.ptp(losses)), told, place=place)


def _ignored(case: Experiments, samples: Samples) -> Finding | None:
    """A loss that does not change where all inputs are replaced by the first."""
    inputs = samples.inputs
    if inputs is None or len(jax.tree.leaves(samples.batch)) != 2 or np.all(inputs == inputs[:1]):
        return None
    some = samples.part(single_rows(samples))
    assert some.inputs is not None
    alike = some.with_inputs(np.broadcast_to(some.inputs[:1], some.inputs.shape))
    for at in case.draws:
        loss = case.loss_on(some.batch, at)
        if not math.isfinite(loss) or abs(case.loss_on(alike, at) - loss) > SAME * abs(loss):
            return None
    told = {"count": some.size, "loss": case.loss_on(some.batch, case.params)}
    return fault("inputs_ignored", 0.0, told)


# Outputs


def _of_outputs(case: Experiments, samples: Samples) -> Found:
    assert samples.inputs is not None
    if case.outputs is None or case.outputs.dtype.kind != "f" or not np.all(np.isfinite(case.outputs)):
        return []
    some = samples.part(single_rows(samples))
    assert some.targets is not None
    run = jax.jit(lambda at, x: case.apply(at, x))
    seen: Seen = []
    own = np.float32 if case.outputs.dtype == np.float32 else np.float64  # 1 − 1e-7 differs by a fifth
    for at in case.draws[:3]:  # at very small ones what is added to a sum decides
        outputs = np.asarray(run(at, jnp.asarray(some.inputs)), own)
        seen.append((outputs.reshape(some.size, -1), case.loss_on(some.batch, at)))
    rows = some.targets.reshape(some.size, -1)
    if some.targets.dtype.kind not in "iubf":
        return []
    rows, classes = rows.astype(np.float64), _classes(some.targets)
    found = _tied(rows, seen) or _beyond(rows, classes, seen) or _no_logits(rows, classes, seen)
    found = found or _out_of_reach(case) or _of_squares(case, some.targets)
    return [] if found is None else [found]


def _tied(targets: np.ndarray, seen: Seen) -> Finding | None:
    """Outputs that sum to the same for all samples, against targets that do not."""
    if targets.shape != seen[0][0].shape or targets.shape[1] < 2:
        return None
    sums, wanted = np.concatenate([out.sum(axis=1) for out, _ in seen]), targets.sum(axis=1)
    varied = max(float(np.ptp(out)) for out, _ in seen) > TIED
    spread = float(np.std(wanted))
    if not varied or np.ptp(sums) > TIED * abs(sums[0]) or spread < FLOOR * np.sqrt(np.mean(targets**2)):
        return None
    ends = {"low": float(wanted.min()), "high": float(wanted.max()), "total": float(sums[0])}
    return fault("tied_outputs", spread, ends)


def _beyond(targets: np.ndarray, classes: np.ndarray | None, seen: Seen) -> Finding | None:
    """A binary cross-entropy of targets that are no probabilities."""
    beyond = float(np.mean((targets < 0) | (targets > 1)))
    if targets.shape != seen[0][0].shape or beyond == 0:
        return None
    if not _matches(seen, lambda out: _binary(out, targets, [np.logaddexp(0, out) - targets * out])):
        return None
    what, mend = "no output reaches such targets", "a squared error, without a last activation"
    if targets.shape[1] == 1 and classes is not None:
        what = f"one output cannot tell {int(classes.max()) + 1} classes apart"
        mend = "an output for each class, with softmax cross-entropy"
    told = {"what": what, "mend": mend, "low": float(targets.min()), "high": float(targets.max())}
    return fault("binary_loss_beyond_targets", beyond, told)


def _no_logits(targets: np.ndarray, classes: np.ndarray | None, seen: Seen) -> Finding | None:
    """A loss of probabilities, or of their logarithms, whose outputs are neither."""
    outputs = seen[0][0]
    outside = float(np.mean((outputs < -TIED) | (outputs > 1 + TIED)))
    several = classes is not None and classes.max() < outputs.shape[1] > 1
    if outside == 0:
        return None
    if targets.shape == outputs.shape and _matches(seen, lambda out: _binary(out, targets, [])):
        what = "no sigmoid stands before a loss of probabilities"
    elif several and _matches(seen, lambda out: _categorical(out, classes)):
        what = "no softmax stands before a loss of probabilities"
    elif several and _matches(seen, lambda out: [-_picked(out, classes)]):
        if np.ptp(np.exp(outputs).sum(axis=1)) <= TIED:
            return None
        what = "no log-softmax stands before a loss of log-probabilities, which has no lowest value"
    else:
        return None
    ends = {"low": float(outputs.min()), "high": float(outputs.max()), "share": 100 * outside}
    return fault("logits_as_probabilities", outside, {"what": what, **ends})


def _matches(seen: Seen, formulas: Callable[[np.ndarray], list[float]]) -> bool:
    """Whether one of the formulas gives the loss at all parameters."""
    with np.errstate(all="ignore"):
        fits = [np.abs(np.asarray(formulas(out)) - loss) <= AGREE * abs(loss) + SAME for out, loss in seen]
    return bool(np.any(np.all(fits, axis=0)))


def _binary(out: np.ndarray, targets: np.ndarray, found: list[np.ndarray]) -> list[float]:
    """Mean and sum over outputs: binary cross-entropies of probabilities, and what else is found."""
    for small in SMALLEST:
        cut = np.clip(out, small, 1 - small)
        for one, other in ((cut, 1 - cut), (out + small, 1 - out + small)):
            found.append(-(targets * np.log(one) + (1 - targets) * np.log(other)))
    return [float(np.mean(each)) * count for each in found for count in (1, out.shape[1])]


def _categorical(out: np.ndarray, classes: Any) -> list[float]:
    """Cross-entropy of outputs that are taken for probabilities, as they are or divided by their sum."""
    found = []
    for each in (out, np.nan_to_num(out / out.sum(axis=1, keepdims=True))):  # rows of zeros stay zeros
        for small in SMALLEST:
            cut = (np.clip(each, small, 1.0), np.clip(each, small, 1 - small), np.maximum(each, small))
            found += [-_picked(np.log(kept), classes) for kept in (*cut, np.maximum(each, 0) + small)]
    return found


def _picked(each: np.ndarray, classes: Any) -> float:
    return float(np.mean(each[np.arange(len(classes)), classes]))


def _out_of_reach(case: Experiments) -> Finding | None:
    """Outputs whose range leaves a floor under the loss, or a rectifier before a loss of logits."""
    task = case.task
    if task is None or case.outputs is None or case.output_range == UNBOUNDED:
        return None
    (low, high), logits = case.output_range, task.kind != "squared_error"
    zeros, floor, constant = float(np.mean(case.outputs == 0)), case.loss_floor, case.constant_predictor_loss
    if logits and not math.isfinite(high) and zeros > FLOOR:
        return fault("rectified_logits", zeros, {"share": 100 * zeros, "other": OWN}, FLOOR)
    if not floor > FLOOR * constant:
        return None
    within = f"within {low:.0f} and {high:.0f}" if math.isfinite(high) else "at or above 0"
    told: dict[str, Any] = {"within": within, "floor": floor, "constant": constant, "other": OWN}
    ratio = floor / constant if constant > 0 else math.inf
    if logits:
        return fault("bounded_logits", ratio, told, FLOOR)
    share = 100 * float(np.mean((task.targets < low) | (task.targets > high)))
    return fault("targets_out_of_reach", ratio, told | {"share": share, "other": SCALED}, FLOOR)


def _of_squares(case: Experiments, targets: np.ndarray) -> Finding | None:
    """Targets that a squared error does not suit, where the loss is still large."""
    task, constant = case.task, case.constant_predictor_loss
    if task is None or task.kind != "squared_error" or not case.value > LARGE * constant:
        return None
    share, classes = case.value / constant, _classes(targets)
    one_hot = targets.reshape(len(targets), -1).shape[1] > 1
    if classes is not None and (one_hot or (targets.dtype.kind != "f" and len(np.unique(classes)) > 2)):
        order = "" if one_hot else ", which one output takes for numbers in order"
        told = {"count": len(np.unique(classes)), "order": order, "share": share}
        return fault("squared_error_of_classes", share, told, LARGE, sure=UNFIT)
    size = float(np.sqrt(np.mean(np.square(task.targets))))
    sure = log_confidence(size, FAR_TARGETS, SPREAD)
    source = "outputs begin at about 1; factor chosen, not measured"
    return fault("target_scale", size, {"size": size, "share": share}, FAR_TARGETS, sure=sure, source=source)
