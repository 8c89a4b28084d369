"""Golden records: what the library answers on known inputs, written to files once and compared later.

Run as `python -m benchmarks.golden` (or `make golden`).  Each part is a table of text under `tests/golden`,
one line a record, tab-separated:

* `truth_float64`, `truth_float32`: every truth point's label, strict, certified, products and evaluations
  of `hp.classify`, and the status of `hp.escape` from there;
* `escapes`: whether the hook left each plateau; steps, its own gradients and escapes, one seed;
* `diagnoses`: causes and confidences that `hp.diagnose` finds for each synthetic failure, one seed.

A record that differs, is new or is gone is printed and makes the exit code 1.  `--write` replaces the file.
Counts and confidences belong to one kind of processor and one release of JAX; labels do not.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import hessian_probe as hp
from benchmarks import escape
from benchmarks.escape_problems import plateaus
from benchmarks.report import command_line, in_processes
from benchmarks.truth_points import TRUTH_KINDS, truth_points
from benchmarks.zoo import FAILURES

FOLDER = Path(__file__).parents[1] / "tests" / "golden"
# The seed of the synthetic failures.
SEED = 42
PARTS = ("truth_float64", "truth_float32", "escapes", "diagnoses")


def truth_records(dtype: str, kind: str, every: int = 1) -> list[tuple[str, ...]]:
    """Label and escape status of the points of one kind, in one precision."""
    jax.config.update("jax_enable_x64", True)
    records = []
    for known in list(truth_points(kind))[::every]:
        cast = known.astype(np.dtype(dtype))
        point = hp.classify(cast.loss, *cast.args)
        move = hp.escape(cast.loss, *cast.args, point=point)
        facts = (point.label, point.strict, point.certified, point.num_hvps, point.num_evaluations)
        records.append((f"{kind}/{known.name}", *map(str, facts), move.status))
    return records


def escape_records(name: str) -> list[tuple[str, ...]]:
    """What each hooked optimiser spends on one plateau before it leaves."""
    plateau = next(p for p in plateaus() if p.name == name)
    records = []
    for method, optimizer in escape.methods(plateau, "hooks").items():
        if "hook" in method:
            run = escape.make_runner(plateau, optimizer)
            for scale in plateau.scales:
                found = run(escape.FIRST_SEED, scale)
                spent = (found.steps, found.gradients, found.escapes)
                records.append((f"{name} x {scale:g}, {method}", str(found.left), *map(str, spent)))
    return records


def diagnosis_records(name: str) -> list[tuple[str, ...]]:
    """Findings for one synthetic failure, in order, with their confidences."""
    run = next(failure for failure in FAILURES if failure.name == name).make(SEED)
    found = hp.diagnose(run.loss, run.params, **run.arguments())
    return [(name, *(f"{finding.cause} {finding.confidence:.3f}" for finding in found.findings))]


def jobs_of(part: str, every: int) -> list[tuple[Any, ...]]:
    """Calls that make up one part: a function and its arguments."""
    if part.startswith("truth_"):
        return [(truth_records, part.removeprefix("truth_"), kind, every) for kind in TRUTH_KINDS]
    if part == "escapes":
        return [(escape_records, p.name) for p in plateaus()]
    return [(diagnosis_records, failure.name) for failure in FAILURES]


def read(part: str) -> dict[str, str]:
    """Records of a file by name."""
    path = FOLDER / f"{part}.tsv"
    return dict(line.split("\t", 1) for line in path.read_text().splitlines()) if path.exists() else {}


def main() -> int:
    """Compare, or write."""
    parser = command_line(__doc__)
    parser.add_argument("--write", action="store_true", help="replace what the files say of these records")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all but diagnoses (slow)")
    parser.add_argument("--only", default="", help="kinds, plateaus or failures whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="of truth points, only one in this many")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args()
    differences = 0
    for part in options.part or PARTS[:-1]:
        kept, seen = read(part), set[str]()
        calls = jobs_of(part, options.every)
        calls = [call for call in calls if any(options.only in str(word) for word in call[1:])]
        for group in in_processes(calls, options.workers):
            for name, *facts in group:
                now, was = "\t".join(facts), kept.get(name, "not on record")
                seen.add(name)
                if options.write:
                    kept[name] = now
                elif was != now:
                    differences += 1
                    print(f"{part}: {name}\n  was {was}\n  is  {now}", flush=True)
            if options.write:
                rows = "".join(f"{name}\t{facts}\n" for name, facts in sorted(kept.items()))
                (FOLDER / f"{part}.tsv").write_text(rows)
        gone = [] if options.only or options.every > 1 else sorted(set(kept) - seen)
        differences += len(gone)
        print(f"{part}: {len(seen)} records {'written' if options.write else f'compared with {len(kept)}'}")
        print("".join(f"{part}: {name} is on record only\n" for name in gone), end="")
    print(f"{differences} differences")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
