"""The training loss is small and the test loss is not: overfitting or mismatch?"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import mannwhitneyu

from hessian_probe.diagnosis import baselines
from hessian_probe.diagnosis.case import FEWEST_LOSSES
from hessian_probe.diagnosis.confidence import EVEN, STRONG, Found, Measure, Sign, confidence, finding
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.features import Features, RandomFeatures
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.optimizers.samples import Samples, assign_folds, count_nonfinite
from hessian_probe.results import number

# Test loss ÷ training loss from which the gap counts.
GAP = 1.5
# Share of the loss without inputs that the gap must make up; and where the test data are of another kind,
# which is evidence by itself.
MATERIAL = 0.2
MATERIAL_MISMATCH = 0.1
# Two samples of one distribution give area 0.5; from AREA on they differ. Sixty samples in thirty dimensions,
# standardised by one half of them, gave 0.647.
AREA = 0.65
# Few samples differ by chance: standard deviations of the area of equal distributions; a normal variable
# exceeds them on one side in one of 2,000 draws.
CHANCE = 3.29
FOLDS = 4
# Samples of each set below which the area is not computed: with 40, a run with equal distributions was once
# found different.
FEWEST = 50
# Below this confidence of a gap its explanation is not sought.
NOTHING = 0.1
# A reference model with a loss above this share of the constant's has learnt too little to compare test
# losses.
SKILL = 0.8
# Standard errors by which the reference model's gap must exceed its threshold: small test sets differ by
# chance, and with equal inputs overfitting explains a gap better.
MORE = 1.0
MATCH = "compare test samples with training samples; train on data like the test data"
REGULARISE = "train again with weight decay (optax.adamw), and keep the step of the lowest test loss"
HELD_OUT = "a held-out part of the training data (Lee 2021); half the held-out loss and 0.1 of the constant's"
SOURCE = "area under the curve of a classifier two-sample test, Lopez-Paz and Oquab 2017, arXiv:1610.06545"


def check(case: Experiments) -> Found:
    """Measure the gap with its error, and explain it."""
    train, test = case.samples, case.test_samples
    if test is None or train is None:
        missing = ["test_data: batches like those of data"] if test is None else []
        need = " and ".join([*([case.need_of_samples] if train is None else []), *missing])
        return [NotChecked(("overfitting", "mismatch"), need)]
    if min(train.size, test.size) < FEWEST_LOSSES:
        need = f"at least {FEWEST_LOSSES} samples of each: fewer give no error of the mean loss"
        return [NotChecked(("overfitting", "mismatch"), need)]
    seen, unseen = case.sample_losses(train), case.sample_losses(test)
    if seen is None or unseen is None:
        which = "" if seen is None else " on the test data"
        bad = count_nonfinite(test) if seen is not None else 0
        which += f" ({bad} numbers in them are not finite)" if bad else ""
        need = f"a loss that is a finite mean over samples and can take one sample{which}"
        return [NotChecked(("overfitting", "mismatch"), need)]
    here, there, error = _difference(seen, unseen)
    case.measured["training and test loss"] = f"{number(here, 3)} and {number(there, 3)} ± {number(error, 1)}"
    return _explain(case, train, test, here, there, error)


def _explain(
    case: Experiments, train: Samples, test: Samples, here: float, there: float, error: float
) -> Found:
    """Ask whether the test data are of another kind; what that does not explain is overfitting."""
    sure, matters = (
        confidence(there - here - _large_gap(here, case.constant_predictor_loss, share), error)
        for share in (MATERIAL, MATERIAL_MISMATCH)
    )
    if matters < NOTHING:  # without a gap there is nothing to explain
        return [_overfitting(here, there, error, sure, "the gap is small")]
    tried = (_input_classifier(case, train, test), _reference_model_gap(case))
    signs = [sign for sign in tried if sign is not None]
    if not signs:
        split = NotChecked(("mismatch",), f"inputs as arrays, and at least {FEWEST} samples of each")
        unknown = "whether the test data differ in kind was not checked"
        return [split, _overfitting(here, there, error, sure, unknown)]
    other = max(signs, key=lambda sign: sign.sure)
    # A weak sign is averaged with the other one: sixty digits once differed from three hundred others with
    # area 0.70 ± 0.05, while a reference model did as well on both.
    if other.sure < STRONG:
        other = other._replace(sure=sum(sign.sure for sign in signs) / len(signs))
    same = f"training and test data hardly differ in kind ({'; '.join(sign.text for sign in signs)})"
    own = _retrained_gap(case)
    if own is not None:  # a difference that costs this model nothing does not explain its test loss
        other = other._replace(sure=min(other.sure, own.sure))
        no_more = "do not cost it more" if own.sure < EVEN else "are not shown to cost it more"
        same = f"test data {no_more} than held-out training data ({own.text})"
    return [
        _overfitting(here, there, error, min(sure, 1 - other.sure), same),
        finding(
            ("mismatch", other.reason),
            f"the test loss is {number(there, 3)}, the training loss {number(here, 3)}, and the test "
            f"data are of another kind: {other.text}",
            other.quantity,
            other.measure,
            source=other.source,
            sure=min(matters, other.sure),
            remedy=("match_data", MATCH),
            cost=f"{FOLDS} small classifiers, and {baselines.FOLDS} to {baselines.FOLDS + 2} small models",
        ),
    ]


def _sign(
    reason: str, quantity: str, text: str, number: float, error: float, threshold: float, source: str
) -> Sign:
    sure = confidence(number - threshold, error)
    return Sign(reason, sure, quantity, number, error, threshold, source, text)


def _difference(seen: np.ndarray, unseen: np.ndarray) -> tuple[float, float, float]:
    """Means of the losses seen and unseen, and the standard error of their difference."""
    error = math.hypot(*(x.std(ddof=1) / math.sqrt(len(x)) for x in (seen, unseen)))
    return float(seen.mean()), float(unseen.mean()), max(error, 1e-12)


def _large_gap(here: float, trivial: float, share: float) -> float:
    """The least gap that counts: half the training loss, and a share of the constant's loss at least."""
    return max(here * (GAP - 1), share * trivial if math.isfinite(trivial) else 0.0)


def _input_classifier(case: Experiments, train: Samples, test: Samples) -> Sign | None:
    """Train a classifier between test and training inputs."""
    area, spread = two_sample_area(train, test)
    if not math.isfinite(area):
        return None
    text = f"{number(area, 3)} ± {number(spread, 1)}"
    case.measured["separating training from test inputs, area under the curve"] = text
    return _sign(
        "input_classifier",
        "area under the curve, training against test inputs",
        f"a classifier separates test from training inputs with area under the curve {text}",
        area,
        spread,
        max(AREA, 0.5 + CHANCE * chance_spread(min(train.size, test.size))),
        SOURCE,
    )


def _reference_model_gap(case: Experiments) -> Sign | None:
    """Compare a reference model's loss on test data with its loss on held-out training samples.

    A gap shows that the two differ, also where only the relation of targets to inputs does.

    Returns:
        The sign; None where no reference model can be fitted, or where it learns too little.
    """
    found = case.random_feature_held_out
    if found is None or len(found[1]) < FEWEST_LOSSES:
        return None
    here, there, error = means = _difference(*found[:2])
    said = f"{number(here, 3)}, {number(there, 3)} ± {number(error, 1)}"
    case.measured["loss of a reference model on held-out training samples, and on test data"] = said
    if here > SKILL * found[2]:
        return None
    text = (
        f"a reference model has loss {number(here, 3)} on held-out training data and {number(there, 3)} ± "
        f"{number(error, 1)} on the test data"
    )
    return _gap_sign("reference_model", "a reference model", text, means, found[2], more=True)


def _retrained_gap(case: Experiments) -> Sign | None:
    """Compare this model's loss on test data with its loss on held-out samples, where that can be tried."""
    if case.retrained_held_out is None:
        return None
    here, there, error = means = _difference(*case.retrained_held_out)
    text = (
        f"retrained on a part of the training data, its loss is {number(here, 3)} on the rest of them and "
        f"{number(there, 3)} ± {number(error, 1)} on the test data"
    )
    case.measured["this model on held-out training samples"] = text
    trivial = case.constant_predictor_loss
    return _gap_sign("retrained_model", "this model retrained", text, means, trivial)


def _gap_sign(
    reason: str, of: str, text: str, means: tuple[float, float, float], trivial: float, more: bool = False
) -> Sign:
    """The gap from held-out to test data against the least that counts, or one standard error more."""
    here, there, error = means
    quantity = f"loss on test data − loss on held-out training data, of {of}"
    threshold, source = _large_gap(here, trivial, MATERIAL_MISMATCH), HELD_OUT
    if more:
        threshold, source = threshold + MORE * error, f"{HELD_OUT} at least, and one standard error more"
    return _sign(reason, quantity, text, there - here, error, threshold, source)


def _overfitting(here: float, there: float, error: float, sure: float, same: str) -> Finding:
    gap, low, high = (
        x / here if here > 0 else math.inf for x in (there, there - 2 * error, there + 2 * error)
    )
    return finding(
        ("overfitting", "test_loss"),
        f"the test loss is {number(there, 3)} ± {number(error, 1)}, the training loss "
        f"{number(here, 3)}; {same}",
        "test loss ÷ training loss",
        Measure(gap, GAP, low, high, sure),
        source="half the training loss more, and 0.2 of the constant's at least; chosen on synthetic "
        "failures",
        remedy=("regularise", REGULARISE),
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
    both = np.concatenate(parts)
    # Each input counts once in each set: a copy is no further evidence.
    once = np.concatenate([assign_folds(part, FOLDS, np.random.default_rng(0))[1] for part in parts])
    if min(np.sum(once[:each]), np.sum(once[each:])) < FEWEST:
        return math.nan, math.nan
    plain = Features(both, rng)(both)
    # A linear classifier detects differences of means only; noise and contrast change squares.
    squares = np.square(plain[:, :-1])
    scale = squares.std(axis=0)
    squares = (squares - squares.mean(axis=0)) / np.where(scale > 0, scale, np.inf)
    rows = np.concatenate([RandomFeatures(plain, rng)(plain), squares], axis=1)
    labels = np.repeat([0, 1], each)
    fold, _ = assign_folds(both, FOLDS, rng)
    score = np.zeros(2 * each)
    for k in range(FOLDS):
        kept = fold != k
        task = baselines.Task("cross_entropy", 1.0, labels[kept], 2)
        weights, _ = baselines.fit(rows[kept], task, decay=1e-2)
        out = rows[~kept] @ weights
        score[~kept] = out[:, 1] - out[:, 0]
    return area_under_curve(score[once], labels[once])


def chance_spread(each: int) -> float:
    """Deviation of the area where both samples, `each` of that size, are of one distribution."""
    # √((n + m + 1) / (12 n m)): Mann and Whitney 1947, doi 10.1214/aoms/1177730491.
    return math.sqrt((2 * each + 1) / (12 * each**2))


def area_under_curve(score: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Area (Mann and Whitney 1947), and its error: Hanley and McNeil 1982, Radiology 143, equation 2."""
    n, m = np.sum(labels == 1), np.sum(labels == 0)
    area = float(mannwhitneyu(score[labels == 1], score[labels == 0]).statistic) / (n * m)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n - 1) * (first - area**2) + (m - 1) * (second - area**2)
    return area, max(math.sqrt(max(variance, 0.0) / (n * m)), 0.5 / math.sqrt(n * m))
