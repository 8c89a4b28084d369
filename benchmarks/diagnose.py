"""Diagnoses of synthetic failures: a line for each, a confusion table, and what acting on them gains.

Run as `python -m benchmarks.diagnose` (or `make bench-diagnose`).  The rounds of the zoo are explained in
`benchmarks/zoo/__init__.py`, their first counts stand in `docs/api/diagnose.md`.  Acting on the first
proposal for a curable failure is compared with going on unchanged for as many gradients.

With `--out FILE` every diagnosis is also written as a line of JSON as soon as it is made, and what the file
has already is not made again.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hessian_probe as hp
from benchmarks.report import command_line, in_processes
from benchmarks.zoo import FAILURES
from benchmarks.zoo.training import Failure, Run, joined, order, train
from hessian_probe.optimizers.trial_runs import perturb

# Full gradients (or as many samples in batches) that a proposal and going on unchanged may take.
BUDGET = 100
# A confidence from which a finding is a statement (the threshold of "strong" in the documentation).
CONFIDENT = 0.9
# What stops training, as the documentation of `hp.diagnose` lists it.
HINDRANCES = {"divergence", "input_scale", "dead_units", "saturation", "exploding_gradients", "oscillation"}
HINDRANCES |= {"vanishing_gradients", "noise", "slow", "ill_conditioned", "saddle", "broadcast", "uphill"}
# Faults of the program: what is wrong where none is, and what no hindrance beside it contradicts.
FAULTS = {"program", "derivative"}
OPPOSITES = [{"divergence", "slow"}, {"oscillation", "slow"}, {"saddle", "minimum"}]
OPPOSITES += [{"vanishing_gradients", "exploding_gradients"}, {"overfitting", "mismatch"}]
Record = dict[str, Any]


def main() -> int:
    """Measure and print."""
    parser = command_line(__doc__, seeds=10, only="failures")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--round", type=int, choices=range(1, 10), help="default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="file that every diagnosis is appended to")
    options = parser.parse_args()
    failures = [f for f in FAILURES if options.only in f.name and options.round in (None, f.round)]
    records = measure(failures, range(options.first, options.first + options.seeds), options)
    print(f"\n{summary(records)}")
    return 0


def measure(failures: list[Failure], seeds: range, options: argparse.Namespace) -> list[Record]:
    """Diagnose the failures at all seeds, several at a time, and print each when it is done."""
    lines = options.out.read_text().splitlines() if options.out and options.out.exists() else []
    names = [failure.name for failure in failures]
    records = [record for record in map(json.loads, lines) if record["failure"] in names]
    records = [record for record in records if record["seed"] in seeds]
    have = {(record["failure"], record["seed"]) for record in records}
    calls = [(diagnoses, name, [s for s in seeds if (name, s) not in have], options.out) for name in names]
    for number, (name, made) in enumerate(in_processes(calls, options.jobs), 1):
        records += made
        own = [record for record in records if record["failure"] == name]
        print(f"{number:3d}/{len(calls)} {line(own)}", flush=True)
    return records


def diagnoses(name: str, seeds: list[int], out: Path | None) -> tuple[str, list[Record]]:
    """Diagnose one failure at some seeds; its name, and the records."""
    failure = next(failure for failure in FAILURES if failure.name == name)
    records = []
    for seed in seeds:
        records.append(diagnosis(failure, seed))
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
    return name, records


def diagnosis(failure: Failure, seed: int) -> Record:
    """Diagnose one run; act on the first proposal where the failure is curable."""
    began = time.perf_counter()
    run = failure.make(seed)
    found = hp.diagnose(run.loss, run.params, **run.arguments())
    record: Record = {"failure": failure.name, "seed": seed, "measured": found.measured}
    record |= {"round": failure.round, "cause": failure.cause, "also": failure.also_true.split()}
    record["findings"] = [(f.cause, f.confidence, f.claim, f.reason) for f in found.findings]
    if failure.curable:
        record["acted"] = act(run, found.findings[0])
    record["seconds"] = [time.perf_counter() - began]
    return record


def act(run: Run, finding: hp.Finding) -> tuple[float, float]:
    """Training loss after going on unchanged, and after acting on a finding, for the same budget."""
    batch = len(run.data[0][0]) if isinstance(run.data, list) else None
    plain = go_on(run, run.params, run.optimizer, run.opt_state, batch)
    params, optimizer, state = run.params, run.optimizer, run.opt_state
    match finding.remedy:
        case "multiply_rate":
            optimizer = optax.chain(optimizer, optax.scale(finding.factor))
            state = state, optax.EmptyState()
        case "decay_rate":
            fall = optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, num_steps(run, batch)))
            optimizer, state = optax.chain(optimizer, fall), (state, fall.init(params))
        case "reduce_weight_decay":
            own = optimizer.update
            optimizer = optax.GradientTransformation(
                optimizer.init, lambda g, s, at: own(g, s, jax.tree.map(jnp.zeros_like, at))
            )
        case "restart_schedule" | "escape":
            if finding.remedy == "escape":
                params = hp.escape(run.loss, run.params, joined(run)).params
            state = optimizer.init(params)
        case "perturb" | "precondition" | "adam" | "adam_from_reinit":
            if finding.remedy == "perturb":
                params = perturb(params, np.random.default_rng(1))
            optimizer = optax.adam(1e-2)
            state = optimizer.init(params)
        case _:
            return plain, plain
    return plain, go_on(run, params, optimizer, state, batch)


def num_steps(run: Run, batch: int | None) -> int:
    """Steps of the budget; batches get five passes."""
    return BUDGET if batch is None else BUDGET * len(jax.tree.leaves(joined(run))[0]) // (20 * batch)


def go_on(run: Run, params: Any, optimizer: Any, state: Any, batch: int | None) -> float:
    """Train on for the budget and return the loss over all training data."""
    data, steps = joined(run), num_steps(run, batch)
    index = order(len(jax.tree.leaves(data)[0]), batch, steps, 99)
    end, _, _ = train(run.loss, optimizer, params, state, data, index, steps)
    value = float(jax.jit(run.loss)(end, data))
    return value if np.isfinite(value) else float("inf")


def contradictions(record: Record) -> list[str]:
    """Causes found with confidence that cannot be true beside the failure, or what comes with it."""
    told = {cause for cause, confidence, *_ in record["findings"] if confidence >= CONFIDENT}
    return sorted(cause for cause in told - {*record["also"]} if excludes(record["cause"], cause))


def excludes(true: str, told: str) -> bool:
    """Whether both cannot be true: a failure beside health, an opposite, a hindrance beside what is done.

    A fault of the program that is not there contradicts every other cause; "nothing_found" contradicts none.
    """
    if told == "nothing_found":
        return False
    if told in FAULTS or "healthy" in (true, told):
        return true != told
    if {true, told} in OPPOSITES:
        return True
    if true in HINDRANCES | FAULTS | {"optimization"}:
        return told in ("model_bias", "minimum")
    return told in HINDRANCES | {"optimization"}


def line(records: list[Record]) -> str:
    """One failure's counts in a line."""
    first = records[0]
    told = Counter(record["findings"][0][0] for record in records).most_common()
    against = Counter(cause for record in records for cause in contradictions(record)).items()
    acted = [record["acted"] for record in records if "acted" in record]
    text = f"{first['failure']:30s} round {first['round']} {first['cause']:20s} " + hits(records)
    text += "  [" + ", ".join(f"{cause} {count}" for cause, count in told) + "]"
    if against:
        text += "  contradicted by: " + ", ".join(f"{cause} {count}" for cause, count in against)
    if acted:
        text += f"  acted: better {sum(new < old for old, new in acted)} of {len(acted)}"
    return text + f"  {sum(sum(record['seconds']) for record in records) / len(records):.0f} s each"


def hits(records: list[Record]) -> str:
    """How often the true cause came first, and among the first two."""
    causes = [[found[0] for found in record["findings"]] for record in records]
    first = sum(names[0] == record["cause"] for names, record in zip(causes, records, strict=True))
    two = sum(record["cause"] in names[:2] for names, record in zip(causes, records, strict=True))
    return f"first {share(first, len(records))}, two {share(two, len(records))}"


def share(part: int, whole: int) -> str:
    """A count with its percentage."""
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole > 10 else f"{part:2d} of {whole}"


def summary(records: list[Record]) -> str:
    """Confusion table and totals."""
    told = sorted({record["findings"][0][0] for record in records})
    rows = list(dict.fromkeys(record["cause"] for record in records))
    out = [f"{'true cause (rows), told first':28s}" + " ".join(f"{cause[:9]:>9s}" for cause in told)]
    for cause in rows:
        row = Counter(record["findings"][0][0] for record in records if record["cause"] == cause)
        out.append(f"{cause:28s}" + " ".join(f"{row[name] or '.':>9}" for name in told))
    false = [record for record in records if record["cause"] not in FAULTS]
    told_faults = Counter(record["findings"][0][-1] for record in false if record["findings"][0][0] in FAULTS)
    out.append(
        f"\nfaults of the program told first where none is: {share(sum(told_faults.values()), len(false))}"
    )
    out += [f"  {code} {count}" for code, count in told_faults.most_common()]
    for number in [*sorted({record["round"] for record in records}), "all"]:
        part = [record for record in records if number in ("all", record["round"])]
        for name, healthy in (("healthy", True), ("failure", False)):
            chosen = [record for record in part if (record["cause"] == "healthy") == healthy]
            if chosen:
                against = sum(bool(contradictions(record)) for record in chosen)
                where = "all rounds" if number == "all" else f"round {number}"
                out.append(f"{where} {name}: {hits(chosen)}; contradicted with confidence {against}")
    acted = [record["acted"] for record in records if "acted" in record]
    if acted:
        better = sum(new < old for old, new in acted)
        out.append(f"acting on the first proposal lowers the loss: {share(better, len(acted))}")
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())
