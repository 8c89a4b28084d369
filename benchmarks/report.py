"""What the measurements share: options of the command line, several processes, observed frequencies."""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, NamedTuple

import jax
from scipy.stats import beta, binom


def command_line(doc: str | None, *, seeds: int = 0, only: str = "") -> argparse.ArgumentParser:
    """A parser of options whose help is a module's docstring; with a number of seeds, and a part of names."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds:
        parser.add_argument("--seeds", type=int, default=seeds, help="number of seeds")
    if only:
        parser.add_argument("--only", default="", help=f"{only} whose name contains this")
    return parser


def seconds(function: Callable[[], Any]) -> float:
    """Time one call, its result waited for."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def in_processes(calls: Iterable[tuple[Callable[..., Any], *tuple[Any, ...]]], workers: int) -> Iterator[Any]:
    """Results of calls, each a function and its arguments, in processes of their own, as they are done."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # threads of several processes wait for another
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        for job in as_completed([pool.submit(*call) for call in calls]):
            yield job.result()


class Share(NamedTuple):
    """How often something happened, of how many."""

    count: int
    total: int

    def interval(self) -> tuple[float, float]:
        """95 % interval (Clopper and Pearson 1934)."""
        k, n = self.count, self.total
        low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
        high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
        return low, high

    def __str__(self) -> str:
        if not self.total:
            return "none drawn"
        low, high = self.interval()
        return f"{self.count / self.total:6.1%} ({low:.1%} to {high:.1%}, {self.total} draws)"

    def percent(self) -> str:
        """The interval alone, for shares near zero."""
        low, high = self.interval()
        return f"{100 * low:.2f} … {100 * high:.2f} %"

    def within(self, doubt: float) -> bool:
        """Whether a true frequency of ``doubt`` makes no fewer, but in one of 1,000 such tables."""
        return self.count <= int(binom.ppf(0.999, self.total, doubt))
