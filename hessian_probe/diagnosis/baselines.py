"""Simpler models trained here, to hold the user's model against: constant, linear, random features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

# Samples and inputs that a baseline sees at most; more are drawn or projected at random.
MAX_SAMPLES = 2000
MAX_INPUTS = 1024
# Random features of the richer baseline (Rahimi and Recht 2007: random features for kernel machines).
FEATURES = 256
# Weight decay of a baseline, relative to the loss: keeps separable problems finite.
DECAY = 1e-4
ITERATIONS = 60


class Task(NamedTuple):
    """What the user's loss is, found by computing it from the outputs.

    Attributes:
        kind: "cross_entropy" (mean over samples) or "squared_error".
        factor: the loss is this times the mean over samples of ½ Σ (output − target)²; 1 for
            cross-entropy.
        targets: integers (n,) or reals (n, k).
        classes: number of classes, or of outputs.
    """

    kind: str
    factor: float
    targets: np.ndarray
    classes: int


def recognise_task(outputs: np.ndarray, targets: np.ndarray, loss: float) -> Task | None:
    """Find out whether a loss is the cross-entropy or the squared error of outputs.

    Args:
        outputs: shape (n, …).
        targets: shape (n, …).
        loss: the loss over these samples.

    Returns:
        The task; None if it is neither.
    """
    out = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    if not np.all(np.isfinite(out)):
        return None
    labels = _labels(targets, out.shape[1])
    if labels is not None and out.shape[1] > 1:
        entropy = _cross_entropy(out, labels)
        if abs(entropy - loss) <= 1e-3 * abs(loss) + 1e-6:
            return Task("cross_entropy", 1.0, labels, out.shape[1])
    rows = np.asarray(targets).reshape(len(targets), -1) if labels is None else np.eye(out.shape[1])[labels]
    if rows.shape == out.shape and rows.dtype.kind in "fiu":
        half = 0.5 * float(np.mean(np.sum((out - rows) ** 2, axis=1)))
        factor = loss / half if half > 0 else float("nan")
        usual = [1.0, 2.0, 1.0 / out.shape[1], 2.0 / out.shape[1]]
        match = next((f for f in usual if abs(factor - f) <= 1e-3 * f), None)
        if match is not None:
            return Task("squared_error", match, rows.astype(np.float64), out.shape[1])
    return None


def _labels(targets: np.ndarray, classes: int) -> np.ndarray | None:
    array = np.asarray(targets)
    if array.ndim == 1 and array.dtype.kind in "iub" and array.min() >= 0 and array.max() < classes:
        return array.astype(np.int64)
    one_hot = array.ndim == 2 and array.shape[1] == classes and np.all((array == 0) | (array == 1))
    return np.argmax(array, axis=1) if one_hot and np.all(array.sum(axis=1) == 1) else None


def _cross_entropy(out: np.ndarray, labels: np.ndarray) -> float:
    top = out.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.sum(np.exp(out - top), axis=1))
    return float(np.mean(log_sum - out[np.arange(len(out)), labels]))


def trivial_loss(task: Task) -> float:
    """Loss of the best constant: the entropy of the labels, or the variance of the targets."""
    if task.kind == "cross_entropy":
        share = np.bincount(task.targets, minlength=task.classes) / len(task.targets)
        share = share[share > 0]
        return float(-np.sum(share * np.log(share)))
    spread = task.targets - task.targets.mean(axis=0)
    return task.factor * 0.5 * float(np.mean(np.sum(spread**2, axis=1)))


def features(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Inputs as rows of standardised numbers, with a constant; projected where there are too many."""
    flat = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    if np.asarray(inputs).dtype.kind in "iu" and flat.max(initial=0) < 256:  # tokens: one-hot by place
        values = int(flat.max(initial=0)) + 1
        if values * flat.shape[1] <= 4 * MAX_INPUTS:
            flat = np.eye(values)[flat.astype(int)].reshape(len(flat), -1)
    if flat.shape[1] > MAX_INPUTS:
        flat = flat @ (rng.standard_normal((flat.shape[1], MAX_INPUTS)) / np.sqrt(MAX_INPUTS))
    scale = flat.std(axis=0)
    flat = (flat - flat.mean(axis=0)) / np.where(scale > 1e-12 * np.max(scale, initial=0.0), scale, np.inf)
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)


def random_features(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random ReLU features of rows, beside the rows themselves."""
    weights = rng.standard_normal((rows.shape[1], FEATURES)) * np.sqrt(2 / rows.shape[1])
    hidden = np.maximum(rows @ weights, 0)
    return np.concatenate([rows, (hidden - hidden.mean(0)) / (hidden.std(0) + 1e-12)], axis=1)


def fit(rows: np.ndarray, task: Task, *, decay: float = DECAY) -> tuple[np.ndarray, float]:
    """Fit a linear model of given features.

    Args:
        rows: shape (n, d).
        task: loss and targets.
        decay: weight decay.

    Returns:
        Weights, shape (d, classes), and the training loss that they reach.
    """
    if task.kind == "squared_error":
        gram = rows.T @ rows / len(rows) + decay * np.eye(rows.shape[1])
        weights = np.linalg.solve(gram, rows.T @ task.targets / len(rows))
        return weights, evaluate(rows, weights, task)
    one_hot = np.eye(task.classes)[task.targets]

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(rows.shape[1], task.classes)
        out = rows @ weights
        out -= out.max(axis=1, keepdims=True)
        share = np.exp(out)
        total = share.sum(axis=1, keepdims=True)
        entropy = float(np.mean(np.log(total[:, 0]) - np.sum(out * one_hot, axis=1)))
        gradient = rows.T @ (share / total - one_hot) / len(rows) + decay * weights
        return entropy + 0.5 * decay * float(np.sum(weights**2)), gradient.ravel()

    start = np.zeros(rows.shape[1] * task.classes)
    found = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    weights = found.x.reshape(rows.shape[1], task.classes)
    return weights, evaluate(rows, weights, task)


def held_out(rows: np.ndarray, task: Task, rng: np.random.Generator) -> float:
    """Loss of a model with random features on a quarter of the samples, trained on the others.

    The weight decay is the better of two for that quarter.

    Args:
        rows: shape (n, d).
        task: loss and targets.
        rng: source of the features and of the split.

    Returns:
        The loss.
    """
    rich = random_features(rows, rng)
    out = rng.permutation(len(rows)) < len(rows) // 4
    inside, outside = task._replace(targets=task.targets[~out]), task._replace(targets=task.targets[out])
    return min(
        evaluate(rich[out], fit(rich[~out], inside, decay=decay)[0], outside) for decay in (1e-3, 1e-1)
    )


def evaluate(rows: np.ndarray, weights: np.ndarray, task: Task) -> float:
    """Loss of a linear model of given features."""
    out = rows @ weights
    if task.kind == "cross_entropy":
        return _cross_entropy(out, task.targets)
    return task.factor * 0.5 * float(np.mean(np.sum((out - task.targets) ** 2, axis=1)))


def subset(count: int, rng: np.random.Generator) -> Any:
    """Rows that a baseline sees."""
    return np.sort(rng.permutation(count)[:MAX_SAMPLES])
