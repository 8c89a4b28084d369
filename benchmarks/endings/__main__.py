"""What is left to gain where real trainings end, and what the library says there.

Run as `python -m benchmarks.endings` (or `make endings`).  Each ending is made by training a model to a stop
in one precision; the truth is found by going on for very long in float64 and kept under `.cache/endings`.
The table compares it with label, gain and cost of `hp.classify`.  All of it takes hours on two cores;
`--only` takes a part.
"""

from __future__ import annotations

import argparse
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
from benchmarks.endings.models import MODELS, Model
from benchmarks.endings.stops import STOPS, flat_loss, stops_for
from benchmarks.endings.truth import REACHES, Truth, truth_of

FOLDER = Path(__file__).parents[2] / ".cache" / "endings"
# The estimate is no idle bound where it is at most this many times the true gain, and the resolution.
IDLE = 30.0


class Ending(NamedTuple):
    """A model trained to a stop.

    Attributes:
        name: model, seed, precision and stop.
        loss: loss(params, batch).
        params: where it ended.
        of_vector: the same loss of one vector.
        start: where training started, float64.
        x: where it ended, as a vector.
        batch: samples, in the precision of training.
        exact: samples in float64.
    """

    name: str
    loss: Any
    params: Any
    of_vector: Any
    start: np.ndarray
    x: jax.Array
    batch: Any
    exact: Any

    def truth(self) -> Truth:
        """What going on gains."""
        return truth_of(self.of_vector, self.start, np.asarray(self.x), self.exact)


def cast(tree: Any, dtype: str) -> Any:
    """Cast what is floating."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def ending(model: Model, seed: int, dtype: str, stop: str) -> Ending:
    """Train, or read what was trained before."""
    loss, start, exact = model.make(seed)
    _, x64, _ = flat_loss(loss, start, exact)
    params, batch = cast((start, exact), dtype)
    f, x, unravel = flat_loss(loss, params, batch)
    name = f"{model.name}, seed {seed}, {dtype}, {stop}"
    kept = FOLDER / f"{name}.npy"
    if kept.exists():
        x = jnp.asarray(np.load(kept), dtype)
    else:
        x = jnp.asarray(STOPS[stop](f, x, batch), dtype)
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.asarray(x))
    return Ending(name, loss, unravel(x), f, np.asarray(x64), x, batch, exact)


def true_of(end: Ending) -> Truth:
    """The truth, computed or kept."""
    kept = FOLDER / f"{end.name}.truth.npy"
    if not kept.exists():
        kind, trained, gain, within, lowest = end.truth()
        np.save(kept, np.array([kind, trained, gain, *within, lowest], dtype=str))
    kind, trained, gain, *within, lowest = np.load(kept)
    return Truth(str(kind), float(trained), float(gain), tuple(map(float, within)), float(lowest))


# Endings of at least this number of variables are asked for their cost.
LARGE = 10_000


def gradient_seconds(end: Ending) -> float:
    """Median time of one gradient, compiled."""
    gradient = jax.jit(jax.grad(end.of_vector))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(gradient(end.x, end.batch))
        times.append(time.perf_counter() - began)
    return median(times)


def labelled(end: Ending) -> tuple[hp.CriticalPoint, float]:
    """Classify, twice where the time in gradients is asked for: the first call compiles."""
    point, gradients = hp.classify(end.loss, end.params, end.batch), math.nan
    if len(end.x) >= LARGE:
        began = time.perf_counter()
        point = hp.classify(end.loss, end.params, end.batch)
        gradients = (time.perf_counter() - began) / gradient_seconds(end)
    return point, gradients


def contradicted(truth: Truth, within: dict[float, float], point: hp.CriticalPoint, rounding: float) -> bool:
    """Whether a label is not what going on from there shows, at the resolution that was stated."""
    if point.label == "minimum":
        return truth.kind == "slope" or within[0.25] > point.resolution + rounding
    if point.label == "not_critical":
        return truth.kind == "settled" and max(within.values()) < point.resolution - rounding
    return point.label == "maximum" or (point.label == "saddle" and truth.kind == "settled")


def main() -> int:
    """Print a line for each ending and the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="endings whose name contains this")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--kept", action="store_true", help="only endings that were trained before")
    parser.add_argument("--dtype", choices=("float32", "float64"), action="append")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    counts: Counter[tuple[str, str, str]] = Counter()
    costs: dict[str, list[float]] = {}
    holds, sharp, wrong = [], [], 0
    dtypes = options.dtype or ("float64", "float32")
    for model, seed, dtype in itertools.product(MODELS, range(options.seeds), dtypes):
        size = sum(leaf.size for leaf in jax.tree.leaves(model.make(seed)[1]))
        for stop in stops_for(size):
            name = f"{model.name}, seed {seed}, {dtype}, {stop}"
            if options.only not in name or (options.kept and not (FOLDER / f"{name}.truth.npy").exists()):
                continue
            end = ending(model, seed, dtype, stop)
            truth, began = true_of(end), time.perf_counter()
            point, gradients = labelled(end)
            seconds = time.perf_counter() - began
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
                f"{point.label:<12} gain {point.gain:.1e}{' ' if holds[-1] else '!'}"
                f"{' ' if sharp[-1] else '~'} "
                f"resolution {point.resolution:.1e} {seconds:5.1f} s {gradients:6.0f} gradients"
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
