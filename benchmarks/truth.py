"""Classify every point whose type is known, and print the table of labels against the truth.

Run as `python -m benchmarks.truth` (or `make truth`).  Exits with 1 if any label is wrong, or if
fewer than 95 % of the non-degenerate points are decided.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from statistics import median
from typing import Any

import jax
import numpy as np

import hessian_probe as hp
from hessian_probe.problems import TRUTH_KINDS, KnownPoint, truth_points

HONEST = ("undetermined", "degenerate")


def outcome(known: KnownPoint, label: str) -> str:
    """Judge a label: "right", "honest" (no claim) or "wrong"."""
    if label == known.label:
        return "right"
    return "honest" if label in HONEST else "wrong"


def run(dtype: Any, kinds: list[str] | None = None, *, verbose: bool = False) -> tuple[int, float]:
    """Classify all points in one precision and print the table.

    Returns:
        The number of wrong labels, and the share of non-degenerate points that were decided.
    """
    table: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    costs: list[int] = []
    decided = total = 0
    began = time.perf_counter()
    for known in truth_points(kinds):
        cast = known.astype(dtype)
        point = hp.classify(cast.loss, *cast.args)
        verdict = outcome(known, point.label)
        row = table.setdefault(known.kind, Counter())
        row[verdict] += 1
        row["degenerate"] += known.degenerate
        if verdict == "wrong":
            wrong.append(f"{known.name}: {point.label}, truth {known.label}\n{point}")
        if verbose and verdict == "honest" and not known.degenerate:
            print(f"undecided: {known.name}, truth {known.label}\n{point}")
        if not known.degenerate:
            total += 1
            decided += verdict == "right"
        if known.label == "saddle" and point.certified and point.size >= 10:
            costs.append(point.num_hvps)
    seconds = time.perf_counter() - began
    print(f"\nTruth set in {np.dtype(dtype).name}, {seconds:.0f} s")
    print(f"{'kind':<22}{'points':>8}{'right':>8}{'honest':>8}{'wrong':>8}   of which degenerate")
    for kind, row in table.items():
        count = row["right"] + row["honest"] + row["wrong"]
        print(
            f"{kind:<22}{count:>8}{row['right']:>8}{row['honest']:>8}{row['wrong']:>8}{row['degenerate']:>12}"
        )
    share = decided / max(total, 1)
    print(f"non-degenerate points decided: {decided} of {total} ({share:.1%}); wrong labels: {len(wrong)}")
    print(f"certified saddles with n >= 10: {len(costs)}, median {median(costs or [0]):g} products each")
    for text in wrong:
        print(f"WRONG {text}")
    return len(wrong), share


def main() -> int:
    """Run both precisions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="print undecided points")
    parser.add_argument("--dtype", choices=("float32", "float64"), action="append")
    parser.add_argument("--kind", choices=TRUTH_KINDS, action="append")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    results = [
        run(np.dtype(name), arguments.kind, verbose=arguments.verbose)
        for name in arguments.dtype or ("float64", "float32")
    ]
    return int(any(wrong or share < 0.95 for wrong, share in results))


if __name__ == "__main__":
    sys.exit(main())
