"""What a monitor remembers, as a flat dict of NumPy arrays, and back."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from hessian_probe.training.backoff import BackoffState
from hessian_probe.training.events import MonitorCost
from hessian_probe.training.plateau import PlateauTest
from hessian_probe.training.plateau_statistics import CHUNK, KINDS, PlateauStatistics, PlateauVerdict

# Kinds of events that last.
LASTING = (*KINDS, "at_minimum")
ANCHOR = "anchor_"
Tests = dict[str, PlateauTest]  # by what their entries begin with
# In place of a verdict that is not there yet.
UNKNOWN = PlateauVerdict(-1, *[math.nan] * 5)


class MonitorState(NamedTuple):
    """What decides future events, beside the plateau test and the costs.

    Attributes:
        backoff: when to look again.
        at_minimum: whether the latest look found a minimum.
        last: kind of the latest event that was kept.
        noted: update of it.
        gain: what the latest escape brought.
        rollback_params: variables before it, for as long as it may be taken back; else empty.
    """

    backoff: BackoffState
    at_minimum: bool
    last: str
    noted: int
    gain: float
    rollback_params: tuple[np.ndarray, ...]


def to_dict(kept: MonitorState, tests: Tests, cost: MonitorCost) -> dict[str, Any]:
    """Write all of it as arrays by name."""
    numbers: dict[str, Any] = {
        "at_minimum": kept.at_minimum,
        "last": LASTING.index(kept.last),
        "noted": kept.noted,
        "gain": kept.gain,
    }
    parts: dict[str, dict[str, Any]] = {"backoff": kept.backoff._asdict(), "cost": vars(cost)}
    for of, test in tests.items():
        verdict = UNKNOWN if test.verdict is None else test.verdict
        numbers[f"{of}pending"] = np.resize([*test.pending, math.nan], CHUNK)
        parts |= {f"{of}stream": test.statistics._asdict(), f"{of}verdict": verdict._asdict()}
    for prefix, part in parts.items():
        numbers |= {f"{prefix}_{name}": value for name, value in part.items()}
    numbers |= {f"{ANCHOR}{i}": leaf for i, leaf in enumerate(kept.rollback_params)}
    return {name: np.asarray(value) for name, value in numbers.items()}


def from_dict(state: dict[str, Any], kept: MonitorState, tests: Tests, cost: MonitorCost) -> MonitorState:
    """Read it back.

    Args:
        state: what `to_dict` returned.
        kept: of a new monitor.
        tests: of a monitor of the same options; are changed.
        cost: is changed.

    Returns:
        The rest of what was kept.

    Raises:
        ValueError: an entry is missing, or the window differs.
    """
    own = to_dict(kept._replace(rollback_params=()), tests, cost)
    missing = sorted(set(own) - set(state))
    if missing:
        raise ValueError(f"the state lacks {', '.join(missing)}; was it made by Monitor.state_dict?")
    new = {name: np.asarray(state[name], held.dtype) for name, held in own.items()}
    for name, held in own.items():
        if new[name].shape != held.shape:
            raise ValueError(
                f"{name} has shape {new[name].shape}, expected {held.shape}: give the monitor the window "
                "it was saved with"
            )
    for name, value in vars(cost).items():
        setattr(cost, name, type(value)(new[f"cost_{name}"]))
    for of, test in tests.items():
        pending = list(itertools.takewhile(math.isfinite, new[f"{of}pending"].tolist()))
        verdict = PlateauVerdict(*(new[f"{of}verdict_{name}"] for name in PlateauVerdict._fields))
        statistics = PlateauStatistics(*(new[f"{of}stream_{name}"] for name in PlateauStatistics._fields))
        test.resume(statistics, pending, None if verdict.kind == UNKNOWN.kind else verdict)
    held = sum(name.startswith(ANCHOR) for name in state)
    return MonitorState(
        BackoffState(*(new[f"backoff_{name}"][()] for name in BackoffState._fields)),
        bool(new["at_minimum"]),
        LASTING[int(new["last"])],
        int(new["noted"]),
        float(new["gain"]),
        tuple(np.asarray(state[f"{ANCHOR}{i}"]) for i in range(held)),
    )
