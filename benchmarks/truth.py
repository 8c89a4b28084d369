"""Classify every point whose type is known, and print the table of labels against the truth.

Run as `python -m benchmarks.truth` (or `make truth`).  Exits with 1 if any label is wrong, if a proved
number of negative eigenvalues exceeds the true one, or if fewer than 97 % of the decidable points are
decided.  `--seed` draws other points than the ones the library was developed on.
"""

import argparse
import sys
import time
from collections import Counter
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

import hessian_probe as hp
from benchmarks.report import command_line
from benchmarks.truth_points import NEED_EXTRAS, TRUTH_KINDS, truth_points
from hessian_probe.problems import KnownPoint

LABELS = ("minimum", "maximum", "saddle", "degenerate", "not_critical", "undetermined")
HONEST = ("undetermined", "degenerate")
SHARE_DECIDED = 0.97


def decidable_in(known: KnownPoint, dtype: Any) -> bool:
    """Whether a dtype can show the label: its gap is at least 64·ε·√n (Higham 2002, sections 2.8 and 3.1)."""
    return known.decidable and known.gap >= 64.0 * float(np.finfo(dtype).eps) * np.sqrt(known.size)


def falls_within(known: KnownPoint, reach: float) -> float:
    """Largest decrease of the loss within a distance, in float64: L-BFGS from displaced points."""
    x, unravel = ravel_pytree(jax.tree.map(jnp.asarray, known.params))

    def mean(y: Any) -> Any:
        values = [known.loss(unravel(y), *batch) for batch in known.batches]
        return sum(values) / len(values)

    value = jax.jit(jax.value_and_grad(mean))
    here, falls, rng = float(value(x)[0]), [0.0], np.random.default_rng(0)

    def follow(y: np.ndarray) -> tuple[float, np.ndarray]:
        found, slope = value(jnp.asarray(y))
        if np.linalg.norm(y - x) <= reach:
            falls.append(here - float(found))
        return float(found), np.asarray(slope)

    moves = list(rng.standard_normal((8, x.size)))
    if known.descent is not None:
        moves.append(np.asarray(ravel_pytree(known.descent)[0]))
    for move in moves:
        start = np.asarray(x) + 0.5 * reach * move / np.linalg.norm(move)
        minimize(follow, start, jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 0, "gtol": 0})
    return max(falls)


class Table:
    """What was answered, by kind and true label."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.given: dict[tuple[str, str], Counter[str]] = {}
        self.wrong: list[str] = []
        self.undecided: list[str] = []
        self.costs: list[int] = []

    def add(self, known: KnownPoint, point: hp.CriticalPoint, seconds: float) -> None:
        """Count one answer: right, honest (no claim) or wrong."""
        row = self.given.setdefault((known.kind, known.label), Counter())
        right, decidable = point.label == known.label, decidable_in(known, self.dtype)
        wrong = not right and point.label not in HONEST
        if wrong and not decidable and point.label == "minimum":
            # What rounding hides may lower the loss by less than the resolution; then the label is right.
            wrong = falls_within(known, point.reach) > point.resolution
        row.update([point.label])
        for column, more in (("decidable", decidable), ("decided", decidable and right), ("wrong", wrong)):
            row[column] += int(more)
        row["milliseconds"] += round(1000 * seconds)
        text = f"{known.kind}/{known.name}: {point.label}, truth {known.label}\n{point}"
        if wrong:
            self.wrong.append(text)
        elif known.index is not None and known.label in LABELS[:4] and point.index_at_least > known.index:
            self.wrong.append(f"{text}\nproved index {point.index_at_least}, truth {known.index}")
        elif decidable and not right:
            self.undecided.append(text)
        if known.label == "saddle" and point.certified and point.size >= 10:
            self.costs.append(point.num_hvps)

    def total(self, *columns: str) -> int:
        """Sum columns over all rows."""
        return sum(row[column] for row in self.given.values() for column in columns)

    @property
    def share(self) -> float:
        """Share of the decidable points that were given their label."""
        return self.total("decided") / max(self.total("decidable"), 1)

    def rows(self, kind: str) -> list[str]:
        """Return a kind's rows of the confusion table, one for each true label; a column for each answer."""
        lines = []
        for truth, row in [(truth, row) for (name, truth), row in self.given.items() if name == kind]:
            counts = "".join(f"{row[label] or '·':>13}" for label in LABELS)
            decided = f"{row['decided']} of {row['decidable']}{row['milliseconds'] / 1000:>9.1f}"
            lines.append(f"{kind:<16}{truth:<14}{counts}{row['wrong']:>8}{decided:>21}")
        return lines


def run(dtype: Any, options: argparse.Namespace) -> bool:
    """Classify all points in one precision and print the table; say whether it is as it must be."""
    table, began = Table(dtype), time.process_time()
    heads = "".join(f"{label[:12]:>13}" for label in LABELS) + f"{'wrong':>8}{'decided':>12}{'seconds':>9}"
    print(f"\nTruth set in {table.dtype.name}\n{'kind':<16}{'truth':<14}{heads}", flush=True)
    for kind in options.kind or [kind for kind in TRUTH_KINDS if kind not in NEED_EXTRAS]:
        for known in truth_points(kind, seed=options.seed):
            if options.match in known.name:
                cast, start = known.astype(dtype), time.perf_counter()
                point = hp.classify(cast.loss, *cast.args)
                table.add(known, point, time.perf_counter() - start)
        print("\n".join(table.rows(kind)), flush=True)
    print(
        f"{table.total(*LABELS)} points: {table.total('decided')} of {table.total('decidable')} decidable "
        f"ones decided ({table.share:.1%}); wrong: {len(table.wrong)}\n"
        f"certified saddles with n >= 10: {len(table.costs)}, median {median(table.costs or [0]):g} products "
        f"each\n{table.total('milliseconds') / 1000:.0f} s, "
        f"of the processor {time.process_time() - began:.0f} s",
        flush=True,
    )
    for text in table.wrong:
        print(f"WRONG {text}")
    for text in table.undecided if options.verbose else ():
        print(f"undecided: {text}")
    return not table.wrong and table.share >= SHARE_DECIDED


def main() -> int:
    """Run both precisions."""
    parser = command_line(__doc__)
    parser.add_argument("--verbose", action="store_true", help="print undecided points")
    parser.add_argument("--dtype", choices=("float32", "float64"), action="append")
    parser.add_argument("--kind", choices=TRUTH_KINDS, action="append")
    parser.add_argument("--match", default="", help="take only points whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="draws the points that are random")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    good = [run(np.dtype(name), options) for name in options.dtype or ("float64", "float32")]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
