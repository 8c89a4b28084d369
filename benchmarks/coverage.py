"""Stated probability against observed frequency, over random starts on adversarial spectra.

Run as `python -m benchmarks.coverage` (or `make bench-coverage`).  Four tables:

1. the claim behind "minimum", made at the first step that allows it, on spectra where it is false: the
   share of starts that make it, against the share allowed;
2. the same in the package's own Krylov kernel, in float64 and float32;
3. `hp.classify` itself on such spectra: how often it says "minimum";
4. the intervals of `point.index_estimate` against the true number.

Exits with 1 if an observed frequency is above the stated one beyond chance (99.9 % for each row).
"""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessian_probe as hp
from benchmarks.report import Share, command_line
from hessian_probe.spectrum.certificate import log_inverse_weight
from hessian_probe.spectrum.counting import IndexCounter, QuadratureProbe, count_interval
from hessian_probe.spectrum.krylov import Krylov

# The one negative eigenvalue lies just beyond what `negative_tol` (1e-2) allows to be missed.
TOL = 1e-2
HIDDEN = -1.02 * TOL


def missed_fraction(size: int, num_steps: int, confidence: float) -> float:
    """Bound the relative error of the extreme Ritz value of a matrix before a run (`steps_for` inverts it).

    The constant follows from two facts.  Where θ₁ ≤ (1 − ε) λ₁, the weight w of the start on the
    first eigenvector is at most 1/cosh((2k − 1) artanh √ε) ≤ 2 exp(−(2k − 1) √ε), by the polynomial
    T_{2k−1}(√(1 − x))/√(1 − x); and P(|w| ≤ t) ≤ t √(2n/π).  Their product has 1.596 in place of 1.648.
    """
    if num_steps < 1 or size < 1:
        return 1.0
    if num_steps >= size:
        return 0.0
    log = math.log(1.648 * math.sqrt(size) / (1.0 - confidence))
    return min(1.0, (log / (2 * num_steps - 1)) ** 2)


def spectra(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Spectra with ‖H‖ = 1 and one eigenvalue HIDDEN in a large positive bulk."""
    outliers = np.linspace(0.1, 1, 10)
    bulks = {
        "uniform on (0, 1), n = 400": rng.uniform(0, 1, 399),
        "uniform on (0, 1), n = 2000": rng.uniform(0, 1, 1999),
        "Chebyshev nodes, n = 1000": 0.5 - 0.5 * np.cos(np.pi * (np.arange(999) + 0.5) / 999),
        "all near 1, n = 1000": rng.uniform(0.9, 1, 999),
        "geometric 1 … 1e-6, n = 1000": np.geomspace(1e-6, 1, 999),
        "ten outliers, rest below 0.02, n = 1000": np.r_[rng.uniform(0, 0.02, 989), outliers],
        "five values, n = 1000": rng.choice([0.0, 0.1, 0.4, 0.7, 1.0], 999),
    }
    return {name: np.r_[HIDDEN, np.sort(bulk)[:-1], 1.0] for name, bulk in bulks.items()}


def lanczos(values: np.ndarray, starts: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Lanczos with full re-orthogonalisation on a diagonal matrix, from each row of `starts`: its α and β."""
    count, n = starts.shape
    basis = np.zeros((count, steps + 1, n))
    basis[:, 0] = starts / np.linalg.norm(starts, axis=1, keepdims=True)
    alpha, beta = np.zeros((count, steps)), np.zeros((count, steps))
    for j in range(steps):
        w = values * basis[:, j]
        alpha[:, j] = np.sum(basis[:, j] * w, axis=1)
        filled = basis[:, : j + 1]
        for _ in range(2):
            w = w - ((filled @ w[:, :, None])[:, :, 0][:, None, :] @ filled)[:, 0]
        beta[:, j] = np.linalg.norm(w, axis=1)
        # Below rounding the space is invariant; the same floor as in the kernel.
        floor = 10 * np.finfo(float).eps
        basis[:, j + 1] = w / np.maximum(beta[:, j], floor)[:, None]
        beta[:, j] += floor
    return alpha, beta


def many(values: np.ndarray, starts: np.ndarray, steps: int) -> tuple[np.ndarray, ...]:
    """Run Lanczos in parts that fit into memory."""
    parts = np.array_split(starts, -(-len(starts) * len(values) * steps // 40_000_000))
    return tuple(map(np.concatenate, zip(*(lanczos(values, part, steps) for part in parts), strict=True)))


def followed(alpha: np.ndarray, beta: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
    """½ ln Σ p_j(x)² and the number of Ritz values below x, step by step (three-term recurrence)."""
    count, steps = alpha.shape
    growth, below = np.zeros((count, steps)), np.zeros((count, steps), int)
    log_p, log_sum = np.zeros(count), np.zeros(count)
    ratio, number = np.full(count, np.inf), np.zeros(count, int)  # ratio of neighbours p_j / p_{j−1}
    for j in range(steps):
        pivot = (alpha[:, j] - x) - (0 if j == 0 else beta[:, j - 1]) / ratio
        number = number + (pivot < 0)
        ratio = -np.where(pivot == 0, 1e-300, pivot) / beta[:, j]
        log_p = log_p + np.log(np.abs(ratio))
        log_sum = np.logaddexp(log_sum, 2 * log_p)
        growth[:, j], below[:, j] = 0.5 * log_sum, number
        ratio = -ratio
    return growth, below


def first(condition: np.ndarray) -> np.ndarray:
    """Index of the first True in each row, or the row's length."""
    return np.where(condition.any(axis=1), condition.argmax(axis=1), condition.shape[1])


def claims(starts: int, seed: int) -> bool:
    """Print the first table."""
    rng, good = np.random.default_rng(seed), True
    heads = f"{'stated':>8}{'steps':>7}{'beforehand':>12}{'false':>7}{'observed, 95 %':>20}"
    print(
        f"\n1. Claims that nothing lies below {-TOL:g}·‖H‖, made as soon as the products allow, where "
        f"{HIDDEN:g} is an eigenvalue ({starts} starts each)\n{'spectrum':<42}{heads}{'bound beforehand':>18}"
    )
    for name, values in spectra(rng).items():
        n = len(values)
        alpha, beta = many(values, rng.standard_normal((starts, n)), 56)
        growth, below = followed(alpha, beta, -TOL)
        found = first(below > 0)
        for confidence in (0.9, 0.99):
            needed = log_inverse_weight(n, confidence)
            claimed = first(growth >= needed)
            events = Share(int(np.sum(claimed < found)), starts)
            typical = np.median(np.minimum(claimed, found)[claimed < growth.shape[1]] + 1)
            before = next(k for k in range(1, n + 1) if missed_fraction(n, k, confidence) <= TOL / (1 + TOL))
            # The a-priori bound: after `before` steps the lowest Ritz value is within that fraction.
            steps = min(before, alpha.shape[1])
            edge = values[0] + missed_fraction(n, steps, confidence) * (values[-1] - values[0])
            below_edge = followed(alpha[:, :steps], beta[:, :steps], edge)[1][:, -1]
            missed = Share(int(np.sum(below_edge == 0)), starts)
            good &= events.within(1 - confidence) and missed.within(1 - confidence)
            print(
                f"{name:<42}{100 * (1 - confidence):>6.0f} %{typical:>7.0f}{before:>12}{events.count:>7}"
                f"{events.percent():>20}{missed.count:>12} missed"
            )
    return good


def diagonal(values: np.ndarray, dtype: Any) -> tuple[Callable[..., jax.Array], jax.Array]:
    """A loss whose Hessian at zero is the diagonal matrix, with its parameters."""
    held = jnp.asarray(values, dtype)
    return lambda x: 0.5 * jnp.sum(held * x * x), jnp.zeros(len(values), dtype)


def kernel(starts: int, seed: int) -> bool:
    """Print the second table."""
    print(f"\n2. The same in the package's kernel ({starts} starts each), and its distance from table 1")
    rng = np.random.default_rng(seed)
    values = spectra(rng)["uniform on (0, 1), n = 400"]
    n, steps, good = len(values), 60, True
    for dtype in (np.float64, np.float32):
        op = hp.hessian(*diagonal(values, dtype), check=False)
        draws = rng.standard_normal((starts, n)).astype(dtype)
        alpha, beta = lanczos(np.asarray(values.astype(dtype), float), draws.astype(float), steps)
        growth, below = followed(alpha, beta, -TOL)
        events, apart = {0.9: 0, 0.99: 0}, 0.0
        for index, draw in enumerate(draws):
            krylov = Krylov(op, (jnp.asarray(draw),), rng, steps)
            claimed: set[float] = set()
            while claimed != set(events) and not krylov.full:
                krylov.step()
                if krylov.ritz().values[0] < -TOL:
                    break
                reached = krylov.certificate().log_growth(-TOL)
                if krylov.size > 10:
                    apart = max(apart, abs(reached - growth[index, krylov.size - 1]))
                claimed |= {level for level in events if reached >= log_inverse_weight(n, level)}
            events = {level: count + (level in claimed) for level, count in events.items()}
        for confidence, count in events.items():
            false = Share(count, starts)
            same = int(np.sum(first(growth >= log_inverse_weight(n, confidence)) < first(below > 0)))
            good &= false.within(1 - confidence)
            print(
                f"{np.dtype(dtype).name}: stated {100 * (1 - confidence):.0f} %, false {count} "
                f"({false.percent()}), the same starts in NumPy {same}; "
                f"largest difference of ½ ln Σp²: {apart:.1e}"
            )
    return good


def labels(keys: int, seed: int) -> bool:
    """Print the third table."""
    print(f"\n3. hp.classify, truth: a saddle by one eigenvalue {HIDDEN:g}·‖H‖")
    rng, good = np.random.default_rng(seed), True
    cases = ((0.02, np.float64, keys), (0.9, np.float64, keys), (0.9, np.float32, keys // 2))
    for low, dtype, runs in cases:
        values = np.r_[HIDDEN, np.sort(rng.uniform(low, 1.0, 398)), 1.0]
        loss, params = diagonal(values, dtype)
        for confidence in (0.8, 0.99):
            keys_used = map(jax.random.key, range(runs))
            said = [hp.classify(loss, params, confidence=confidence, key=key) for key in keys_used]
            wrong = Share(sum(point.label in ("minimum", "maximum") for point in said), runs)
            right = sum(point.label == "saddle" for point in said)
            good &= wrong.within(1 - confidence)
            print(
                f"bulk {low:g} … 1, {np.dtype(dtype).name}, {runs} keys: allowed "
                f"{100 * (1 - confidence):.0f} %, 'minimum' {wrong.count} ({wrong.percent()}), "
                f"'saddle' {right}, {np.median([point.num_hvps for point in said]):.0f} products"
            )
    return good


def counts(trials: int, runs: int, seed: int) -> bool:
    """Print the fourth table."""
    rng, good = np.random.default_rng(seed), True
    print(f"\n4. Intervals for the number of negative eigenvalues ({trials} of each)")
    print(f"{'spectrum':<42}{'truth':>7}{'stated':>8}{'outside':>9}{'95 %':>20}{'median interval':>20}")
    for n, negatives in ((400, 3), (400, 40), (2000, 40), (2000, 900)):
        values = np.sort(np.r_[-rng.uniform(0.05, 1, negatives), rng.uniform(0, 1, n - negatives)])
        probes, steps, level = 4, 40, -0.02
        draws = rng.standard_normal((trials * probes, n))
        alpha, beta = many(values, draws, steps)
        weights = np.sum(draws**2, axis=1)
        every = [QuadratureProbe(a, b, w) for a, b, w in zip(alpha, beta, weights, strict=True)]
        for confidence in (0.8, 0.99):
            groups = (every[i : i + probes] for i in range(0, len(every), probes))
            found = [count_interval(group, level, n, confidence) for group in groups]
            outside = Share(sum(not low <= negatives <= high for _, low, high, _ in found), trials)
            good &= outside.within(1 - confidence)
            middle = f"{np.median([f[1] for f in found]):.0f} … {np.median([f[2] for f in found]):.0f}"
            print(
                f"{f'{negatives} negative of {n}':<42}{negatives:>7}{100 * (1 - confidence):>6.0f} %"
                f"{outside.count:>9}{outside.percent():>20}{middle:>20}"
            )
    return deflated(runs, rng) and good


def deflated(runs: int, rng: np.random.Generator) -> bool:
    """Print how often deflation, in the package's kernel, gives the number of copies."""
    values = np.r_[[-0.5] * 4, [-0.3] * 3, -0.2, -0.0501, -0.05, rng.uniform(0.001, 1, 590)]
    op = hp.hessian(*diagonal(values, np.float64), check=False)
    right, outside, spent, confidence = 0, 0, [], 0.9
    for _ in range(runs):
        counted = IndexCounter(op, 1e-12, TOL, confidence, 2000, rng)
        found = counted.run().estimate
        right += found is not None and found.low == found.high == 10
        outside += found is not None and not found.low <= 10 <= found.high
        spent.append(counted.spent)
    print(
        f"deflation, eigenvalues −0.5 × 4, −0.3 × 3, −0.2, −0.0501, −0.05 of 600: exactly 10 in {right} of "
        f"{runs}, interval wrong in {outside} ({100 * (1 - confidence):.0f} % allowed), "
        f"{np.median(spent):.0f} products"
    )
    return Share(outside, runs).within(1 - confidence)


def main() -> int:
    """Print all tables."""
    parser = command_line(__doc__)
    parser.add_argument("--starts", type=int, default=2000, help="random starts in table 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=int, choices=(1, 2, 3, 4), action="append")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    starts = arguments.starts
    tenth = max(starts // 10, 10)
    fourth = max(starts // 4, 10), max(starts // 50, 5)
    tables = {1: (claims, starts), 2: (kernel, tenth), 3: (labels, tenth), 4: (counts, *fourth)}
    good, began = True, time.perf_counter()
    for number in arguments.table or tables:
        table, *sizes = tables[number]
        good &= table(*sizes, arguments.seed)
        print(f"({time.perf_counter() - began:.0f} s so far)")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
