"""What is left to gain where real trainings end, and what the library says there.

Run as `python -m benchmarks.endings` (or `make endings`).  Each ending is made by training a model to a stop
in one precision; the truth is found by going on for very long in float64, once: it is kept in
`benchmarks/data/endings.tsv`.  The table compares it with label, gain and cost of `hp.classify`.  What is not
on record takes hours on two cores; `--only` takes a part.
"""

import functools
import itertools
import math
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hessian_probe as hp
from benchmarks.endings.models import MODELS
from benchmarks.endings.stops import FEW, STOPS, flat_loss, slope_of
from benchmarks.endings.truth import REACHES, Truth, truth_of
from benchmarks.report import command_line, seconds
from benchmarks.zoo.layers import cast

FOLDER = Path(__file__).parents[2] / ".cache" / "endings"
# Name, kind, loss at the ending, and the numbers of `Truth`, the lowest eigenvalue before the gains `within`.
RECORD = Path(__file__).parents[1] / "data" / "endings.tsv"
# An ending is the one on record where the loss agrees up to this share of what training gained.
SAME_END = 1e-4
# The estimate is no idle bound where it is at most this many times the true gain, and the resolution.
IDLE = 30.0
# Endings of at least this number of variables are asked for their cost.
LARGE = 10_000


class Ending(NamedTuple):
    """A model trained to a stop."""

    name: str  # model, seed, precision and stop
    loss: Any  # loss(params, batch)
    params: Any  # where it ended
    of_vector: Any  # the same loss of one vector
    start: np.ndarray  # where training started, float64
    x: jax.Array  # where it ended, as a vector
    batch: Any  # samples, in the precision of training
    exact: Any  # samples in float64


def ending(name: str, made: tuple[Any, Any, Any], dtype: str, stop: Any) -> Ending:
    """Train from a loss, a start and samples to a stop, or read what was trained before."""
    loss, start, exact = made
    _, x64, _ = flat_loss(loss, start)
    params, batch = cast((start, exact), dtype)
    f, x, unravel = flat_loss(loss, params)
    kept = FOLDER / f"{name}.npy"
    if not kept.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.save(kept, stop(f, x, batch))
    x = jnp.asarray(np.load(kept), dtype)
    return Ending(name, loss, unravel(x), f, np.asarray(x64), x, batch, exact)


def true_of(end: Ending) -> Truth:
    """What going on gains, on record or computed and put there."""
    loss = float(end.of_vector(jnp.asarray(end.x, jnp.float64), end.exact))
    if end.name in TRUTHS:
        kind, *numbers = TRUTHS[end.name]
        there, trained, gain, lowest, *within = map(float, numbers)
        # Other processors round otherwise, and training may end elsewhere.
        if abs(loss - there) <= SAME_END * abs(trained):
            return Truth(kind, trained, gain, tuple(within), lowest)
    found = truth_of(end.of_vector, end.start, np.asarray(end.x), end.exact)
    numbers = [loss, found.trained, found.gain, found.lowest, *found.within]
    with RECORD.open("a") as file:
        file.write("\t".join([end.name, found.kind, *(f"{number:.6g}" for number in numbers)]) + "\n")
    return found


def on_record() -> dict[str, list[str]]:
    """Truths by name; of two the later one."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return {name: facts for name, *facts in (line.split("\t") for line in lines)}


def gradient_seconds(end: Ending) -> float:
    """Median time of one gradient, compiled."""
    return median([seconds(lambda: slope_of(end.of_vector)(end.x, end.batch)) for _ in range(7)])


def labelled(end: Ending) -> tuple[hp.CriticalPoint, float]:
    """Classify, twice where the time in gradients is asked for: the first call compiles."""
    classify = functools.partial(hp.classify, end.loss, end.params, end.batch)
    point = classify()
    return point, seconds(classify) / gradient_seconds(end) if len(end.x) >= LARGE else math.nan


def contradicted(truth: Truth, within: dict[float, float], point: hp.CriticalPoint, rounding: float) -> bool:
    """Whether a label is not what going on from there shows, at the resolution that was stated."""
    if point.label == "minimum":
        return truth.kind == "slope" or within[0.25] > point.resolution + rounding
    if point.label == "not_critical":
        return truth.kind == "settled" and max(within.values()) < point.resolution - rounding
    return point.label == "maximum" or (point.label == "saddle" and truth.kind == "settled")


TRUTHS = on_record()


def main() -> int:
    """Print a line for each ending and the counts."""
    parser = command_line(__doc__, seeds=1, only="endings")
    parser.add_argument("--dtype", choices=("float32", "float64"), action="append")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    counts: Counter[tuple[str, str, str]] = Counter()
    costs: dict[str, list[float]] = {}
    holds, sharp, wrong = [], [], 0
    dtypes = options.dtype or ("float64", "float32")
    for model, seed, dtype, stop in itertools.product(MODELS, range(options.seeds), dtypes, STOPS):
        name = f"{model.name}, seed {seed}, {dtype}, {stop}"
        size = sum(leaf.size for leaf in jax.tree.leaves(model.make(seed)[1]))
        if options.only not in name or (stop == "BFGS" and size > FEW):
            continue
        end = ending(name, model.make(seed), dtype, STOPS[stop])
        truth, began = true_of(end), time.perf_counter()
        point, gradients = labelled(end)
        spent = time.perf_counter() - began
        within = dict(zip(REACHES, truth.within, strict=True))
        counts[dtype, truth.kind, point.label] += 1
        costs.setdefault(truth.kind, []).append(gradients)
        rounding = 4 * float(jnp.finfo(dtype).eps) * abs(point.loss)
        bad = contradicted(truth, within, point, rounding)
        wrong += bad
        holds.append(point.gain >= within[0.25] - rounding)
        sharp.append(point.gain <= IDLE * within[0.5] + point.resolution)
        print(
            f"{name:<52}{size:>7} {truth.kind:<8} gains {within[0.25]:.1e} to {within[0.5]:.1e}; "
            f"{point.label:<12} gain {point.gain:.1e}{' ' if holds[-1] else '!'}{' ' if sharp[-1] else '~'} "
            f"resolution {point.resolution:.1e} {spent:5.1f} s {gradients:6.0f} gradients"
            f"{' WRONG' if bad else ''}  {' '.join(point.reasons[:3])}",
            flush=True,
        )
    for (dtype, kind, label), count in sorted(counts.items()):
        print(f"  {dtype} {kind:<8} {label:<13}{count:>4}")
    for kind, found in costs.items():
        cost = np.nanmedian([*found, math.nan])
        print(f"  {kind}: median {cost:.0f} gradients' time from {LARGE:,} variables on")
    print(
        f"\nthe gain is no less than the true one at {np.mean(holds):.1%}, and within {IDLE:g} times it and "
        f"the resolution at {np.mean(sharp):.1%}; wrong: {wrong}"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
