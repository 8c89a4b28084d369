"""When a monitor probes, and when it takes an escape back: the rules of `training.backoff` on the host."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, cast, merge, split
from hessian_probe.training import backoff
from hessian_probe.training.backoff import scheduled
from hessian_probe.training.events import MonitorCost
from hessian_probe.training.monitor_state import MonitorState
from hessian_probe.training.plateau import PlateauTest
from hessian_probe.training.plateau_statistics import KINDS, NOISY
from hessian_probe.training.probe import ProbeResult


class ProbeSchedule:
    """The probes of one monitor.

    Args:
        test: its plateau test, which an escape restarts.
        cost: its costs, in which steps are counted, and here escapes and rollbacks.
        max_share: share of the run's gradients that probes without a result may cost.

    Attributes:
        state: what is remembered.
    """

    def __init__(self, test: PlateauTest, cost: MonitorCost, max_share: float) -> None:
        self._test, self._cost, self._max_share = test, cost, max_share
        self.state = MonitorState(
            _scalars(backoff.new_backoff(np, test.window, np.float64)), False, "none", 0, 0.0, ()
        )

    def notice_progress(self) -> None:
        """End the backoff once the loss has left the plateau of the last probe, and let old escapes stand."""
        state, test = self.state, self._test
        if not test.fresh or not (state.rollback_params or math.isfinite(state.backoff.level)):
            return
        new = _scalars(backoff.after_progress(np, state.backoff, self._steps, test.level, test.window))
        rollback_params = state.rollback_params if new.rollback_threshold < np.inf else ()
        same = state.at_minimum and new.level == state.backoff.level
        self.state = state._replace(backoff=new, at_minimum=bool(same), rollback_params=rollback_params)

    def due(self, kind: str) -> str | None:
        """Return the probe that is due: "full" at a plateau, "quick" by the schedule; None for none."""
        state, test, steps = self.state, self._test, self._cost.num_steps
        if steps < state.backoff.cooldown_until:
            return None
        if backoff.is_stalled(KINDS.index(kind)) and steps >= state.backoff.next_probe:
            return "full"
        if test.pending or test.broken or state.at_minimum:
            return None
        count = int(test.statistics.count)
        return "quick" if count % test.every == 0 and scheduled(count, test.every) else None

    def affords(self, price: float) -> bool:
        """Whether a quick probe is within the share."""
        noisy = self._test.statistics.kind == NOISY
        return bool(backoff.within_budget(np, self._steps, self.state.backoff, price, self._max_share, noisy))

    def after(self, found: ProbeResult, params: PyTree, quick: bool) -> None:
        """Set the next probe: soon after an escape, later and later where nothing was found."""
        state, verdict = self.state, self._test.verdict
        if found.escape is not None and found.escape.status == "escaped":
            self._escaped(found, params)
            return
        at_minimum = found.point is not None and found.point.label == "minimum"
        new = backoff.after_probe(
            np,
            state.backoff,
            self._steps,
            fruitless=True,
            waits=not quick,
            hopeless=at_minimum,
            cost=found.price,
            price=found.price,
            level=self._test.level,
            scale=np.nan if verdict is None else max(abs(float(verdict.fall)), float(verdict.noise)),
            max_share=self._max_share,
        )
        self.state = state._replace(backoff=_scalars(new), at_minimum=at_minimum and not quick)

    def _escaped(self, found: ProbeResult, params: PyTree) -> None:
        assert found.escape is not None
        gain, before, window = found.gain, found.escape.loss_before, self._test.window
        new = backoff.after_escape(np, self.state.backoff, self._steps, True, before, gain, window)
        rollback_params = tuple(np.asarray(leaf) for leaf in split(params)[1])
        self.state = self.state._replace(
            backoff=_scalars(new), at_minimum=False, gain=gain, rollback_params=rollback_params
        )
        self._cost.num_escapes += 1
        self._test.restart(gain)

    def exceeds_threshold(self, value: float) -> bool:
        """Whether a loss is so high that the latest escape may have to be taken back."""
        return bool(backoff.exceeds_threshold(self.state.backoff, value))

    def with_rollback_params(self, params: PyTree) -> PyTree:
        """Put the variables before the latest escape into the parameters' place."""
        layout, _, rest = split(params)
        before = tuple(jnp.asarray(leaf) for leaf in self.state.rollback_params)
        return merge(layout, cast(before, layout.dtypes), rest)

    def roll_back(self, value: float) -> str:
        """Start a cooldown after an escape that failed; say why."""
        old = self.state.backoff
        new = _scalars(backoff.after_rollback(np, old, self._steps, self._test.window))
        self.state = self.state._replace(backoff=new, at_minimum=False, gain=0.0, rollback_params=())
        self._cost.num_rollbacks += 1
        self._test.restart()
        return (
            f"the loss is {value:.5g}, above {float(old.rollback_threshold):.5g}: the escape at update "
            f"{int(old.last_step)} is taken back; no probe before update {self.next_probe}"
        )

    @property
    def next_probe(self) -> int:
        """Update before which no probe is made because the loss is flat or slow."""
        return math.ceil(max(self.state.backoff.next_probe, self.state.backoff.cooldown_until))

    @property
    def _steps(self) -> np.int64:
        return np.int64(self._cost.num_steps)


def _scalars(state: backoff.BackoffState) -> backoff.BackoffState:
    """Make scalars of arrays without axes, which are slower to compare."""
    return backoff.BackoffState(*(np.asarray(field)[()] for field in state))
