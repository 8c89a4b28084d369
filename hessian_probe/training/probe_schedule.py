"""When a monitor looks, and when it takes an escape back: the rules of `training.pacing` on the host."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, cast, merge, split
from hessian_probe.training import backoff
from hessian_probe.training.early_schedule import scheduled
from hessian_probe.training.events import Cost
from hessian_probe.training.monitor_state import Kept
from hessian_probe.training.plateau import PlateauTest
from hessian_probe.training.plateau_statistics import KINDS, NOISY
from hessian_probe.training.probe_result import Finding


class Schedule:
    """The looks of one monitor.

    Args:
        test: its plateau test, which an escape starts anew.
        cost: its costs, in which steps are counted, and here escapes and returns.
        max_share: share of the run's gradients that looks in vain may cost.

    Attributes:
        kept: what is remembered.
    """

    def __init__(self, test: PlateauTest, cost: Cost, max_share: float) -> None:
        self._test, self._cost, self._max_share = test, cost, max_share
        self.kept = Kept(_scalars(backoff.new_pace(np, test.window, np.float64)), False, "none", 0, 0.0, ())

    def notice_progress(self) -> None:
        """Let pauses start anew once the loss has left the plateau of the last look, and escapes stand."""
        kept, test = self.kept, self._test
        if not test.fresh or not (kept.anchor or math.isfinite(kept.pace.level)):
            return
        pace = _scalars(backoff.after_progress(np, kept.pace, self._steps, test.level, test.window))
        anchor = kept.anchor if pace.ceiling < np.inf else ()
        same = kept.at_minimum and pace.level == kept.pace.level
        self.kept = kept._replace(pace=pace, at_minimum=bool(same), anchor=anchor)

    def asks(self, kind: str) -> bool | None:
        """Whether the look that is due is an early one; None where none is due."""
        kept, test, steps = self.kept, self._test, self._cost.num_steps
        if steps < kept.pace.hands_off:
            return None
        if backoff.asks(KINDS.index(kind)) and steps >= kept.pace.next_look:
            return False
        if test.pending or test.broken or kept.at_minimum:
            return None
        count = int(test.stream.count)
        return True if count % test.every == 0 and scheduled(count, test.every) else None

    def affords(self, price: float) -> bool:
        """Whether an early look is within the share."""
        noisy = self._test.stream.kind == NOISY
        return bool(backoff.affordable(np, self._steps, self.kept.pace, price, self._max_share, noisy))

    def after(self, found: Finding, params: PyTree, early: bool) -> None:
        """Set the next look: soon after an escape, later and later where there was nothing."""
        kept, verdict = self.kept, self._test.verdict
        if found.escape is not None and found.escape.status == "escaped":
            self._escaped(found, params)
            return
        at_minimum = found.point is not None and found.point.label == "minimum"
        pace = backoff.after_look(
            np,
            kept.pace,
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
        self.kept = kept._replace(pace=_scalars(pace), at_minimum=at_minimum and not early)

    def _escaped(self, found: Finding, params: PyTree) -> None:
        assert found.escape is not None
        gain, before, window = found.gain, found.escape.loss_before, self._test.window
        pace = backoff.after_escape(np, self.kept.pace, self._steps, True, before, gain, window)
        anchor = tuple(np.asarray(leaf) for leaf in split(params)[1])
        pace = _scalars(pace)
        self.kept = self.kept._replace(pace=pace, at_minimum=False, gain=gain, anchor=anchor)
        self._cost.num_escapes += 1
        self._test.restart(gain)

    def alarms(self, value: float) -> bool:
        """Whether a loss is where the latest escape may have to be taken back."""
        return bool(backoff.above(self.kept.pace, value))

    def anchored(self, params: PyTree) -> PyTree:
        """Put the variables before the latest escape into the parameters' place."""
        layout, _, rest = split(params)
        before = tuple(jnp.asarray(leaf) for leaf in self.kept.anchor)
        return merge(layout, cast(before, layout.dtypes), rest)

    def step_back(self, value: float) -> str:
        """Keep the hands off after an escape that led nowhere; say why."""
        pace = self.kept.pace
        back = _scalars(backoff.after_return(np, pace, self._steps, self._test.window))
        self.kept = self.kept._replace(pace=back, at_minimum=False, gain=0.0, anchor=())
        self._cost.num_returns += 1
        self._test.restart()
        return (
            f"the loss is {value:.5g}, above {float(pace.ceiling):.5g}: the escape at update "
            f"{int(pace.last_step)} is taken back; no look before update {self.next_look}"
        )

    @property
    def next_look(self) -> int:
        """Update before which nothing is looked at because the loss is flat or slow."""
        return math.ceil(max(self.kept.pace.next_look, self.kept.pace.hands_off))

    @property
    def _steps(self) -> np.int64:
        return np.int64(self._cost.num_steps)


def _scalars(pace: backoff.Pace) -> backoff.Pace:
    """Make scalars of arrays without axes, which are slower to compare."""
    return backoff.Pace(*(np.asarray(field)[()] for field in pace))
