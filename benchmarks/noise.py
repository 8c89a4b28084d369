"""State probabilities about noisy data, draw such data many times, and count.

Run as `python -m benchmarks.noise` (or `make bench-noise`): about five minutes.  Exits with 1 if a stated
probability is missed by more than the counting error: on quadratics whose matrices scatter about a known
mean, regressions of known expected Hessian, and networks on the digits, which are the population.
"""

import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import hessian_probe as hp
from benchmarks.report import Share, command_line
from benchmarks.truth_points.beside import least_squares, soft_logistic
from benchmarks.truth_points.networks import plateau_points
from benchmarks.truth_points.table import of_data
from hessian_probe.points.thresholds import POWER
from hessian_probe.spectrum.standard_errors import quantile

LEVEL = 0.99
BATCHES = 16


# ½ wᵀA w + bᵀw for batches of the mean matrix and the mean slope.
mean_quadratic = of_data(lambda w, matrix, slope: 0.5 * w @ matrix @ w + slope @ w)


def noise(rng: np.random.Generator, n: int, kind: str) -> np.ndarray:
    """One symmetric matrix of mean zero, entries off the diagonal of variance ½."""
    if kind == "skewed":  # x xᵀ − 1: samples of a covariance
        x = rng.standard_normal((1, n))
        return (x.T @ x - np.eye(n)) / np.sqrt(2.0)
    entries = rng.standard_t(5, (n, n)) / np.sqrt(5 / 3) if kind == "heavy" else rng.standard_normal((n, n))
    return 0.5 * (entries + entries.T)


def batch_means(
    rng: Any, matrix: Any, sizes: Any, scatter: Any, kind: str = "gaussian", slope: Any = 0, spread: float = 0
) -> hp.Batches:
    """Draw batches of these sizes; each is given by its means, with its number of samples as weight."""
    n, batches = len(matrix), []
    for size in sizes:
        if kind == "gaussian":
            mean = noise(rng, n, kind) / np.sqrt(size)
        else:
            mean = np.mean([noise(rng, n, kind) for _ in range(size)], axis=0)
        slopes = slope + spread / np.sqrt(size) * rng.standard_normal(n)
        batches.append((matrix + scatter * mean, slopes))
    return hp.Batches(batches, [float(size) for size in sizes])


def regression(rng: np.random.Generator, sizes: Any, kind: str) -> list[Any]:
    """Batches of Gaussian features with variances 1, 2 … 6; the labels do not enter the Hessian's mean."""
    batches = []
    for size in sizes:
        x = rng.standard_normal((size, 6)) * np.sqrt(np.arange(1.0, 7.0))
        y = rng.integers(0, 2, size).astype(float) if kind == "logistic" else rng.standard_normal(size)
        batches.append((x, y))
    return batches


def coverage(draws: int) -> bool:
    """Count how often eigenvalue ± t·standard error holds the eigenvalue of the expected Hessian."""
    print(f"\n(a) 95 % intervals of eigenvalues, {draws} draws each: how often they hold the true one")
    print(f"{'problem':<44}{'lowest':>36}{'highest':>36}{'error/scatter':>15}")
    good = True
    for name, loss, at, truth, draw in coverage_cases():
        rng, held, values, errors = np.random.default_rng(0), np.zeros(2, int), [], []
        for _ in range(draws):
            op = hp.hessian(loss, at, draw(rng), check=False)
            found = hp.eigsh(op, standard_errors=True)
            freedom = 1.0 / float(np.sum(np.square(op.objective.data.weights))) - 1.0
            error = found.standard_errors
            held += np.abs(found.eigenvalues - truth) <= quantile(0.975, freedom) * error
            values.append(found.eigenvalues)
            errors.append(error)
        shares = [Share(int(h), draws) for h in held]
        ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(values, axis=0)
        print(f"{name:<44}{shares[0]!s:>36}{shares[1]!s:>36}{ratio[0]:>8.2f}{ratio[1]:>7.2f}")
        good &= all(share.interval()[1] >= 0.93 for share in shares)
    return good


def coverage_cases() -> Iterator[tuple[str, Callable[..., Any], Any, np.ndarray, Callable[..., Any]]]:
    """Yield problem, loss, parameters, true lowest and highest eigenvalue, and how its data are drawn."""
    matrix = np.diag([-1.0, 0.5, 1.0, 1.5, 3.0])
    whole, few, ragged = ("16 × 16", [16] * 16), ("4 × 64", [64] * 4), ("12 × 32 + 7 + 1", [32] * 12 + [7, 1])
    kinds = {"gaussian": (whole, few, ragged), "heavy": (whole,), "skewed": (whole, ragged)}
    for kind, sizes in ((kind, sizes) for kind, some in kinds.items() for sizes in some):
        draw = functools.partial(batch_means, matrix=matrix, sizes=sizes[1], scatter=1.0, kind=kind)
        yield f"quadratic, {kind}, {sizes[0]}", mean_quadratic, np.zeros(5), np.array([-1.0, 3.0]), draw
    regressions = {"least squares": (least_squares, 1.0), "logistic regression at 0": (soft_logistic, 0.25)}
    for name, (loss, share) in regressions.items():
        draw = functools.partial(regression, sizes=[64] * 16, kind=name.split()[0])
        yield f"{name}, 16 × 64", loss, np.zeros(6), share * np.array([1.0, 6.0]), draw


def held_out(draws: int) -> bool:
    """Count saddles called at noisy minima, and at true saddles, with and without the re-check."""
    print(f"\n(b) labels at the origin, confidence {LEVEL}: 64 samples in 16 batches")
    print(f"{'population':<50}{'called':>10}{'with held-out re-check':>38}{'without':>38}")
    good = True
    for name, truth, matrix, scatter, kind in held_out_cases():
        rng, n = np.random.default_rng(1), len(matrix)
        total = draws if truth == "minimum" else draws // 4
        labels = {True: Counter[str](), False: Counter[str]()}
        for index in range(total):
            data = batch_means(rng, matrix, [4] * BATCHES, scatter, kind)
            for sampled in (True, False) if index < total // 4 else (True,):
                point = hp.classify(mean_quadratic, np.zeros(n), data, confidence=LEVEL, sampled=sampled)
                labels[sampled][point.label] += 1
        for label in ("minimum", "saddle"):
            with_, without = (Share(labels[s][label], sum(labels[s].values())) for s in (True, False))
            print(f"{name if label == 'minimum' else '':<50}{label:>10}{with_!s:>38}{without!s:>38}")
            if label != truth:
                good &= with_.interval()[0] <= 1.0 - LEVEL
    return good


def held_out_cases() -> Iterator[tuple[str, str, np.ndarray, float, str]]:
    """Yield name, true label, mean matrix, scatter, kind of scatter."""
    for n, scatter, kind in ((5, 2.0, "gaussian"), (12, 2.0, "gaussian"), (5, 1.0, "skewed")):
        barely = np.diag(np.r_[np.full(n - 1, 1e-3), 5.0])
        yield f"minimum, curvature 0.001 and 5, n={n}, {kind}", "minimum", barely, scatter, kind
    for low in (0.5, -0.25, -0.5, -1.0):
        label = "minimum" if low > 0 else "saddle"
        matrix = np.diag(np.r_[low, np.linspace(0.5, 2.0, 4)])
        yield f"{label}, curvature {low} … 2, n=5", label, matrix, 0.7, "gaussian"


def promised(pilots: int) -> bool:
    """Give undetermined points the number of samples they ask for, drawn afresh."""
    print(f"\n(c) fresh data of the size asked for: settled with probability {POWER}, as stated?")
    heads = f"{'asked for':>22}{'settled':>36}{'wrong':>8}"
    print(f"{'population (64 samples in 16 batches at first)':<52}{heads}")
    good = True
    for name, matrix, slope, scatter in promise_cases():
        truth = hp.classify(mean_quadratic, np.zeros(len(matrix)), (matrix, slope)).label
        rng, spread = np.random.default_rng(2), {"slope": slope, "spread": scatter[1]}
        n, asked, labels, silent = len(matrix), [], Counter[str](), 0
        for _ in range(8 * pilots):
            if len(asked) == pilots:
                break
            first = batch_means(rng, matrix, [4] * BATCHES, scatter[0], **spread)
            point = hp.classify(mean_quadratic, np.zeros(n), first, confidence=LEVEL)
            if point.label != "undetermined" or point.samples_needed is None:
                silent += point.label == "undetermined"
                continue
            asked.append(point.samples_needed)
            fresh = batch_means(rng, matrix, [asked[-1] / BATCHES] * BATCHES, scatter[0], **spread)
            labels[hp.classify(mean_quadratic, np.zeros(n), fresh, confidence=LEVEL).label] += 1
        total = sum(labels.values())
        share = Share(total - labels["undetermined"] - labels["degenerate"], total)
        wrong = share.count - labels[truth]
        asked_for = f"median {int(np.median(asked or [0])):,}"
        note = f"  (no number given: {silent})" if silent else ""
        print(f"{name:<52}{asked_for:>22}{share!s:>36}{wrong:>8}{note}")
        good &= not total or share.interval()[1] >= POWER
    return good


def promise_cases() -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[float, float]]]:
    """Yield name, mean matrix, mean slope, scatter of matrices and of slopes; an error is scatter/8."""
    rest = np.linspace(1.0, 2.0, 5)
    for times in (0.5, 1.0, 3.0, 5.0):
        for sign, label in ((-1.0, "saddle"), (1.0, "minimum")):
            matrix = np.diag(np.r_[sign * times / 8.0, rest])
            yield f"{label}, lowest curvature {sign * times:+} errors", matrix, np.zeros(6), (1.0, 0.0)
    matrix = np.diag([-1.0, 0.5, 1.0, 2.0])
    for length in (0.25, 0.5, 1.0):
        yield f"slope {length}, its noise 0.25", matrix, np.full(4, length / 2.0), (0.1, 1.0)
    yield "saddle, slope all noise", matrix, np.zeros(4), (0.1, 4.0)


def on_digits(pilots: int) -> bool:
    """The same on networks that learn the digits; all 1,797 are the population."""
    print("\n(d) digits, about 1,000 parameters; batches drawn at random, all 1,797 are the population")
    heads = f"{'point':<16}{'truth':>14}{'batches':>10}{'label':>14}{'samples needed':>16}"
    print(f"{heads}  lowest, gradient, products")
    good = True
    for known in plateau_points(0, ("tanh", "silu"), ("plateau", "slope", "late")):
        x, y = known.data
        rng = np.random.default_rng(3)
        for batches, size in ((16, 4), (56, 32)):
            rows = rng.permutation(len(x))[: batches * size].reshape(batches, size)
            point = hp.classify(known.loss, known.params, [(x[r], y[r]) for r in rows])
            numbers = f"{point.lowest.eigenvalues[0]:+.3g} ± {point.lowest.standard_errors[0]:.1g}, "
            numbers += f"{point.grad_norm:.2g} ± {point.grad_norm_error:.1g}, {point.num_hvps}"
            needed = "" if point.samples_needed is None else f"{point.samples_needed:,}"
            drawn = f"{batches} × {size}"
            print(f"{known.name:<16}{known.label:>14}{drawn:>10}{point.label:>14}{needed:>16}  {numbers}")
            good &= point.label in (known.label, "undetermined", "degenerate")
    return good & digits_promise(pilots)


def digits_promise(pilots: int) -> bool:
    """Eight batches of two digits at a plateau, then as many digits as are asked for."""
    (known,) = plateau_points(0, ("silu",), ("plateau",))
    x, y = known.data
    rng, asked, first, labels = np.random.default_rng(4), [], Counter[str](), Counter[str]()
    for _ in range(pilots):
        rows = rng.integers(0, len(x), (8, 2))
        point = hp.classify(known.loss, known.params, [(x[r], y[r]) for r in rows])
        first[point.label] += 1
        if point.samples_needed is None:
            continue
        asked.append(point.samples_needed)
        rows = rng.integers(0, len(x), (BATCHES, -(-point.samples_needed // BATCHES)))
        labels[hp.classify(known.loss, known.params, [(x[r], y[r]) for r in rows]).label] += 1
    said = f"{dict(first)}; asked for {sorted(asked)}; then {dict(labels)}"
    print(f"silu_plateau, first 8 batches of 2: {said}")
    return set(first) | set(labels) <= {known.label, "undetermined", "degenerate"}


def main() -> int:
    """Run all four parts."""
    parser = command_line(__doc__)
    parser.add_argument("--part", choices=("a", "b", "c", "d"), action="append")
    parser.add_argument("--share", type=float, default=1.0, help="share of the draws")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    parts = {"a": (coverage, 500), "b": (held_out, 300), "c": (promised, 40), "d": (on_digits, 20)}
    good, began = True, time.perf_counter()
    for name in arguments.part or parts:
        part, draws = parts[name]
        good &= part(max(int(draws * arguments.share), 4))
        print(f"{time.perf_counter() - began:.0f} s so far")
    print("every stated probability holds" if good else "A STATED PROBABILITY DOES NOT HOLD")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
