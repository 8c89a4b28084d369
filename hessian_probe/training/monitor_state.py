"""The state of a monitor, as nested dicts of NumPy arrays (see `jobs.state`), and back."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from hessian_probe.jobs.state import State, snapshot
from hessian_probe.training.backoff import BackoffState
from hessian_probe.training.events import MonitorCost
from hessian_probe.training.plateau import PlateauTest
from hessian_probe.training.plateau_statistics import CHUNK, KINDS, PlateauStatistics, PlateauVerdict

# Kinds of events that last.
LASTING = (*KINDS, "at_minimum")
Tests = dict[str, PlateauTest]  # by name in the state
# In place of a verdict that is not there yet.
UNKNOWN = PlateauVerdict(-1, *[math.nan] * 5)


class MonitorState(NamedTuple):
    """What decides future events, beside the plateau tests and the costs.

    Attributes:
        backoff: when to probe again.
        at_minimum: whether the latest probe found a minimum.
        last: kind of the latest event that was recorded.
        noted: update of it.
        gain: decrease of the loss by the latest escape.
        rollback_params: variables before it, for as long as it may be taken back; else empty.
    """

    backoff: BackoffState
    at_minimum: bool
    last: str
    noted: int
    gain: float
    rollback_params: tuple[np.ndarray, ...]


def to_dict(state: MonitorState, tests: Tests, cost: MonitorCost) -> State:
    """Write all of it as nested dicts of arrays."""
    own: State = {
        "at_minimum": state.at_minimum,
        "last": LASTING.index(state.last),
        "noted": state.noted,
        "gain": state.gain,
        "backoff": state.backoff._asdict(),
        "cost": {name: value for name, value in vars(cost).items() if value is not None},
        "rollback_params": {str(index): leaf for index, leaf in enumerate(state.rollback_params)},
    }
    for name, test in tests.items():
        verdict = UNKNOWN if test.verdict is None else test.verdict
        own[name] = {
            "pending": np.resize([*test.pending, math.nan], CHUNK),
            "statistics": test.statistics._asdict(),
            "verdict": verdict._asdict(),
        }
    return snapshot(jax.tree.map(np.asarray, own))


def from_dict(saved: State, state: MonitorState, tests: Tests, cost: MonitorCost) -> MonitorState:
    """Read it back.

    Args:
        saved: what `to_dict` returned; lists and numbers instead of arrays are fine.
        state: of a new monitor.
        tests: of a monitor of the same options; are changed.
        cost: is changed.

    Returns:
        The rest of what was saved.

    Raises:
        ValueError: an entry is missing, or the window differs.
    """
    own = to_dict(state, tests, cost)
    own.pop("rollback_params")
    new = _like(own, saved, ())
    for name, value in new["cost"].items():
        setattr(cost, name, type(getattr(cost, name))(value))
    for name, test in tests.items():
        part = new[name]
        pending = list(itertools.takewhile(math.isfinite, part["pending"].tolist()))
        verdict = PlateauVerdict(**part["verdict"])
        unknown = verdict.kind == UNKNOWN.kind
        test.resume(PlateauStatistics(**part["statistics"]), pending, None if unknown else verdict)
    leaves = saved.get("rollback_params", {})
    return MonitorState(
        BackoffState(**{name: value[()] for name, value in new["backoff"].items()}),
        bool(new["at_minimum"]),
        LASTING[int(new["last"])],
        int(new["noted"]),
        float(new["gain"]),
        tuple(np.asarray(leaves[str(index)]) for index in range(len(leaves))),
    )


def _like(own: Any, saved: Any, path: tuple[str, ...]) -> Any:
    """Read saved values as arrays of the dtypes of `own`, and refuse other names and shapes."""
    name = ".".join(path)
    if isinstance(own, dict):
        missing = sorted(set(own) - set(saved))
        if missing:
            where = f"{name} lacks" if name else "the state lacks"
            raise ValueError(f"{where} {', '.join(missing)}; was it made by Monitor.state_dict?")
        return {key: _like(part, saved[key], (*path, key)) for key, part in own.items()}
    array = np.asarray(saved, own.dtype)
    if array.shape != own.shape:
        raise ValueError(
            f"{name} has shape {array.shape}, expected {own.shape}: give the monitor the window it was saved "
            "with"
        )
    return array
