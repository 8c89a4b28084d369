"""Long jobs that can be stopped at any moment and continued to the same answer.

A job is a sequence of searches, each with a state that can be saved.  The file holds the states of the
searches that are done and of the one in progress; what happens between searches is computed again when a
job is continued.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessian_probe
from hessian_probe.arrays import generator, random_normal
from hessian_probe.jobs.interrupt import uninterrupted
from hessian_probe.jobs.state import CheckpointError, State, random_state, read, snapshot, write
from hessian_probe.operators.data import Batch, Data
from hessian_probe.operators.symmetric import SymmetricOperator

# The next save waits at least this number of times the duration of the last one: below 2 % of the time.
REST = 50.0
AGAIN = "resume=False starts over"
Source = str | os.PathLike[str]


@dataclasses.dataclass
class Saving:
    """Where a job is saved, how often, and what it continues from; the arguments of a caller.

    Attributes:
        save_to: file, or None.
        save_every: seconds between two saves.
        resume: True continues from `save_to` if there is such a file; a path continues from that file;
            False starts over.
    """

    save_to: Source | None = None
    save_every: float = 30.0
    resume: bool | Source = True

    def __post_init__(self) -> None:
        if isinstance(self.save_every, bool) or not isinstance(self.save_every, int | float):
            raise TypeError(f"save_every={self.save_every!r}; expected seconds, a number")
        if not self.save_every >= 0:
            raise ValueError(f"save_every={self.save_every}; expected seconds, at least 0")
        if self.save_to is not None and not Path(self.save_to).absolute().parent.is_dir():
            raise ValueError(f"save_to={str(self.save_to)!r}: there is no folder {Path(self.save_to).parent}")

    @property
    def source(self) -> Path | None:
        """File to continue from, or None."""
        if isinstance(self.resume, bool):
            here = self.resume and self.save_to is not None and Path(self.save_to).exists()
            return Path(self.save_to) if here and self.save_to is not None else None
        path = Path(self.resume)
        if not path.exists():
            raise ValueError(f"resume={str(path)!r}: there is no such file")
        return path


class Job:
    """One job: its searches in their order, saved and continued.

    Args:
        kind: function that the job belongs to, "eigsh" for instance.
        op: operator of the problem.
        options: what was asked, except budgets, which may be raised when a job is continued.
        saving: where and how often.

    Raises:
        CheckpointError: the file to continue from is damaged, or of another job; the message says which.
    """

    def __init__(self, kind: str, op: SymmetricOperator, options: dict[str, Any], saving: Saving) -> None:
        self._every = saving.save_every
        self._path = None if saving.save_to is None else Path(saving.save_to)
        self._saved: list[State] = []
        self._done: list[State] = []
        self._start, self._begun = "", False
        self._failed = False
        source = saving.source
        if self._path is not None or source is not None:
            self._header = {"kind": kind, **_described(op, options)}
        if source is not None:
            self._saved = _open(source, self._header)
        self._cost, self._last = 0.0, time.monotonic()

    def begin(self, op: SymmetricOperator, rng: np.random.Generator) -> State | None:
        """Begin the next search of an operator; the saved state of this very search, or None."""
        self._begun = True
        if self._path is None and not self._saved:
            return None
        self._start = f"{digest(op.x)} {digest([np.frombuffer(random_state(rng).encode(), np.uint8)])}"
        if not self._saved or self._saved[0]["start"] != self._start:
            self._saved = []  # what came before has changed, and with it all that follows
            return None
        found: State = self._saved.pop(0)["search"]
        return found

    def offer(self, state: Callable[[], State]) -> None:
        """Save the search in progress if it is time to."""
        waited = time.monotonic() - self._last
        if self._path is not None and waited >= max(self._every, REST * self._cost):
            self.save(state)

    def save(self, state: Callable[[], State]) -> None:
        """Save now: the searches that are done, and the one in progress, if there is one."""
        self._write(state if self._begun else None)

    def finish(self, state: Callable[[], State]) -> None:
        """Record the state of a search that is done, and save."""
        if self._path is not None:
            self._done.append(self._marked(state))
            self._begun = False
            self._write()

    def reopen(self) -> None:
        """Continue the last search after all."""
        self._done, self._begun = self._done[:-1], True

    def _marked(self, state: Callable[[], State]) -> State:
        return {"start": self._start, "search": snapshot(state())}

    def _write(self, state: Callable[[], State] | None = None) -> None:
        if self._path is None:
            return
        began = time.monotonic()
        with uninterrupted():
            current = [] if state is None else [self._marked(state)]
            # States of later searches, read from a file, stay in it until those searches begin.
            searches = [*self._done, *current, *self._saved]
            try:
                write(self._path, {**self._header, "searches": searches})
            except OSError as error:  # a full disk must not end the job itself
                if not self._failed:
                    warnings.warn(f"the job could not be saved to {self._path}: {error}", stacklevel=2)
                self._failed = True
        self._last = time.monotonic()
        self._cost = self._last - began


def _described(op: SymmetricOperator, options: dict[str, Any]) -> State:
    """Versions, problem and options: what must be the same when a job is continued."""
    version = {"hessian_probe": hessian_probe.__version__, "jax": jax.__version__}
    plain = {name: _plain(value) for name, value in options.items()}
    return {"version": version, "problem": fingerprint(op), "options": plain}


def _plain(option: Any) -> Any:
    """An option that can be saved and compared: arrays by their digest."""
    if option is None or isinstance(option, bool | int | float | str):
        return option
    return digest(jax.tree.leaves(option))


def _open(path: Path, here: State) -> list[State]:
    """Read the states of a job's searches, if it is the job described."""
    saved = read(path)
    if saved["kind"] != here["kind"]:
        raise CheckpointError(
            f"{path} was saved by hp.{saved['kind']}, this is hp.{here['kind']}; give another path, or "
            f"{AGAIN}"
        )
    _compare(path, saved, here)
    return list(saved["searches"])


def _compare(path: Path, saved: State, here: State) -> None:
    """Refuse another job, with the first thing that differs."""
    for name, version in here["version"].items():
        if saved["version"].get(name) != version:
            raise CheckpointError(
                f"{path} was saved with {name} {saved['version'].get(name)}, this is {version}, whose answer "
                f"may differ: use that version, or {AGAIN}"
            )
    mine, other = here["problem"], saved["problem"]
    for name, what in (
        ("layout", "parameters of other names, shapes or dtypes"),
        ("params", "parameters of other values"),
        ("loss", "another loss, or one that closes over other values"),
        ("data", "other data"),
    ):
        if mine[name] != other[name]:
            raise CheckpointError(f"{path} was saved for {what}; give it those, or another path, or {AGAIN}")
    for name, value in here["options"].items():
        if saved["options"].get(name) != value:
            raise CheckpointError(
                f"{path} was saved with {name}={saved['options'].get(name)}, this call has {value}; use the "
                f"same, or another path, or {AGAIN}"
            )


# What makes two problems the same ------------------------------------------------------------


def digest(arrays: Iterable[Any]) -> str:
    """Digest of arrays with their dtypes and shapes (random keys by their bits)."""
    total = hashlib.blake2b(digest_size=16)
    for leaf in arrays:
        keys = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        array = np.asarray(jax.random.key_data(leaf) if keys else leaf)
        total.update(f"{array.dtype.name}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def fingerprint(op: SymmetricOperator) -> State:
    """Describe the problem that an operator belongs to, by one pass over its data and parameters.

    Returns:
        What is compared; a map that is not made of one loss is known by its product with a random vector.
    """
    layout, objective = op.layout, getattr(op, "objective", None)
    structure = re.sub(r"0x[0-9a-f]+", "", str(layout.treedef))
    probe = () if objective else op.product(random_normal(generator(), layout))
    return {
        "layout": (structure, layout.names, layout.shapes, layout.dtypes),
        "params": digest((*op.x, *op.non_variables)),
        "loss": objective.loss.fingerprint if objective else digest(probe),
        "data": _data_fingerprint(objective.data) if objective else {},
    }


def _data_fingerprint(data: Data) -> State:
    """Fingerprint of the data; of a loader that may shuffle, what no shuffling changes."""
    if data.source is None:
        return {}
    if not data.is_sequence or isinstance(data.source, list):
        return {"prints": tuple(digest((*batch.arrays, np.float64(batch.weight))) for batch in data)}
    batches = list(map(_sum_of_samples, data))
    weights = tuple(getattr(data.source, "weights", ()))
    return {"batches": len(batches), "samples": sum(batches) % 2**128, "weights": weights}


def _sum_of_samples(batch: Batch) -> int:
    """Sum of the digests of a batch's samples: the same in any order, in any batches."""
    leaves = [np.asarray(leaf) for leaf in batch.arrays if np.ndim(leaf)]
    count = len(leaves[0]) if leaves else 0
    rows = [leaf for leaf in leaves if len(leaf) == count]
    return sum(int(digest(leaf[index] for leaf in rows), 16) for index in range(count))
