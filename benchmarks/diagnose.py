"""Diagnoses of planted troubles: a line for each plant, a confusion table, and what acting on it brings.

Run as `python -m benchmarks.diagnose` (or `make bench-diagnose`).  Thresholds were chosen on the plants
marked *tuning*; those marked *kept* were first counted, and some of their failures led to changes of the
rules; those marked *blind* were written after the last such change.  The last column acts on the first
proposal of the curable plants and compares the training loss with going on unchanged for as many gradients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hessian_probe as hp
from benchmarks.zoo import PLANTS, Plant, Run, order

# Full gradients (or as many samples in batches) that a proposal and going on unchanged may take.
BUDGET = 100


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", default="", help="part of a plant's name")
    parser.add_argument("--half", choices=("tuning", "kept", "blind", "fresh", "all"), default="all")
    parser.add_argument("--verbose", action="store_true", help="print each finding and what was measured")
    options = parser.parse_args()
    table: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for plant in PLANTS:
        if options.only not in plant.name or options.half not in ("all", plant.half):
            continue
        line(plant, range(options.first, options.first + options.seeds), table, totals, options.verbose)
    confusion(table)
    for name in ("healthy", "planted"):
        if totals[name]:
            print(f"{name}: first {totals[name + ' first']} of {totals[name]}, two {totals[name + ' two']}")
    if totals["acted"]:
        print(f"acting on the first proposal lowers the loss: {totals['better']} of {totals['acted']}")
    return 0


def line(
    plant: Plant, seeds: range, table: dict[str, Counter[str]], totals: Counter[str], verbose: bool
) -> None:
    """Diagnose one plant at all seeds and print a line."""
    began = time.perf_counter()
    firsts: Counter[str] = Counter()
    two, gains = 0, []
    for seed in seeds:
        run = plant.make(seed)
        found = hp.diagnose(run.loss, run.params, **run.arguments())
        causes = [finding.cause for finding in found.findings]
        firsts[causes[0]] += 1
        two += plant.cause in causes[:2]
        if verbose:
            show(plant, seed, found)
        if plant.curable:
            gains.append(act(run, found.findings[0]))
    table.setdefault(plant.cause, Counter()).update(firsts)
    kind = "healthy" if plant.cause == "healthy" else "planted"
    totals.update({kind: len(seeds), f"{kind} first": firsts[plant.cause], f"{kind} two": two})
    totals.update({"acted": len(gains), "better": sum(new < old for old, new in gains)})
    told = ", ".join(f"{cause} {count}" for cause, count in firsts.most_common())
    acted = f"  acted: better {sum(new < old for old, new in gains)} of {len(gains)}" if gains else ""
    print(
        f"{plant.name:30s} {plant.half:6s} {plant.cause:20s} first {firsts[plant.cause]:2d}, two {two:2d} of "
        f"{len(seeds)}  [{told}]{acted}  {(time.perf_counter() - began) / len(seeds):.0f} s each",
        flush=True,
    )


def show(plant: Plant, seed: int, found: hp.Diagnosis) -> None:
    """Print what was measured and found."""
    print(f"--- {plant.name} {seed}")
    for name, text in found.measured:
        print(f"      {name}: {text}")
    for finding in found.findings:
        print(f"   {finding.cause} {finding.confidence:.2f}: {finding.claim}")


def confusion(table: dict[str, Counter[str]]) -> None:
    """Print how often each planted cause was told as which."""
    told = sorted({cause for row in table.values() for cause in row})
    print(f"\n{'planted (rows), told first':28s}" + " ".join(f"{cause[:9]:>9s}" for cause in told))
    for cause, row in table.items():
        print(f"{cause:28s}" + " ".join(f"{row[name] or '.':>9}" for name in told))


def act(run: Run, finding: hp.Finding) -> tuple[float, float]:
    """Training loss after going on unchanged, and after acting on a finding, for the same budget."""
    batch = len(run.train[0][0]) if isinstance(run.train, list) else None
    plain = go_on(run, run.params, run.optimizer, run.opt_state, batch)
    params, optimizer, state = run.params, run.optimizer, run.opt_state
    if finding.cause == "oscillation":
        optimizer, state = optax.chain(optimizer, optax.scale(0.25)), (state, optax.EmptyState())
    elif finding.cause == "slow":
        factor = float(finding.experiment.split()[-1])
        optimizer, state = optax.chain(optimizer, optax.scale(factor)), (state, optax.EmptyState())
    elif finding.cause == "saddle":
        data = joined(run)
        params = hp.escape(run.loss, run.params, data).params
        state = optimizer.init(params)
    elif finding.cause == "noise":
        batch = 8 * (batch or 1)
    elif finding.cause in ("ill_conditioned", "optimization"):
        optimizer = optax.adam(1e-2)
        state = optimizer.init(params)
    else:
        return plain, plain
    return plain, go_on(run, params, optimizer, state, batch)


def joined(run: Run) -> Any:
    """All training data as one batch."""
    if isinstance(run.train, tuple):
        return run.train
    return jax.tree.map(lambda *parts: np.concatenate(parts), *run.train)


def go_on(run: Run, params: Any, optimizer: Any, state: Any, batch: int | None) -> float:
    """Train on for the budget and return the loss over all training data."""
    data = jax.tree.map(jnp.asarray, joined(run))
    count = len(data[0])
    steps = BUDGET if batch is None else BUDGET * count // (20 * batch)  # batches get five passes
    index = order(count, batch, steps, 99)

    @jax.jit
    def go(params: Any, state: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            at, inner = carry
            part = data if rows is None else jax.tree.map(lambda leaf: leaf[rows], data)
            updates, inner = optimizer.update(jax.grad(run.loss)(at, part), inner, at)
            return (optax.apply_updates(at, updates), inner), None

        (end, _), _ = jax.lax.scan(step, (params, state), index, length=None if index is not None else steps)
        return run.loss(end, data)

    value = float(go(params, state))
    return value if np.isfinite(value) else float("inf")


if __name__ == "__main__":
    sys.exit(main())
