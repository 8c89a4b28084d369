"""Kill long jobs at random times and continue them; the answer must be the uninterrupted one.

Run as `python -m benchmarks.kill` (or `make bench-kill`).  An eigenvalue search and a classification of a
network on the digits (4,810 parameters) run in processes of their own.  Each is killed by SIGINT and by
SIGKILL at random times (and again, with even odds, after it went on) until it may finish.  Exits with 1 if
any saved file is not whole, a resumed answer differs in one bit, or anything saved was lost.
"""

import contextlib
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hessian_probe as hp
from benchmarks.report import command_line, seconds
from hessian_probe.jobs.state import State, read, write
from hessian_probe.problems import digits, mlp_init, mlp_loss

JOBS = ("eigsh", "classify")
SIGNALS = ("SIGINT", "SIGKILL")
INTERRUPTED = 3
# Processes are forked from one that has imported JAX and done nothing with it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hessian_probe", "sklearn.datasets"])
SAVE_EVERY = 0.2
SEARCH: dict[str, Any] = {"lowest": 16, "highest": 16, "rtol": 1e-5, "max_basis": 80}


def problem(job: str) -> tuple[Any, Any, Any]:
    """Loss, parameters and data: a random start, or for "classify" the plateau near zero weights."""
    start = mlp_init((64, 64, 10), scale=1.0 if job == "eigsh" else 0.02)
    params, batch = jax.tree.map(jnp.float32, (start, digits()))
    return mlp_loss("tanh", "cross_entropy"), params, batch


def work(job: str, save_to: Path | None, answer: Path, teller: Any) -> int:
    """Run one job in this process and write its answer; 0, or INTERRUPTED where Ctrl-C ended it."""
    loss, params, batch = problem(job)
    began: list[float] = []

    def progress(_: str) -> None:
        if not began:
            began.append(time.monotonic())
            teller.send(True)

    saving: dict[str, Any] = {"save_to": save_to, "save_every": SAVE_EVERY, "progress": progress}
    result: Any
    if job == "eigsh":
        result = hp.eigsh(hp.hessian(loss, params, batch), **SEARCH, **saving)
        stopped = result.status == "interrupted"
    else:
        result = hp.classify(loss, params, batch, rtol=1e-6, max_hvps=2000, **saving)
        stopped = result.reasons[0] == "interrupted"
    leaves = tuple(map(np.asarray, jax.tree.leaves(result)))
    seconds = time.monotonic() - began[0] if began else 0.0
    write(answer, {"text": repr(result), "seconds": seconds, "leaves": leaves})
    return INTERRUPTED if stopped else 0


class Outcome(NamedTuple):
    """What became of one job that was killed."""

    kills: int
    saved: int
    fault: str


def start(*job: Any) -> tuple[Any, Any]:
    """Start a job in a process of its own; return it, and what tells that it has begun to search."""
    told, teller = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=in_process, args=(*job, teller), daemon=True)
    process.start()
    teller.close()
    return process, told


def in_process(*job: Any) -> None:
    """Run one job, and end with its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    with contextlib.suppress(KeyboardInterrupt):  # before anything was known
        sys.exit(work(*job))
    sys.exit(INTERRUPTED)


def searched(save_to: Path) -> int:
    """Products held in a saved file, which `read` refuses unless it is whole; 0 if there is none."""
    return sum(s["search"]["krylov"]["steps"] for s in read(save_to)["searches"]) if save_to.exists() else 0


def kill_and_resume(job: str, name: str, folder: Path, truth: State, rng: np.random.Generator) -> Outcome:
    """Kill one job at a random time, go on, maybe kill again, and compare the answer."""
    save_to, answer = folder / "job", folder / "answer"
    kills, most, longest = 0, 0, truth["seconds"]
    while True:
        process, told = start(job, save_to, answer)
        again = kills == 0 or (kills < 4 and rng.random() < 0.5)
        with contextlib.suppress(EOFError, ProcessLookupError):  # it has ended, before it searched or after
            told.recv()
            if again:
                time.sleep(rng.uniform(0.0, longest) / (1 + kills))
                os.kill(process.pid, getattr(signal, name))
        process.join()
        code = process.exitcode
        try:
            now = searched(save_to)
        except ValueError as error:
            return Outcome(kills, most, str(error))
        if now < most:
            return Outcome(kills, most, f"{most} products were saved, {now} are left")
        most = now
        if code == 0 and kills == 0:  # it was faster than the kill: once more, from the beginning
            save_to.unlink()
            most, longest = 0, 0.7 * longest
            continue
        if code == 0:
            return Outcome(kills, most, difference(truth, read(answer)))
        if code not in (INTERRUPTED, -signal.SIGKILL) or not again:
            return Outcome(kills, most, f"ended with {code}")
        kills += 1


def difference(truth: State, found: State) -> str:
    """Say in what two answers differ, or "" where every bit is the same."""
    if truth["text"] != found["text"]:
        return f"another answer:\n{found['text']}\ninstead of\n{truth['text']}"
    pairs = zip(truth["leaves"], found["leaves"], strict=True)
    return "" if all(a.tobytes() == b.tobytes() for a, b in pairs) else "the arrays differ"


def uninterrupted(job: str, answer: Path) -> State:
    """Let a job run to its end, and read its answer."""
    process, _ = start(job, None, answer)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{job} ended with {process.exitcode}")
    return read(answer)


def campaign(
    times: int, seed: int, folder: Path, jobs: tuple[str, ...] = JOBS, signals: tuple[str, ...] = SIGNALS
) -> list[str]:
    """Kill each job `times` times by each signal; print one line for each, return the faults."""
    faults = []
    for job in jobs:
        truth = uninterrupted(job, folder / f"{job}-truth")
        print(f"{job}: uninterrupted {truth['seconds']:.1f} s of searching")
        for name in signals:
            outcomes = []
            for index in range(times):
                place = folder / f"{job}-{name}-{index}"
                place.mkdir()
                rng = np.random.default_rng([seed, JOBS.index(job), SIGNALS.index(name), index])
                outcomes.append(kill_and_resume(job, name, place, truth, rng))
                print(f"  {name} {index + 1}: {outcomes[-1]}", file=sys.stderr, flush=True)
            wrong = [outcome.fault for outcome in outcomes if outcome.fault]
            kills = sum(outcome.kills for outcome in outcomes)
            print(
                f"  {name:<8} {times} jobs, {kills} kills, products saved at the end "
                f"{min(o.saved for o in outcomes)} … {max(o.saved for o in outcomes)}: "
                f"{times - len(wrong)} answers equal bit for bit, {len(wrong)} faults",
                flush=True,
            )
            faults += wrong
    return faults


def overhead(rounds: int, folder: Path) -> None:
    """Print how much longer a search takes when it is saved."""
    op = hp.hessian(*problem("eigsh"))
    ratios = []
    hp.eigsh(op, **SEARCH)
    for index in range(rounds):
        saved = partial(hp.eigsh, op, **SEARCH, save_to=folder / f"cost-{index}", save_every=0)
        ratios.append(seconds(saved) / seconds(partial(hp.eigsh, op, **SEARCH)))
    print(f"saving as often as allowed: {statistics.median(ratios):.3f} times the time (median of {rounds})")


def main() -> int:
    """Run the campaign and print."""
    parser = command_line(__doc__)
    parser.add_argument("--times", type=int, default=10, help="kills of each job by each signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", choices=JOBS, action="append")
    parser.add_argument("--signal", choices=SIGNALS, action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = tuple(options.job or JOBS), tuple(options.signal or SIGNALS)
        faults = campaign(options.times, options.seed, Path(folder), *chosen)
        overhead(5, Path(folder))
    print(*(f"FAULT {fault}" for fault in faults), f"{len(faults)} faults", sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
