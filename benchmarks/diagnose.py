"""Diagnoses of planted troubles: the confusion table; prints it.

Run as `python -m benchmarks.diagnose` (or `make bench-diagnose`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import hessian_probe as hp
from benchmarks.zoo import PLANTS


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", default="", help="part of a plant's name")
    parser.add_argument("--half", choices=("tuning", "kept", "both"), default="both")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    for plant in PLANTS:
        if options.only not in plant.name or (
            options.half != "both" and plant.tuning != (options.half == "tuning")
        ):
            continue
        began, firsts, second = time.perf_counter(), Counter(), 0
        for seed in range(options.first, options.first + options.seeds):
            run = plant.make(seed)
            found = hp.diagnose(run.loss, run.params, **run.arguments())
            causes = [f.cause for f in found.findings]
            firsts[causes[0]] += 1
            second += plant.cause in causes[:2]
            if options.verbose:
                print(f"--- {plant.name} {seed}")
                for name, text in found.measured:
                    print(f"      {name}: {text}")
                for f in found.findings:
                    print(f"   {f.cause} {f.confidence:.2f}: {f.claim}")
        told = ", ".join(f"{cause} {n}" for cause, n in firsts.most_common())
        seconds = (time.perf_counter() - began) / options.seeds
        print(
            f"{plant.name:30s} {plant.cause:20s} first {firsts[plant.cause]:3d}  two {second:3d}"
            f" of {options.seeds}   [{told}]  {seconds:.1f} s each",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
