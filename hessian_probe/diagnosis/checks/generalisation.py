"""The training loss is small and the test loss is not: overfitting or mismatch?"""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.diagnosis import baselines
from hessian_probe.diagnosis.context import Context
from hessian_probe.diagnosis.evidence import Found, confidence
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.diagnosis.samples import Samples
from hessian_probe.results import number

# Test loss ÷ training loss from which the gap is the trouble.
GAP = 1.5
# Share of the loss without inputs that the gap must make up.
MATERIAL = 0.15
# Two samples of one distribution are told apart with area 0.5; from here on the difference is plain.
AREA = 0.6
# In few samples chance alone makes a difference: deviations of the area under no difference, of which one
# side is passed in one of 200 draws.
CHANCE = 2.58
FOLDS = 4
# Samples of each kind below which the area is not taken: with 40, sets of one kind were once told apart
# among the planted troubles.
FEWEST = 50
SOURCE = "area under the curve of a classifier two-sample test, Lopez-Paz and Oquab 2017, arXiv:1610.06545"


def check(context: Context) -> Found:
    """Measure the gap with its error, then try to tell training from test inputs."""
    train, test = context.samples, context.test_samples
    if test is None or train is None:
        need = "train and test, batches of arrays with samples along axis 0"
        return [NotChecked("overfitting, mismatch", need)]
    seen, unseen = context.single_losses(train), context.single_losses(test)
    if seen is None or unseen is None:
        return [
            NotChecked("overfitting, mismatch", "a loss that is a mean over samples and can take one sample")
        ]
    here, there = float(seen.mean()), float(unseen.mean())
    error = math.hypot(seen.std() / math.sqrt(len(seen)), unseen.std() / math.sqrt(len(unseen)))
    context.measured["training and test loss"] = (
        f"{number(here, 3)} and {number(there, 3)} ± {number(error, 1)}"
    )
    material = MATERIAL * context.trivial if math.isfinite(context.trivial) else 0.0
    gap = max(here * (GAP - 1), material)
    sure = confidence(there - here - gap, max(error, 1e-12))
    area, spread = two_sample_area(train, test)
    text = f"{number(area, 3)} ± {number(spread, 1)}" if math.isfinite(area) else "not measured"
    context.measured["telling training from test inputs, area under the curve"] = text
    if not math.isfinite(area):
        split = NotChecked("mismatch", f"inputs as arrays, and at least {FEWEST} samples of each")
        return [split, _overfitting(here, there, error, sure, "nothing is known about a mismatch")]
    threshold = max(AREA, 0.5 + CHANCE * chance_spread(min(train.size, test.size)))
    apart = confidence(area - threshold, spread)
    same = f"training and test inputs can hardly be told apart (area {number(area, 3)})"
    return [
        _overfitting(here, there, error, min(sure, 1 - apart), same),
        Finding(
            cause="mismatch",
            claim=f"the test loss is {number(there, 3)} against {number(here, 3)}, and a classifier tells "
            f"test from training inputs with area {number(area, 3)}: they are of two kinds",
            quantity="area under the curve, training against test inputs",
            number=area,
            low=area - 2 * spread,
            high=area + 2 * spread,
            threshold=threshold,
            source=SOURCE,
            confidence=min(sure, apart),
            experiment="look at the inputs that the classifier is surest of; train on data like the test's",
            cost=f"{FOLDS} small classifiers",
        ),
    ]


def _overfitting(here: float, there: float, error: float, sure: float, same: str) -> Finding:
    ratio = there / here if here > 0 else math.inf
    return Finding(
        cause="overfitting",
        claim=f"the test loss is {number(there, 3)} ± {number(error, 1)} against {number(here, 3)} in "
        f"training; {same}",
        quantity="test loss ÷ training loss",
        number=ratio,
        low=(there - 2 * error) / here if here > 0 else math.inf,
        high=(there + 2 * error) / here if here > 0 else math.inf,
        threshold=GAP,
        source="half as much again, and 0.15 of the loss without inputs; chosen on planted troubles",
        confidence=sure,
        experiment="more data or augmentation, weight decay, a smaller model, or stop earlier",
        cost="the loss of single samples of both sets",
    )


def two_sample_area(train: Samples, test: Samples) -> tuple[float, float]:
    """Cross-validated area under the curve of a classifier between the inputs of two sets, and its error."""
    if train.inputs is None or test.inputs is None or min(train.size, test.size) < FEWEST:
        return math.nan, math.nan
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    each = min(train.size, test.size, baselines.MAX_SAMPLES // 2)
    parts = [s.inputs[np.sort(rng.permutation(s.size)[:each])] for s in (train, test) if s.inputs is not None]
    plain = baselines.features(np.concatenate(parts), rng)
    # Squares and random features: noise or contrast change no mean, and a linear classifier sees only means.
    squares = np.square(plain[:, :-1])
    scale = squares.std(axis=0)
    squares = (squares - squares.mean(axis=0)) / np.where(scale > 0, scale, np.inf)
    rows = np.concatenate([baselines.random_features(plain, rng), squares], axis=1)
    labels = np.repeat([0, 1], each)
    fold = rng.permutation(np.arange(2 * each) % FOLDS)
    score = np.zeros(2 * each)
    for k in range(FOLDS):
        kept = fold != k
        task = baselines.Task("cross_entropy", 1.0, labels[kept], 2)
        weights, _ = baselines.fit(rows[kept], task, decay=1e-2)
        out = rows[~kept] @ weights
        score[~kept] = out[:, 1] - out[:, 0]
    return area_under_curve(score, labels)


def chance_spread(each: int) -> float:
    """Deviation of the area where both samples are of one distribution.

    Args:
        each: size of both samples.

    Returns:
        √((n + m + 1) / (12 n m)): Mann and Whitney 1947, doi 10.1214/aoms/1177730491.
    """
    return math.sqrt((2 * each + 1) / (12 * each**2))


def area_under_curve(score: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Area under the curve and its standard error.

    Args:
        score: shape (n,).
        labels: shape (n,), 0 or 1.

    Returns:
        Area and error, by Hanley and McNeil 1982, Radiology 143, equation 2.
    """
    ones, zeros = score[labels == 1], score[labels == 0]
    order = np.sort(zeros)
    below = np.searchsorted(order, ones, "left")
    equal = np.searchsorted(order, ones, "right") - below
    area = float(np.mean(below + 0.5 * equal) / len(zeros))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    n, m = len(ones), len(zeros)
    variance = area * (1 - area) + (n - 1) * (first - area**2) + (m - 1) * (second - area**2)
    return area, max(math.sqrt(max(variance, 0.0) / (n * m)), 0.5 / math.sqrt(n * m))
