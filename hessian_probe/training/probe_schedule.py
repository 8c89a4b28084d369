"""When a monitor looks, and when it takes an escape back: the rules of `training.pacing` on the host."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, cast, merge, split
from hessian_probe.training import backoff
from hessian_probe.training.early_schedule import scheduled
from hessian_probe.training.events import MonitorCost
from hessian_probe.training.monitor_state import MonitorState
from hessian_probe.training.plateau import PlateauTest
from hessian_probe.training.plateau_statistics import KINDS, NOISY
from hessian_probe.training.probe_result import ProbeResult


class ProbeSchedule:
    """The looks of one monitor.

    Args:
        test: its plateau test, which an escape starts anew.
        cost: its costs, in which steps are counted, and here escapes and returns.
        max_share: share of the run's gradients that looks in vain may cost.

    Attributes:
        kept: what is remembered.
    """

    def __init__(self, test: PlateauTest, cost: MonitorCost, max_share: float) -> None:
        self._test, self._cost, self._max_share = test, cost, max_share
        self.kept = MonitorState(
            _scalars(backoff.new_backoff(np, test.window, np.float64)), False, "none", 0, 0.0, ()
        )

    def notice_progress(self) -> None:
        """Let pauses start anew once the loss has left the plateau of the last look, and escapes stand."""
        kept, test = self.kept, self._test
        if not test.fresh or not (kept.rollback_params or math.isfinite(kept.backoff.level)):
            return
        new = _scalars(backoff.after_progress(np, kept.backoff, self._steps, test.level, test.window))
        rollback_params = kept.rollback_params if new.rollback_threshold < np.inf else ()
        same = kept.at_minimum and new.level == kept.backoff.level
        self.kept = kept._replace(backoff=new, at_minimum=bool(same), rollback_params=rollback_params)

    def is_stalled(self, kind: str) -> bool | None:
        """Whether the look that is due is an early one; None where none is due."""
        kept, test, steps = self.kept, self._test, self._cost.num_steps
        if steps < kept.backoff.cooldown_until:
            return None
        if backoff.is_stalled(KINDS.index(kind)) and steps >= kept.backoff.next_probe:
            return False
        if test.pending or test.broken or kept.at_minimum:
            return None
        count = int(test.statistics.count)
        return True if count % test.every == 0 and scheduled(count, test.every) else None

    def affords(self, price: float) -> bool:
        """Whether an early look is within the share."""
        noisy = self._test.statistics.kind == NOISY
        return bool(backoff.within_budget(np, self._steps, self.kept.backoff, price, self._max_share, noisy))

    def after(self, found: ProbeResult, params: PyTree, early: bool) -> None:
        """Set the next look: soon after an escape, later and later where there was nothing."""
        kept, verdict = self.kept, self._test.verdict
        if found.escape is not None and found.escape.status == "escaped":
            self._escaped(found, params)
            return
        at_minimum = found.point is not None and found.point.label == "minimum"
        new = backoff.after_probe(
            np,
            kept.backoff,
            self._steps,
            fruitless=True,
            waits=not early,
            hopeless=at_minimum,
            cost=found.cost,
            price=found.cost,
            level=self._test.level,
            scale=np.nan if verdict is None else max(abs(float(verdict.fall)), float(verdict.noise)),
            max_share=self._max_share,
        )
        self.kept = kept._replace(backoff=_scalars(new), at_minimum=at_minimum and not early)

    def _escaped(self, found: ProbeResult, params: PyTree) -> None:
        assert found.escape is not None
        gain, before, window = found.gain, found.escape.loss_before, self._test.window
        new = backoff.after_escape(np, self.kept.backoff, self._steps, True, before, gain, window)
        rollback_params = tuple(np.asarray(leaf) for leaf in split(params)[1])
        new = _scalars(new)
        self.kept = self.kept._replace(
            backoff=new, at_minimum=False, gain=gain, rollback_params=rollback_params
        )
        self._cost.num_escapes += 1
        self._test.restart(gain)

    def exceeds_threshold(self, value: float) -> bool:
        """Whether a loss is where the latest escape may have to be taken back."""
        return bool(backoff.exceeds_threshold(self.kept.backoff, value))

    def with_rollback_params(self, params: PyTree) -> PyTree:
        """Put the variables before the latest escape into the parameters' place."""
        layout, _, rest = split(params)
        before = tuple(jnp.asarray(leaf) for leaf in self.kept.rollback_params)
        return merge(layout, cast(before, layout.dtypes), rest)

    def roll_back(self, value: float) -> str:
        """Keep the hands off after an escape that led nowhere; say why."""
        new = self.kept.backoff
        back = _scalars(backoff.after_rollback(np, new, self._steps, self._test.window))
        self.kept = self.kept._replace(backoff=back, at_minimum=False, gain=0.0, rollback_params=())
        self._cost.num_rollbacks += 1
        self._test.restart()
        return (
            f"the loss is {value:.5g}, above {float(new.rollback_threshold):.5g}: the escape at update "
            f"{int(new.last_step)} is taken back; no look before update {self.next_probe}"
        )

    @property
    def next_probe(self) -> int:
        """Update before which nothing is looked at because the loss is flat or slow."""
        return math.ceil(max(self.kept.backoff.next_probe, self.kept.backoff.cooldown_until))

    @property
    def _steps(self) -> np.int64:
        return np.int64(self._cost.num_steps)


def _scalars(state: backoff.BackoffState) -> backoff.BackoffState:
    """Make scalars of arrays without axes, which are slower to compare."""
    return backoff.BackoffState(*(np.asarray(field)[()] for field in state))
