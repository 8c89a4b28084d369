"""Models trained here for comparison with the user's: constant, linear, random features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import entr, expit, logsumexp, softmax

from hessian_probe.diagnosis.features import Features, RandomFeatures
from hessian_probe.optimizers.samples import assign_folds

# At most this number of samples, chosen at random, trains a baseline.
MAX_SAMPLES = 2000
# Folds of its cross-validation, and the weight decays that it selects from.
FOLDS = 4
DECAYS = (1e-4, 1e-2, 1e-1)
# Weight decay of a baseline, relative to the loss: keeps separable problems finite.
DECAY = 1e-4
ITERATIONS = 60


class Task(NamedTuple):
    """The kind of the user's loss, with its targets.

    Attributes:
        kind: "cross_entropy" (of one label for each sample), "binary" (cross-entropy of each output by
            itself) or "squared_error".
        factor: the loss is this times the mean over samples of the cross-entropy, or of
            ½ Σ (output − target)², or of the sum of the binary cross-entropies.
        targets: integers (n,), or reals (n, k).
        classes: number of classes, or of outputs.
        probabilities: the outputs are probabilities, not logits.
    """

    kind: str
    factor: float
    targets: np.ndarray
    classes: int
    probabilities: bool = False

    def part(self, chosen: np.ndarray) -> Task:
        """The task of some of the samples."""
        return self._replace(targets=self.targets[chosen])


# A loss is recognised where it agrees to this share: sums of float32 in another order.
AGREE = 1e-3


def recognise_task(
    outputs: np.ndarray, targets: np.ndarray, loss: float, like: Task | None = None
) -> Task | None:
    """Recognise a loss as a cross-entropy or a squared error by computing both from the outputs.

    Outputs may be logits or probabilities; targets labels, rows of 0 and 1 or real numbers.

    Returns:
        The task, of the kind, factor and form of outputs of `like` where that is given; None if the loss is
        of no such kind.
    """
    raw, wanted = np.asarray(outputs, np.float64), np.asarray(targets)
    if raw.ndim == 0 or not np.all(np.isfinite(raw)):
        return None
    if raw.ndim > 2 and wanted.shape == raw.shape[:-1]:  # a label at each place
        raw, wanted = raw.reshape(-1, raw.shape[-1]), wanted.ravel()
    out = raw.reshape(len(raw), -1)
    own = np.float32 if outputs.dtype == np.float32 else np.float64  # 1 − 1e-7 differs by a fifth
    for task, forms in _candidates(out, wanted, np.clip(out.astype(own), 1e-7, 1 - 1e-7)):
        for index, given in enumerate(forms):
            value = evaluate_outputs(given, task)
            usual = (1.0, 2.0, 1 / out.shape[1], 2 / out.shape[1])
            for factor in usual if task.kind != "cross_entropy" else (1.0,):
                form = (task.kind, factor, index > 0)
                other = like is not None and form != (like.kind, like.factor, like.probabilities)
                if not other and abs(factor * value - loss) <= AGREE * abs(loss) + 1e-6:
                    return task._replace(factor=factor, probabilities=index > 0)
    return None


def _candidates(
    out: np.ndarray, targets: np.ndarray, inside: np.ndarray
) -> list[tuple[Task, list[np.ndarray]]]:
    """Tasks that fit such targets, each with the logits that outputs, or their part inside, may stand for."""
    found: list[tuple[Task, list[np.ndarray]]] = []
    labels = _labels(targets, out.shape[1])
    between = bool(np.all((out >= 0) & (out <= 1)))
    inside = inside.astype(np.float64)
    if labels is not None and out.shape[1] > 1:
        forms = [out, np.log(inside)] if between else [out]
        found.append((Task("cross_entropy", 1.0, labels, out.shape[1]), forms))
    rows = targets.reshape(len(targets), -1)
    if rows.shape != out.shape and labels is not None:
        rows = np.eye(out.shape[1])[labels]
    if rows.shape != out.shape or rows.dtype.kind not in "fiub":
        return found
    rows = rows.astype(np.float64)
    if np.all(np.isin(rows, (0, 1))) or np.all(np.isin(rows, (-1, 1))):
        forms = [out, np.log(inside / (1 - inside))] if between else [out]
        found.append((Task("binary", 1.0, (rows > 0).astype(np.float64), out.shape[1]), forms))
    found.append((Task("squared_error", 1.0, rows, out.shape[1]), [out]))
    return found


def guess_task(targets: np.ndarray, *, like: Task | None = None) -> Task | None:
    """The task that such targets usually have, of the kind of `like` where given; None where none fits."""
    array = np.asarray(targets)
    if like is not None and like.kind == "cross_entropy":
        labels = _labels(array, like.classes)
        return None if labels is None else like._replace(targets=labels)
    if like is None and array.ndim == 1 and array.dtype.kind in "iub" and array.min() >= 0:
        classes = int(array.max()) + 1
        if 1 < classes < len(array):
            return Task("cross_entropy", 1.0, array.astype(np.int64), classes)
    if array.dtype.kind not in "fiub":
        return None
    rows = array.reshape(len(array), -1).astype(np.float64)
    if like is not None:  # squared errors of labels are those of their one-hot rows
        labels = _labels(array, like.classes) if rows.shape[1] != like.classes else None
        rows = rows if labels is None else np.eye(like.classes)[labels]
        return like._replace(targets=rows) if rows.shape[1] == like.classes else None
    binary = np.all(np.isin(rows, (0, 1)))
    return Task("binary" if binary else "squared_error", 1.0, rows, rows.shape[1])


def _labels(targets: np.ndarray, classes: int) -> np.ndarray | None:
    array = np.asarray(targets)
    if array.ndim == 2 and array.shape[1] == 1 and classes > 1:
        array = array[:, 0]
    if array.ndim == 1 and array.dtype.kind in "iub" and array.min() >= 0 and array.max() < classes:
        return array.astype(np.int64)
    one_hot = array.ndim == 2 and array.shape[1] == classes and np.all((array == 0) | (array == 1))
    return np.argmax(array, axis=1) if one_hot and np.all(array.sum(axis=1) == 1) else None


def losses_of(out: np.ndarray, task: Task) -> np.ndarray:
    """Loss of each sample, from outputs (logits) of shape (n, classes), without the task's factor."""
    if task.kind == "squared_error":
        return np.asarray(0.5 * np.sum((out - task.targets) ** 2, axis=1))
    if task.kind == "binary":
        return np.asarray(np.sum(np.logaddexp(0, out) - task.targets * out, axis=1))
    return np.asarray(logsumexp(out, axis=1) - out[np.arange(len(out)), task.targets])


def evaluate_outputs(out: np.ndarray, task: Task) -> float:
    """Mean loss of outputs."""
    return task.factor * float(np.mean(losses_of(out, task)))


def constant_predictor_loss(task: Task) -> float:
    """Loss of the best constant: the entropy of the labels, or the variance of the targets."""
    if task.kind == "cross_entropy":
        return float(np.sum(entr(np.bincount(task.targets) / len(task.targets))))
    mean = task.targets.mean(axis=0)
    if task.kind == "binary":
        return task.factor * float(np.sum(entr(mean) + entr(1 - mean)))
    return task.factor * 0.5 * float(np.mean(np.sum((task.targets - mean) ** 2, axis=1)))


def lowest_loss(task: Task, within: tuple[float, float]) -> float:
    """Lowest loss that outputs within a range can have."""
    wanted = task.targets
    if task.kind != "squared_error":
        if not np.all(np.isfinite(within)):
            return 0.0
        one_hot = np.eye(task.classes)[wanted] if task.kind == "cross_entropy" else wanted
        wanted = np.where(one_hot > 0, within[1], within[0])
    return evaluate_outputs(np.clip(wanted, *within), task)


def fit(
    rows: np.ndarray, task: Task, *, decay: float = DECAY, within: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[np.ndarray, float]:
    """Weights (d, classes) of a linear model of features; its training loss, outputs cut to `within`."""
    if task.kind == "squared_error":
        gram = rows.T @ rows / len(rows) + decay * np.eye(rows.shape[1])
        weights = np.linalg.solve(gram, rows.T @ task.targets / len(rows))
    else:
        weights = _by_descent(rows, task, decay)
    return weights, evaluate_outputs(np.clip(rows @ weights, *within), task)


def _by_descent(rows: np.ndarray, task: Task, decay: float) -> np.ndarray:
    """Weights of the lowest cross-entropy with decay, by L-BFGS."""
    wanted = np.eye(task.classes)[task.targets] if task.kind == "cross_entropy" else task.targets

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(rows.shape[1], task.classes)
        out = rows @ weights
        share = expit(out) if task.kind == "binary" else softmax(out, axis=1)
        gradient = rows.T @ (share - wanted) / len(rows) + decay * weights
        return np.mean(losses_of(out, task)) + 0.5 * decay * np.sum(weights**2), gradient.ravel()

    start = np.zeros(rows.shape[1] * task.classes)
    found = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    return np.asarray(found.x.reshape(rows.shape[1], task.classes))


def held_out_losses(
    inputs: np.ndarray, task: Task, rng: np.random.Generator, test: tuple[np.ndarray, Task] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear model on random features to all folds but one, for each fold in turn.

    The fold that is left out influences nothing: the other folds scale the features, and the weight decay is
    the best on the other folds, each held out by its own models.  Scaled by all samples, forty of them
    differed from a test set of the same distribution.

    Returns:
        The loss of each training sample, copies left out, by the model of the other folds; and of each test
        sample, the mean over those models.
    """
    fold, first = assign_folds(inputs, FOLDS, rng)
    seed = int(rng.integers(2**31))
    score = np.zeros((len(DECAYS), len(inputs)))
    outside = np.zeros((len(DECAYS), FOLDS, 0 if test is None else len(test[1].targets)))
    for k in range(FOLDS):
        kept, out = fold != k, fold == k
        plain = Features(inputs[kept], np.random.default_rng(seed))
        rich = RandomFeatures(plain(inputs[kept]), np.random.default_rng(seed))
        rows, left = rich(plain(inputs[kept])), rich(plain(inputs[out]))
        unseen = None if test is None else rich(plain(test[0]))
        for row, decay in enumerate(DECAYS):
            weights = fit(rows, task.part(kept), decay=decay)[0]
            score[row, out] = losses_of(left @ weights, task.part(out))
            if test is not None and unseen is not None:
                outside[row, k] = losses_of(unseen @ weights, test[1])
    best = [int(np.argmin(score[:, fold != k].mean(axis=1))) for k in range(FOLDS)]
    inside = score[np.asarray(best)[fold], np.arange(len(inputs))]
    return task.factor * inside[first], task.factor * outside[best, np.arange(FOLDS)].mean(axis=0)


def subset(count: int, rng: np.random.Generator) -> Any:
    """Sorted random rows, at most MAX_SAMPLES."""
    return np.sort(rng.permutation(count)[:MAX_SAMPLES])
