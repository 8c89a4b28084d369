"""Classify every point whose type is known, and print the table of labels against the truth.

Run as `python -m benchmarks.truth` (or `make truth`).  Exits with 1 if any label is wrong, if a proved
number of negative eigenvalues exceeds the true one, or if fewer than 97 % of the decidable points are
decided.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections import Counter
from statistics import median
from typing import Any

import jax
import numpy as np

import hessian_probe as hp
from benchmarks.truth_points import NEED_EXTRAS, TRUTH_KINDS, truth_points
from hessian_probe.problems import KnownPoint

LABELS = ("minimum", "maximum", "saddle", "degenerate", "not_critical", "undetermined")
HONEST = ("undetermined", "degenerate")
SHARE_DECIDED = 0.97


def outcome(known: KnownPoint, label: str) -> str:
    """Judge a label: "right", "honest" (no claim) or "wrong"."""
    if label == known.label:
        return "right"
    return "honest" if label in HONEST else "wrong"


@dataclasses.dataclass
class Table:
    """What was answered, by kind and true label."""

    dtype: Any
    given: dict[tuple[str, str], Counter[str]] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)
    undecided: list[str] = dataclasses.field(default_factory=list)
    costs: list[int] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    began: float = dataclasses.field(default_factory=time.process_time)

    def add(self, known: KnownPoint, point: hp.CriticalPoint, seconds: float) -> None:
        """Count one answer."""
        row = self.given.setdefault((known.kind, known.label), Counter())
        verdict, decidable = outcome(known, point.label), known.decidable_in(self.dtype)
        row[point.label] += 1
        row["decidable"] += decidable
        row["decided"] += decidable and verdict == "right"
        row["wrong"] += verdict == "wrong"
        row["milliseconds"] += round(1000 * seconds)
        text = f"{known.kind}/{known.name}: {point.label}, truth {known.label}\n{point}"
        if verdict == "wrong":
            self.wrong.append(text)
        elif known.index is not None and known.label in LABELS[:4] and point.index_at_least > known.index:
            self.wrong.append(f"{text}\nproved index {point.index_at_least}, truth {known.index}")
        elif verdict == "honest" and decidable:
            self.undecided.append(text)
        if known.label == "saddle" and point.certified and point.size >= 10:
            self.costs.append(point.num_hvps)
        self.seconds += seconds

    def total(self, column: str) -> int:
        """Sum a column over all rows."""
        return sum(row[column] for row in self.given.values())

    @property
    def share(self) -> float:
        """Share of the decidable points that were given their label."""
        return self.total("decided") / max(self.total("decidable"), 1)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong and enough is decided."""
        return not self.wrong and self.share >= SHARE_DECIDED

    def head(self) -> str:
        """Return the columns' names."""
        heads = [f"{label[:12]:>13}" for label in LABELS]
        title = f"{'kind':<16}{'truth':<14}" + "".join(heads) + f"{'wrong':>8}{'decided':>12}{'seconds':>9}"
        return f"\nTruth set in {np.dtype(self.dtype).name}\n{title}"

    def rows(self, kind: str) -> list[str]:
        """Return a kind's rows of the confusion table, one for each true label; a column for each answer."""
        lines = []
        for (name, truth), row in self.given.items():
            if name != kind:
                continue
            counts = "".join(f"{row[label] or '·':>13}" for label in LABELS)
            decided = f"{row['decided']} of {row['decidable']}"
            lines.append(
                f"{kind:<16}{truth:<14}{counts}{row['wrong']:>8}{decided:>12}"
                f"{row['milliseconds'] / 1000:>9.1f}"
            )
        return lines

    def summary(self) -> str:
        """Return totals, and everything that is wrong."""
        points = sum(self.total(label) for label in LABELS)
        lines = [
            f"{points} points: {self.total('decided')} of {self.total('decidable')} decidable ones decided "
            f"({self.share:.1%}); wrong: {len(self.wrong)}",
            f"certified saddles with n >= 10: {len(self.costs)}, "
            f"median {median(self.costs or [0]):g} products each",
            f"{self.seconds:.0f} s, of the processor {time.process_time() - self.began:.0f} s",
        ]
        return "\n".join(lines + [f"WRONG {text}" for text in self.wrong])


def run(dtype: Any, kinds: list[str] | None = None, *, match: str = "", verbose: bool = False) -> Table:
    """Classify all points in one precision and print the table.

    Args:
        dtype: precision of parameters and data.
        kinds: kinds to take; None for all.
        match: take only points whose name contains this.
        verbose: print the points that were decidable and not decided, too.

    Returns:
        The table.
    """
    table = Table(dtype)
    print(table.head(), flush=True)
    for kind in kinds or [kind for kind in TRUTH_KINDS if kind not in NEED_EXTRAS]:
        for known in truth_points(kind):
            if match not in known.name:
                continue
            cast = known.astype(dtype)
            began = time.perf_counter()
            point = hp.classify(cast.loss, *cast.args)
            table.add(known, point, time.perf_counter() - began)
        for line in table.rows(kind):
            print(line, flush=True)
    print(table.summary(), flush=True)
    if verbose:
        for text in table.undecided:
            print(f"undecided: {text}")
    return table


def main() -> int:
    """Run both precisions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="print undecided points")
    parser.add_argument("--dtype", choices=("float32", "float64"), action="append")
    parser.add_argument("--kind", choices=TRUTH_KINDS, action="append")
    parser.add_argument("--match", default="", help="take only points whose name contains this")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    tables = [
        run(np.dtype(name), arguments.kind, match=arguments.match, verbose=arguments.verbose)
        for name in arguments.dtype or ("float64", "float32")
    ]
    return int(not all(table.good for table in tables))


if __name__ == "__main__":
    sys.exit(main())
