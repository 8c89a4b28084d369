"""What is left to gain where real trainings end, and what the library says there.

Run as `python -m benchmarks.endings` (or `make endings`).  Each ending is made by training a model to a stop
in one precision; the truth is found by going on for very long in float64 and kept under `.cache/endings`.
The table compares it with `hp.classify`.  All of it takes hours on two cores; `--only` takes a part.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hessian_probe as hp
from benchmarks.endings.models import MODELS, Model
from benchmarks.endings.stops import STOPS, flat_loss, stops_for
from benchmarks.endings.truth import REACHES, Truth, truth_of

FOLDER = Path(__file__).parents[2] / ".cache" / "endings"


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


# Labels that do not contradict the truth: a settled ending can be off its minimum by more than rounding.
OPEN = ("undetermined", "degenerate")
RIGHT = {"settled": ("minimum", "not_critical", *OPEN), "slope": ("not_critical", "saddle", *OPEN)}


def main() -> int:
    """Print a line for each ending and the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="endings whose name contains this")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--dtype", choices=("float32", "float64"), action="append")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    counts: Counter[tuple[str, str]] = Counter()
    dtypes = options.dtype or ("float64", "float32")
    for model, seed, dtype in itertools.product(MODELS, range(options.seeds), dtypes):
        size = sum(leaf.size for leaf in jax.tree.leaves(model.make(seed)[1]))
        for stop in stops_for(size):
            if options.only not in f"{model.name}, seed {seed}, {dtype}, {stop}":
                continue
            end = ending(model, seed, dtype, stop)
            truth, began = true_of(end), time.perf_counter()
            label = hp.classify(end.loss, end.params, end.batch).label
            seconds = time.perf_counter() - began
            within = dict(zip(REACHES, truth.within, strict=True))
            counts[truth.kind, label] += 1
            print(
                f"{end.name:<52}{size:>7} {truth.kind:<8} gains {within[0.25]:.1e} to {within[0.5]:.1e}; "
                f"{label} ({seconds:.1f} s)",
                flush=True,
            )
    for (kind, label), count in sorted(counts.items()):
        print(f"  {kind:<8} {label:<13}{count:>4}")
    wrong = sum(count for (kind, label), count in counts.items() if label not in RIGHT.get(kind, (label,)))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
