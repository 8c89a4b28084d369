"""Mutants: does the suite notice when a threshold is halved or doubled, or a guard is taken out?

Run as `python tests/mutants.py` (or `make mutants`).  A mutant is a copy of the project with one change;
it survives if the tests of its room pass all the same.

* Thresholds: every number in a room's `thresholds.py`, halved and doubled (a whole number by at least one).
* Guards: the rows of `GUARDS`, what may never be lost, each a text of the source and what takes its place.

A threshold of `points` is tried on golden records of truth points first (`make golden` must find no
difference without it), then on tests.  Every survivor is printed.  The exit code is 1 if a guard survives,
or if a guard's text is no longer in its file.
"""

from __future__ import annotations

import argparse
import ast
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Tests, `tests/test_…`, that are run on a mutant of a room's thresholds.
TESTS_OF = {
    "programs": "thresholds inspect nonsmooth",
    "operators": "thresholds operators data precision curvatures",
    "spectrum": "thresholds lanczos certificate spectrum counting sums density",
    "planning": "thresholds plan",
    "optimizers": "stability propose_rate trial_runs optimizer_state",
    "flatness": "sharpness",
    "points": "gain classify degenerate nonsmooth inertia sampling null_space symmetries rounding misled "
    "sphere_search",
    "escapes": "thresholds escape training_transform training_monitor",
    "training": "thresholds training_plateau training_transform training_monitor",
}
# Golden records that are compared for a threshold of `points`.
RECORDS = ["-m", "benchmarks.golden", "--part", "truth_float64", "--every", "8", "--workers", "1"]
LIMIT = 1200.0  # seconds after which a mutant that hangs counts as noticed
FAILED, NO_TEST = 1, 5  # exit codes of pytest
PYTEST = ["-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", "-m", "not slow"]


class Mutant(NamedTuple):
    """One change: a file, the text that goes, the text that comes, and the tests that should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


def _guard(name: str, file: str, old: str, new: str, tests: str) -> Mutant:
    """A guard taken out; the names of files are completed."""
    return Mutant(name, f"hessian_probe/{file}.py", old, new, tests)


GUARDS = (
    _guard(
        "results: unflattened without __init__",
        "results",
        "self = object.__new__(new)",
        "self = new(**dict(zip((*leaves, *metadata), (*children, *aux), strict=True)))",
        "results",
    ),
    _guard(
        "arrays: norms are scaled before they are squared",
        "arrays/algebra",
        "safe = jnp.where((top > 0) & jnp.isfinite(top), top, jnp.ones((), dtype))",
        "safe = jnp.ones((), dtype)",
        "arrays",
    ),
    _guard(
        "arrays: sums are taken in at least float32",
        "arrays/algebra",
        "return widest(at_least_float32(v.dtype) for v in vector)",
        "return widest(v.dtype for v in vector)",
        "arrays precision",
    ),
    _guard(
        "operators: full precision of products inside the loss",
        "operators/derivatives",
        'with jax.default_matmul_precision("highest"):\n        return _scalar(',
        'with jax.default_matmul_precision("default"):\n        return _scalar(',
        "precision operators",
    ),
    _guard(
        "operators: full precision of products inside derivatives",
        "operators/derivatives",
        'with jax.default_matmul_precision("highest"):\n            return derivative(',
        'with jax.default_matmul_precision("default"):\n            return derivative(',
        "precision operators",
    ),
    _guard(
        "operators: the key of compiled losses holds the program and what it closes over",
        "operators/tracing",
        "key = key._replace(fingerprint=digest.hexdigest())",
        'key = key._replace(fingerprint="")',
        "operators",
    ),
    _guard(
        "operators: the key holds the values of arrays that the loss closes over",
        "operators/tracing",
        "        digest.update(np.ascontiguousarray(constant).tobytes())",
        "        pass",
        "operators",
    ),
    _guard(
        "operators: batches weigh as many samples as they hold",
        "operators/data",
        "return float(counts[0])",
        "return 1.0",
        "data",
    ),
    _guard(
        "operators: one-shot iterators are refused",
        "operators/data",
        "if iter(data) is data:",
        "if False:",
        "data",
    ),
    _guard(
        "operators: data that change between passes are detected",
        "operators/data",
        "        self._compare(sums)",
        "        pass",
        "data",
    ),
    _guard(
        "spectrum: orthogonalised twice",
        "spectrum/lanczos",
        "(passes < 2) & (length < SHRINKAGE * before)",
        "(passes < 2) & (length < 0 * before)",
        "lanczos spectrum",
    ),
    _guard(
        "spectrum: breakdown is relative to the norm",
        "spectrum/lanczos",
        "return BREAKDOWN * eps * norm_estimate",
        "return BREAKDOWN * eps",
        "lanczos spectrum",
    ),
    _guard(
        "spectrum: a fresh vector after a breakdown",
        "spectrum/krylov",
        "            self.invariant = True\n            self._refresh()",
        "            self.invariant = self.exhausted = True",
        "lanczos spectrum",
    ),
    _guard(
        "spectrum: certificates sum all polynomials",
        "spectrum/certificate",
        "ratio = self.residuals / (x - self.values)",
        "ratio = 0.0 * self.residuals",
        "certificate spectrum counting",
    ),
    _guard(
        "spectrum: true residuals are measured",
        "spectrum/thick_restart",
        "residuals = true_residuals(op, vectors, values)",
        "residuals = 1.0 * residuals",
        "spectrum",
    ),
    _guard(
        "spectrum: a true residual that fails is worked on",
        "spectrum/thick_restart",
        'retry = found.status == "stagnated" and self.aim > LOWEST_AIM and not self.krylov.exhausted',
        "retry = False",
        "spectrum",
    ),
    _guard(
        "spectrum: copies of eigenvalues are looked for",
        "spectrum/thick_restart",
        "settle = max(self.lowest, self.highest) <= 1",
        "settle = True",
        "spectrum",
    ),
    _guard(
        "spectrum: the interval of a count holds what the quadratures leave open",
        "spectrum/counting",
        "sure, possible = weights @ bounds / np.sum(weights)",
        "sure = possible = float(np.mean(weights @ bounds / np.sum(weights)))",
        "counting",
    ),
    _guard(
        "jobs: files are replaced in one move",
        "jobs/state",
        "os.replace(part, path)",
        "path.write_bytes(part.read_bytes())",
        "checkpoint",
    ),
    _guard(
        "jobs: the file of another job is refused",
        "jobs/checkpoint",
        "    _compare(path, saved, here)\n",
        "",
        "checkpoint",
    ),
    _guard(
        "jobs: files that are cut off are refused by name",
        "jobs/state",
        'raise CheckpointError(f"{path} is cut off or damaged ({error}); {_REMEDY}") from error',
        "raise",
        "checkpoint",
    ),
    _guard(
        "points: rounding bands",
        "points/rounding",
        "return rounding + BAND_NOISE * max(self.product, asymmetry)",
        "return rounding",
        "rounding classify precision",
    ),
    _guard(
        "points: curvature is confirmed on the loss",
        "points/verdict",
        "if unconfirmed is not None:",
        "if False:",
        "classify misled nonsmooth",
    ),
    _guard(
        "points: a slope must show in the loss",
        "points/locate",
        "return slope * self.limit <= DOUBTFUL_TOLERANCES * self.rounding.value",
        "return False",
        "classify misled rounding",
    ),
    _guard(
        "points: no extremum at a kink in more than two directions",
        "points/reviews/nonsmooth/review",
        'found.label in ("minimum", "maximum") and op.size > FEW_DIRECTIONS',
        "False",
        "nonsmooth",
    ),
    _guard(
        "points: each half of the batches must show a sign",
        "points/reviews/sampling/noise",
        "return self.even.beyond(sign, level, band) and self.odd.beyond(sign, level, band)",
        "return self.even.beyond(sign, level, band)",
        "sampling",
    ),
    _guard(
        "points: the inertia has a margin",
        "points/reviews/inertia",
        "low, high, margin = found.values[0], found.values[-1], SIGN_MARGIN * found.band",
        "low, high, margin = found.values[0], found.values[-1], 0.0",
        "inertia",
    ),
    _guard(
        "points: no minimum at a resolution where more was shown",
        "points/gain",
        "return max(self.slope, self.curvature, self.shown)",
        "return max(self.slope, self.curvature)",
        "gain classify",
    ),
    _guard(
        "points: no minimum at a resolution below rounding or noise",
        "points/gain",
        "self.hidden = self._hidden(resolution, scale)",
        "self.hidden = None",
        "gain classify sampling",
    ),
    _guard(
        "points: a lower loss behind a rise ends the reach",
        "points/gain",
        "if rise is not None:",
        "if False:",
        "gain",
    ),
    _guard(
        "points: a decrease on one side is no curvature",
        "points/gain",
        "both = np.minimum(*np.split(falls, 2))",
        "both = np.maximum(*np.split(falls, 2))",
        "gain classify",
    ),
    _guard(
        "points: tails are no minima",
        "points/reviews/resolution",
        "if gain.tail:",
        "if False:",
        "gain classify",
    ),
    _guard(
        "points: no minimum at a resolution where the loss rises nowhere",
        "points/reviews/resolution",
        " and _turns(verdict, sign, m.extremes)",
        "",
        "gain classify",
    ),
    _guard(
        "points: no minimum at a resolution where negative curvature may be missed",
        "points/reviews/resolution",
        "if within and estimate.hidden is None and unseen is not None:",
        "if within and estimate.hidden is None:\n        unseen = unseen or ()",
        "gain classify",
    ),
    _guard(
        "points: no minimum at a resolution where kinks meet in many directions",
        "points/reviews/resolution",
        "if m.op.size > FEW_DIRECTIONS and at_a_kink",
        "if False and at_a_kink",
        "gain classify nonsmooth",
    ),
    _guard(
        "escapes: parameters never get worse",
        "escapes/escape",
        "before - lowest >= WORTH * slope and lowest < floor - margin:",
        "True:",
        "escape",
    ),
    _guard(
        "escapes: what the slope gains as well is no escape",
        "escapes/escape",
        "before - lowest >= WORTH * slope and ",
        "",
        "escape",
    ),
    _guard(
        "escapes: a strict minimum is not searched",
        "escapes/escape",
        'if (point.label == "minimum" and point.strict) or misled or not math.isfinite(before):',
        "if misled or not math.isfinite(before):",
        "escape",
    ),
    _guard(
        "points: fresh batches must agree on a displacement",
        "points/sphere_search",
        "good = (decrease > 0) & (decrease < np.inf)",
        "good = decrease < np.inf",
        "sphere_search training_transform",
    ),
    _guard(
        "points: a displacement stays on its sphere",
        "points/sphere_search",
        "return tuple(leaf * (share if leaf.ndim > 1 else jnp.minimum(share, 1)) for leaf, share in pairs)",
        "return step",
        "sphere_search",
    ),
    _guard(
        "points: other batches check a displacement than fit it",
        "points/sphere_search",
        "held[number] = next(batches[-1 if checks else 0])",
        "held[number] = next(batches[0])",
        "sphere_search",
    ),
    _guard(
        "training: an escape gains more than rounding, training and a share of the run",
        "training/backoff",
        "return xp.maximum(WORTH * verdict.most / windows, LEAST_SHARE * verdict.progress)",
        "return xp.zeros_like(verdict.most)",
        "training_transform training_monitor",
    ),
    _guard(
        "training: an escape from which training diverges is rolled back",
        "training/backoff",
        "return awaits_rollback(state) & ~(value <= state.rollback_threshold)",
        "return awaits_rollback(state) & (value != value)",
        "training_transform training_monitor",
    ),
    _guard(
        "training: searches without a result keep to their share",
        "training/backoff",
        "xp.maximum(now + self.pause, spent / max_share)",
        "now + self.pause",
        "training_transform training_monitor",
    ),
    _guard(
        "training: an update never compiles again",
        "training/escape_hook",
        "updates, state = self._compiled(inner_updates",
        "updates, state = jax.jit(lambda *args: self._step(*args))(inner_updates",
        "training_transform",
    ),
    _guard(
        "training: updates keep the dtypes of the parameters",
        "arrays/algebra",
        "jax.lax.select(where, jnp.broadcast_to(jnp.asarray(a).astype(b.dtype), b.shape), b)",
        "jnp.where(where, jnp.asarray(a), b)",
        "training_dtypes",
    ),
    _guard(
        "diagnosis: copies of samples are kept in one fold",
        "optimizers/samples",
        "_, first, copy = np.unique(as_bytes, return_index=True, return_inverse=True)",
        "first = copy = np.arange(len(as_bytes))",
        "diagnosis_data",
    ),
)


def threshold_mutants(room: str) -> list[Mutant]:
    """Every number of a room's table, halved and doubled."""
    path = ROOT / "hessian_probe" / room / "thresholds.py"
    source = path.read_text("utf-8")
    values = runpy.run_path(str(path))
    mutants = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign):
            continue
        old, targets = ast.get_source_segment(source, node), ast.unparse(node.targets[0])
        names = [part.id for part in ast.walk(node.targets[0]) if isinstance(part, ast.Name)]
        assert old is not None
        found = tuple(values[name] for name in names) if len(names) > 1 else values[targets]
        for path_in, number in _leaves(found):
            for label, other in (("halved", number / 2), ("doubled", number * 2)):
                if isinstance(number, int):
                    other = min(number - 1, number // 2) if label == "halved" else max(number + 1, 2 * number)
                new = f"{targets} = {_replaced(found, path_in, other)!r}"
                where = targets + "".join(f"[{key!r}]" for key in path_in)
                file = str(path.relative_to(ROOT))
                mutants.append(Mutant(f"{room}: {where} {label}", file, old, new, TESTS_OF[room]))
    return mutants


def _leaves(value: object, path: tuple[object, ...] = ()) -> list[tuple[tuple[object, ...], int | float]]:
    """Every number in a value, with the keys that lead to it."""
    if isinstance(value, tuple | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, part in items for leaf in _leaves(part, (*path, key))]
    if isinstance(value, bool) or not isinstance(value, int | float) or value == 0:
        print(f"not mutated: {value!r}")
        return []
    return [(path, value)]


def _replaced(value: object, path: tuple[object, ...], new: float) -> object:
    """The value with another number at the end of a path."""
    if not path:
        return new
    if isinstance(value, dict):
        return {
            key: _replaced(part, path[1:], new) if key == path[0] else part for key, part in value.items()
        }
    assert isinstance(value, tuple)
    return tuple(_replaced(part, path[1:], new) if i == path[0] else part for i, part in enumerate(value))


def survives(mutant: Mutant) -> bool | None:
    """Run the tests on a changed copy; None where the text to be changed is not there once."""
    source = (ROOT / mutant.file).read_text("utf-8")
    if source.count(mutant.old) != 1:
        return None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("hessian_probe", "tests", "benchmarks", "pyproject.toml"):
            take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            take(ROOT / name, copy / name)
        (copy / mutant.file).write_text(source.replace(mutant.old, mutant.new), "utf-8")
        codes = [_run(copy, RECORDS, "1")] if mutant.file == "hessian_probe/points/thresholds.py" else []
        for x64 in ("1", "0"):
            if FAILED not in codes:
                codes.append(
                    _run(copy, [*PYTEST, *(f"tests/test_{t}.py" for t in mutant.tests.split())], x64)
                )
    if codes[-2:] == [NO_TEST, NO_TEST]:
        raise RuntimeError(f"{mutant.name}: its tests do not exist")
    return FAILED not in codes


def _run(folder: Path, command: list[str], x64: str) -> int:
    """Run a command of Python in one precision until the first fails; returns its exit code."""
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HESSIAN_PROBE_TEST_X64": x64},
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return FAILED
    if done.returncode not in (0, FAILED, NO_TEST):
        raise RuntimeError(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode


def main() -> int:
    """Run the mutants and print what survives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--room", choices=sorted(TESTS_OF), action="append", help="thresholds of this room")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    options = parser.parse_args()
    guards = list(GUARDS)
    rooms = [room for room in TESTS_OF if (ROOT / "hessian_probe" / room / "thresholds.py").exists()]
    mutants = [] if options.room else guards
    for room in options.room or rooms:
        mutants = [*mutants, *threshold_mutants(room)]
    mutants = [mutant for mutant in mutants if options.only in mutant.name]
    failed = survivors = 0
    with ThreadPoolExecutor(options.workers) as pool:
        for mutant, alive in zip(mutants, pool.map(survives, mutants), strict=True):
            word = {True: "SURVIVED", False: "noticed", None: "STALE"}[alive]
            print(f"{word:9} {mutant.name}", flush=True)
            survivors += alive is True
            failed += mutant in guards and alive is not False
    print(f"{len(mutants)} mutants, {survivors} survived; guards that survived or are stale: {failed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
