"""What a monitor remembers, as nested dicts too, and when it probes: the rules of `backoff` on the host."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, cast, merge, split
from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.jobs.state import State, snapshot
from hessian_probe.results import Cost
from hessian_probe.training import backoff
from hessian_probe.training.plateau import PlateauTest
from hessian_probe.training.plateau_statistics import KINDS, PlateauStatistics, PlateauVerdict
from hessian_probe.training.probe import ProbeResult
from hessian_probe.training.thresholds import SWINGS

# Kinds of events that last.
LASTING = (*KINDS, "at_minimum")


class MonitorState:
    """What decides future events; made by `Monitor`.

    Args:
        test: the plateau test of the loss, which an escape restarts.
        gradient_test: that of the gradient's norm.
        cost: the monitor's ledger.
        max_share: share of the run's gradients that probes without a result may cost.
        trainable: which leaves are varied.

    Attributes:
        num_steps: updates seen.
        num_probes: probes made.
        num_escapes: escapes accepted.
        num_rollbacks: escapes that were taken back, because training could not continue from there.
        seconds: time in `update`, compilation included.
        probe_seconds: the part of it spent on probes.
        backoff: when to probe again.
        at_minimum: whether the latest probe found a minimum.
        left: what is left to gain there, in loss units; NaN before the first minimum.
        reach: distance within which that was estimated, in params.
        last: kind of the latest event that was recorded.
        noted: update of it.
        gain: decrease of the loss by the latest escape.
        rollback_params: variables before it, for as long as it may be taken back; else empty.
    """

    def __init__(
        self, test: PlateauTest, gradient_test: PlateauTest, cost: Cost, max_share: float, trainable: Any
    ) -> None:
        self._test, self._cost, self._max_share, self._trainable = test, cost, max_share, trainable
        self._tests = {"loss": test, "grad_norm": gradient_test}
        self.num_steps = self.num_probes = self.num_escapes = self.num_rollbacks = 0
        self.seconds = self.probe_seconds = self.gain = 0.0
        self.left = self.reach = math.nan
        self.backoff = _scalars(backoff.new_backoff(np, test.window, np.float64))
        self.at_minimum, self.last, self.noted = False, "none", 0
        self.rollback_params: tuple[np.ndarray, ...] = ()

    def notice_progress(self) -> None:
        """Where the loss was judged, let old escapes stand, and end the backoff if it falls as it should."""
        if not self._test.fresh:
            return
        falls = self._test.kind == "none"
        self.backoff = _scalars(self.backoff.after_judgement(self._steps, falls, self._test.window))
        if not backoff.awaits_rollback(self.backoff):
            self.rollback_params = ()
        self.at_minimum = self.at_minimum and not falls

    def due(self, kind: str) -> bool:
        """Whether a probe is due."""
        test = self._test
        if self.num_steps < self.backoff.next_probe or test.pending:
            return False
        return bool(backoff.asks_for_search(KINDS.index(kind), test.count, test.chunk))

    @property
    def least(self) -> float:
        """Least gain of an escape, in loss units."""
        test = self._test
        return float(backoff.least_gain(np, test.verdict, test.count / (2 * test.window)))

    def after(self, found: ProbeResult, params: PyTree) -> None:
        """Set the next probe: soon after an escape, later and later where nothing was found."""
        self.num_probes += 1
        if found.escape is not None and found.escape.status == "escaped":
            self._escaped(found.escape.loss_before, found.gain, params)
            return
        point = found.point
        at_minimum = point is not None and point.label == "minimum"
        if point is not None and at_minimum:
            self.left, self.reach = float(point.gain), float(point.reach)
        new = self.backoff.after_probe(
            self._steps, fruitless=True, hopeless=at_minimum, cost=found.price, max_share=self._max_share
        )
        self.backoff, self.at_minimum = _scalars(new), at_minimum

    def _escaped(self, before: float, gain: float, params: PyTree) -> None:
        window = self._test.window
        new = self.backoff.after_escape(self._steps, True, before, gain, window)
        self.backoff, self.at_minimum, self.gain = _scalars(new), False, gain
        self.rollback_params = tuple(np.asarray(leaf) for leaf in split(params, trainable=self._trainable)[1])
        self.num_escapes += 1
        self._test.restart(gain)

    def exceeds_threshold(self, value: float) -> bool:
        """Whether a loss is so high that the latest escape may have to be taken back."""
        return bool(backoff.exceeds_threshold(self.backoff, value))

    def with_rollback_params(self, params: PyTree) -> PyTree:
        """Put the variables before the latest escape into the parameters' place."""
        layout, _, rest = split(params, trainable=self._trainable)
        before = tuple(jnp.asarray(leaf) for leaf in self.rollback_params)
        return merge(layout, cast(before, layout.dtypes), rest)

    def roll_back(self, value: float) -> EscapeReason:
        """Start a cooldown after an escape that failed; say why."""
        old = self.backoff
        self.backoff = _scalars(old.after_rollback(self._steps, True, self._test.window))
        self.at_minimum, self.gain, self.rollback_params = False, 0.0, ()
        self.num_rollbacks += 1
        self._test.restart()
        threshold, update = float(old.rollback_threshold), int(old.last_step)
        return EscapeReason(
            "rolled_back", value=value, threshold=threshold, update=update, next=self.next_probe
        )

    @property
    def next_probe(self) -> int:
        """Update before which no probe is made because the loss is flat or slow."""
        return math.ceil(self.backoff.next_probe)

    @property
    def _steps(self) -> np.int64:
        return np.int64(self.num_steps)

    def _numbers(self) -> State:
        """Attributes that are saved as they are: counts, times, marks and the gain."""
        public = ((name, value) for name, value in vars(self).items() if not name.startswith("_"))
        return {name: value for name, value in public if isinstance(value, int | float)}

    def to_dict(self) -> State:
        """Write this, both tests and the costs as nested dicts of arrays (see `jobs.state`)."""
        own: State = self._numbers() | {
            "last": LASTING.index(self.last),
            "backoff": self.backoff._asdict(),
            "cost": {name: value for name, value in vars(self._cost).items() if name != "wholes"},
            "rollback_params": {str(index): leaf for index, leaf in enumerate(self.rollback_params)},
        }
        for name, test in self._tests.items():
            unset = [math.nan] * max(test.window, SWINGS)
            own[name] = {
                "pending": np.resize(test.pending, test.window),
                "recent": np.resize([*test.recent, *unset], len(unset)),
                "statistics": test.statistics._asdict(),
                "verdict": test.verdict._asdict(),
            }
        return snapshot(jax.tree.map(np.asarray, own))

    def from_dict(self, saved: State) -> None:
        """Read it back, into this, the tests and the costs.

        Args:
            saved: what `to_dict` of a monitor with the same options returned; lists and numbers instead of
                arrays are fine.

        Raises:
            ValueError: an entry is missing, or the window differs.
        """
        own = self.to_dict()
        own.pop("rollback_params")
        new = _like(own, saved, ())
        for owner, names, values in ((self, self._numbers(), new), (self._cost, new["cost"], new["cost"])):
            for name in names:
                setattr(owner, name, type(getattr(owner, name))(values[name]))
        for name, test in self._tests.items():
            part = new[name]
            recent = list(itertools.takewhile(math.isfinite, part["recent"].tolist()))
            statistics, verdict = PlateauStatistics(**part["statistics"]), PlateauVerdict(**part["verdict"])
            test.resume(statistics, verdict, recent, int(part["pending"][0]))
        self.last = LASTING[int(new["last"])]
        self.backoff = _scalars(backoff.BackoffState(**new["backoff"]))
        leaves = saved.get("rollback_params", {})
        self.rollback_params = tuple(np.asarray(leaves[str(index)]) for index in range(len(leaves)))


def _scalars(state: backoff.BackoffState) -> backoff.BackoffState:
    """Make scalars of arrays without axes, which are slower to compare."""
    return backoff.BackoffState(*(np.asarray(field)[()] for field in state))


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
