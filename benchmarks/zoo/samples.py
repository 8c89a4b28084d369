"""Training and test samples, inputs and targets each, of the tables of scikit-learn, split by a seed."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.preprocessing import PolynomialFeatures

Part = tuple[np.ndarray, np.ndarray]
Parts = tuple[Part, Part]


def parted(inputs: np.ndarray, targets: np.ndarray, seed: int, train: int, test: int) -> Parts:
    """Disjoint random training and test parts of arrays."""
    chosen = np.random.default_rng([seed, 1]).permutation(len(inputs))
    return taken(inputs.astype(np.float32), targets, chosen[:train], chosen[train : train + test])


def taken(inputs: np.ndarray, targets: np.ndarray, train: Any, test: Any) -> Parts:
    """Training and test parts of arrays by their rows."""
    return (inputs[train], targets[train]), (inputs[test], targets[test])


def standard(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Values of mean 0 and deviation 1 in all, or along an axis."""
    return np.asarray((values - values.mean(axis)) / values.std(axis))


def column(values: np.ndarray) -> np.ndarray:
    """Targets of one output."""
    return values.astype(np.float32).reshape(-1, 1)


def both(change: Callable[..., Part], parts: Parts) -> Parts:
    """Change both parts by a function of inputs and targets."""
    return change(*parts[0]), change(*parts[1])


def inputs_by(change: Callable[[np.ndarray], np.ndarray], parts: Parts) -> Parts:
    """Change the inputs of both parts."""
    return both(lambda x, y: (change(x).astype(np.float32), y), parts)


def scaled(
    parts: Parts, *, shift: Callable[..., Any] = lambda x: 0.0, scale: Callable[..., Any] = lambda x: 1.0
) -> Parts:
    """Inputs less a shift, in units of a scale; both are functions of the training inputs."""
    low, size = shift(parts[0][0]), scale(parts[0][0])
    return inputs_by(lambda x: (x - low) / size, parts)


def whitened(parts: Parts) -> Parts:
    """Inputs standardised, column by column, by the training part."""
    return scaled(parts, shift=lambda x: x.mean(0), scale=lambda x: x.std(0))


def targets_by(change: Callable[[np.ndarray], np.ndarray], parts: Parts) -> Parts:
    """Change the targets of both parts."""
    return both(lambda x, y: (x, change(y)), parts)


def test_by(change: Callable[[np.ndarray], np.ndarray], parts: Parts) -> Parts:
    """Change the test inputs alone."""
    return parts[0], (change(parts[1][0]), parts[1][1])


def alone(parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Inputs without targets."""
    return parts[0][0], parts[1][0]


def copied(parts: Parts) -> Parts:
    """Inputs as targets."""
    return both(lambda x, _: (x, x), parts)


def decorrelated(parts: Parts, dtype: Any = np.float64, centred: bool = False) -> Parts:
    """Inputs turned to principal components of deviation 1; those below 1e-6 of the largest are left out."""
    x = parts[0][0].astype(dtype)
    moments = np.cov(x.T) if centred else x.T @ x / len(x)
    values, vectors = np.linalg.eigh(moments)
    keep = values > (0.0 if centred else 1e-6 * values[-1])
    mean = parts[0][0].mean(0) if centred else 0.0
    return inputs_by(lambda x: (x - mean) @ vectors[:, keep] / np.sqrt(values[keep]), parts)


def mislabelled(parts: Parts, seed: int, share: float, classes: int, *, test: bool = True) -> Parts:
    """Some labels are drawn at random: the best loss is not zero, and curvature stays."""

    def change(labels: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([seed, 9])
        labels, chosen = labels.copy(), rng.random(len(labels)) < share
        labels[chosen] = rng.integers(0, classes, chosen.sum())
        return labels.astype(np.int32)

    changed = targets_by(change, parts)
    return changed if test else (changed[0], parts[1])


def flipped(parts: Parts, seed: int, share: float) -> Parts:
    """Some targets of 0 or 1 of the training part are the other way round."""
    (x, y), test = parts
    flip = np.random.default_rng([seed, 22]).random(len(y)) < share
    return (x, np.where(flip[:, None], 1 - y, y)), test


def top(inputs: np.ndarray) -> float:
    """Largest eigenvalue of the Hessian of a linear regression with intercept."""
    rows = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    return float(np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1])


def top_covariance(inputs: np.ndarray) -> float:
    """Largest eigenvalue of the covariance of the inputs."""
    return float(np.linalg.eigvalsh(np.cov(inputs.T))[-1])


@functools.cache
def all_digits() -> Part:
    """Grey values from 0 to 1, and labels."""
    inputs, labels = datasets.load_digits(return_X_y=True)
    return (inputs / 16).astype(np.float32), labels.astype(np.int32)


def digits(seed: int, train: int = 400, test: int = 300) -> Parts:
    """Grey values from 0 to 1, and labels."""
    return parted(*all_digits(), seed, train, test)


def five_digits(seed: int) -> Parts:
    """The digits 0 to 4."""
    inputs, labels = all_digits()
    rows = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(labels < 5))
    return taken(inputs, labels, rows[:600], rows[600:])


def padded(parts: Parts, blank: int) -> Parts:
    """Digits followed by blank rows, or led by them where negative."""
    ends = (0, 8 * blank) if blank > 0 else (-8 * blank, 0)
    return inputs_by(lambda x: np.pad(x, ((0, 0), ends)), parts)


def signed_parity(seed: int, train: int = 500) -> Parts:
    """Digits less their mean, and 1 for odd ones, -1 for even ones."""
    parts = targets_by(lambda y: column(2 * (y % 2) - 1), digits(seed, train))
    return scaled(parts, shift=lambda x: x.mean(0))


def centred(seed: int, train: int) -> Parts:
    """Digits in units of the pixels' deviation from their means."""
    return scaled(digits(seed, train), shift=lambda x: x.mean(0), scale=lambda x: x.std())


def even(parts: Parts) -> Parts:
    """Digits, and 1 for an even one, -1 for an odd one."""
    return targets_by(lambda y: column(1.0 - 2.0 * (y % 2)), parts)


def pairs(seed: int, count: int = 700, test: int = 150) -> Parts:
    """Pairs of digits in both orders, and whether the first is the greater one; no equal digits."""
    inputs, labels = all_digits()
    rng, parts = np.random.default_rng([seed, 64]), []
    chosen = rng.permutation(len(inputs))
    for rows, size in ((chosen[:1200], count), (chosen[1200:], test)):
        first, second = rng.choice(rows, 4 * size), rng.choice(rows, 4 * size)
        keep = np.flatnonzero(labels[first] != labels[second])[:size]
        ways = np.concatenate([[first[keep], second[keep]], [second[keep], first[keep]]], axis=1)
        left, right = ways[:, rng.permutation(2 * size)]
        greater = column(labels[left] > labels[right])
        parts.append((np.concatenate([inputs[left], inputs[right]], axis=1), greater))
    return tuple(parts)


def levels(seed: int, train: int) -> Parts:
    """Digits as 64 whole numbers each: which of 17 grey values a pixel has, and where it is."""
    places = 17 * np.arange(64, dtype=np.int32)
    return both(lambda x, y: (np.rint(16 * x).astype(np.int32) + places, y), digits(seed, train))


def strokes(seed: int) -> Parts:
    """How much ink the lower half of a digit has (mean 1), from that in each row of the upper half."""
    images = datasets.load_digits().images
    ink = images[:, 4:].sum(axis=(1, 2))
    target = column((ink + 1) / (ink + 1).mean())
    return whitened(parted(images[:, :4].sum(axis=2), target, seed, 500, 300))


def wide_kernel(seed: int, turned: bool, count: int = 80, width: float = 5.0) -> Parts:
    """Digits by a Gaussian kernel to some of them, or the principal components; 1 if even, -1 if odd."""
    (x, y), (x_test, y_test) = even(digits(seed, 500))
    far = [((part[:, None] - x[None, :count]) ** 2).sum(-1) for part in (x, x_test)]
    near = [np.exp(-0.5 * part.astype(np.float64) / width**2) for part in far]
    near = [(part - near[0].mean(0)) / near[0].std(0) for part in near]
    if turned:
        values, vectors = np.linalg.eigh(near[0].T @ near[0] / len(x))
        near = [part @ vectors / np.sqrt(values) for part in near]
    return (near[0].astype(np.float32), y), (near[1].astype(np.float32), y_test)


def shipped(load: Callable[..., Any], train: int, test: int) -> tuple[Callable[..., Parts], ...]:
    """Samples of a table of classes by seed: in its own units, and standardised."""

    def raw(seed: int, train: int = train) -> Parts:
        inputs, labels = load(return_X_y=True)
        return parted(inputs, labels.astype(np.int32), seed, train, test)

    return raw, lambda seed, train=train: whitened(raw(seed, train))


# Inputs from 0.1 to 1,700; in centimetres; from 0.001 to 4,000.
raw_wine, wine = shipped(datasets.load_wine, 120, 58)
raw_iris, iris = shipped(datasets.load_iris, 100, 50)
raw_cancer, cancer = shipped(datasets.load_breast_cancer, 400, 569)


def wine_of_all(seed: int) -> Parts:
    """Wine, standardised by training and test part together."""
    inputs, labels = datasets.load_wine(return_X_y=True)
    return parted(standard(inputs, 0), labels.astype(np.int32), seed, 120, 58)


def gaps(seed: int, share: float, code: float) -> Parts:
    """Wine, standardised, where a share of all cells is missing and has a code instead."""
    rng = np.random.default_rng([seed, 63])
    return inputs_by(lambda x: np.where(rng.random(x.shape) < share, code, x), wine(seed))


def proline(seed: int) -> Parts:
    """Wine: its proline, in hundreds, from the twelve other measures, each between 0 and 1."""
    values = datasets.load_wine(return_X_y=True)[0]
    shares = (values - values.min(0)) / (values.max(0) - values.min(0))
    return parted(shares[:, :-1], column(values[:, -1] / 100), seed, 120, 58)


def alcohol(seed: int) -> Parts:
    """A wine's alcohol from its twelve other values, standardised."""
    values = datasets.load_wine(return_X_y=True)[0]
    return whitened(parted(values[:, 1:], column(standard(values[:, 0])), seed, 120, 58))


def sorted_wine(seed: int, *, shuffled: bool) -> Parts:
    """Wine as the file has it, class by class: the test is its last rows, or random ones; one-hot targets."""
    values, labels = datasets.load_wine(return_X_y=True)
    rng = np.random.default_rng([seed, 90])
    rows = rng.permutation(178) if shuffled else np.arange(178)
    first, second = rng.permutation(rows[:128])[:115], rng.permutation(rows[128:])[:45]
    targets = np.eye(3, dtype=np.float32)[labels]
    return whitened(taken(values.astype(np.float32), targets, first, second))


def one_logit(seed: int, train: int = 400) -> Parts:
    """Breast cancer, standardised, with targets 0 and 1 in one column."""
    return targets_by(column, cancer(seed, train))


def tumour_area(seed: int) -> Parts:
    """Mean area of a tumour, in its own units, from the other measurements."""
    inputs, _ = datasets.load_breast_cancer(return_X_y=True)
    return whitened(parted(np.delete(inputs, [3, 23], axis=1), column(inputs[:, 3]), seed, 400, 169))


def largest_radius(seed: int, turned: bool) -> Parts:
    """A tumour's worst radius from the 29 other measurements, or their principal components, standardised."""
    values = standard(datasets.load_breast_cancer(return_X_y=True)[0], 0)
    inputs = np.delete(values, 20, axis=1)
    if turned:
        scales, vectors = np.linalg.eigh(inputs.T @ inputs / len(inputs))
        inputs = inputs @ vectors / np.sqrt(scales)
    return parted(inputs, column(values[:, 20]), seed, 400, 169)


def worst_sizes(seed: int) -> Parts:
    """Logarithms of a tumour's worst radius and perimeter, from its mean measurements and their errors."""
    values, _ = datasets.load_breast_cancer(return_X_y=True)
    sizes = standard(np.log(values[:, [20, 22]]), 0).astype(np.float32)
    return parted(standard(values[:, :20], 0), sizes, seed, 400, 169)


def diabetes(
    seed: int, train: int = 300, *, raw: bool = False, target: Callable[[np.ndarray], np.ndarray] = standard
) -> Parts:
    """Diabetes: ten inputs (raw: in their own units, 20 to 300), and a function of the progression."""
    inputs, progression = datasets.load_diabetes(return_X_y=True, scaled=not raw)
    parts = parted(inputs, column(target(progression)), seed, train, 142)
    return parts if raw else whitened(parts)


def powers_of_one(seed: int) -> Parts:
    """Eight powers of one of the inputs of diabetes, and a wave of it."""

    def change(x: np.ndarray, y: np.ndarray) -> Part:
        z = np.clip(x[:, 2:3] / 3, -1, 1)
        rows = np.concatenate([z**k for k in range(1, 9)], axis=1).astype(np.float32)
        return rows, (np.sin(6 * z) + 0.05 * y).astype(np.float32)

    return both(change, diabetes(seed))


def powered(seed: int, degree: int, train: int = 150) -> Parts:
    """Diabetes with all products of its columns up to a degree, standardised."""
    parts = diabetes(seed, train)
    maker = PolynomialFeatures(degree, include_bias=False).fit(parts[0][0])
    return whitened(inputs_by(maker.transform, parts))


def binned(seed: int, train: int, bins: int) -> Parts:
    """Diabetes with each column cut into bins of equally many patients, one column for each bin."""
    parts = diabetes(seed, train)
    edges = np.quantile(parts[0][0], np.linspace(0, 1, bins + 1)[1:-1], axis=0)
    kinds = inputs_by(lambda x: (x[:, None] >= edges).sum(axis=1), parts)
    return inputs_by(lambda x: (x[..., None] == np.arange(bins)).reshape(len(x), -1), kinds)


def with_idle_columns(parts: Parts, seed: int, count: int) -> Parts:
    """Columns of pure chance beside the others."""
    rng = np.random.default_rng([seed, 45])
    return inputs_by(lambda x: np.concatenate([x, rng.standard_normal((len(x), count))], axis=1), parts)


def twin_columns(seed: int) -> Parts:
    """Linear targets that depend on small differences between nearly equal inputs."""
    rng = np.random.default_rng([seed, 23])
    mix = rng.standard_normal((30, 1)) / np.sqrt(30)

    def change(x: np.ndarray, _: np.ndarray) -> Part:
        small = rng.standard_normal(x.shape)
        twin = np.concatenate([x[:, :1] + 0.05 * small, x[:, :1] - 0.05 * small], axis=1)
        return twin.astype(np.float32), (small @ mix).astype(np.float32)

    return both(change, one_logit(seed))


def chin_ups(seed: int) -> Part:
    """Weight, waist and pulse of 16 men, in units of 20 men's deviations, and their chin-ups."""
    exercise, body = datasets.load_linnerud(return_X_y=True)
    chosen = np.random.default_rng([seed, 43]).permutation(20)[:16]
    return standard(body, 0).astype(np.float32)[chosen], column(exercise[chosen, 0])


def rings(seed: int) -> Parts:
    """Two rings of points around one centre."""
    x, y = datasets.make_circles(600, noise=0.1, factor=0.4, random_state=seed)
    return taken(x.astype(np.float32), y.astype(np.int32), slice(0, 400), slice(400, 600))


def sign_of_product(seed: int) -> Parts:
    """Six normal numbers, and whether the product of the first two is above zero."""
    x = np.random.default_rng([seed, 24]).standard_normal((600, 6)).astype(np.float32)
    return taken(x, column(x[:, 0] * x[:, 1] > 0), slice(0, 400), slice(400, 600))
