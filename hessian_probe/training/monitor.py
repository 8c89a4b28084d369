"""A hook for training loops: watch the loss, look closer at a plateau, leave it if it is a saddle."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree
from hessian_probe.escape.escape import escape
from hessian_probe.escape.result import Escape
from hessian_probe.operators.objective import Objective
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import number, signed
from hessian_probe.training.events import Cost, Event, append_event
from hessian_probe.training.fixed import WithFixed, only_params, with_fixed
from hessian_probe.training.look import CONFIRMED, WORTH
from hessian_probe.training.moments import MOMENTS, adjust_moments
from hessian_probe.training.pacing import Pace, after_escape, after_look, after_progress, new_pace, worth
from hessian_probe.training.plateau import PlateauTest
from hessian_probe.training.samples import draw
from hessian_probe.training.stream import CHUNK, KINDS, Stream

# Looks taken at: a loss that has stopped, or that falls much more slowly than it used to.
LOOK_AT = ("flat", "slow")
# Labels at which nothing is moved: there is nothing to escape, and training is the way down.
HANDS_OFF = ("minimum", "not_critical")


class Monitor:
    """Watch a training run from the host, in any framework.

    Each `update` adds the loss to a plateau test.  When the loss is flat or slow, the point is classified
    with a bounded number of products; at a saddle (or a maximum) the loss is searched along negative
    curvature, and the step is accepted if the loss falls beyond rounding and beyond what training itself
    brought lately, on the data of the probe and on other data.  Looks that find nothing are followed by
    pauses that grow geometrically; at a minimum four times as fast.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        data: None (then the training batch given to `update` is halved: one half is probed, the other
            confirms), one batch that is all the data, or a re-iterable of batches (a few are probed, a
            few others confirm).
        key: random key; None means `jax.random.key(0)`.
        window: steps that show the present trend; nothing is said before so many.
        every: steps between judgements of the loss; in long runs up to 1/128 of the run.
        max_hvps: products that one look may spend.
        max_share: share of the run's gradients that looks which find nothing may cost in the long run.
        moments: what becomes of the optimiser's state at an escape: "keep", "reset" or "project" (see
            `adjust_moments`).
        log: file to append events to, one JSON object a line; `read_events` reads it back.

    Attributes:
        test: the plateau test.
        cost: what the monitor has cost.
        events: records of the events so far, of this process.

    Raises:
        TypeError: `loss` is not callable.
        ValueError: an option is out of range.

    Cost:
        22 μs an update after the first thousand, 45 before (measured), while healthy.  A look
        takes at most `max_hvps` products and a few dozen evaluations; the first one compiles.

    Source:
        What to do at a critical point: H.-y. Lee, What to do if my network fails to train (2021).
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        data: Any = None,
        *,
        key: jax.Array | None = None,
        window: int = 64,
        every: int = 8,
        max_hvps: int = 40,
        max_share: float = 0.02,
        moments: str = "reset",
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        if not callable(loss):
            raise TypeError(f"loss must be a function of params; got {type(loss).__name__}")
        if max_hvps < 8:
            raise ValueError(f"max_hvps={max_hvps}; expected at least 8 products for a look")
        if not 0 < max_share <= 1:
            raise ValueError(f"max_share={max_share}; expected a share in (0, 1]")
        if moments not in MOMENTS:
            raise ValueError(f"moments={moments!r}; expected one of {', '.join(MOMENTS)}")
        self._loss, self._data, self._key = loss, data, key
        self._joined = with_fixed(loss)
        self._max_hvps, self._max_share, self._moments, self._log = max_hvps, max_share, moments, log
        self.test = PlateauTest(window=window, every=every)
        self.cost = Cost()
        self.events: list[dict[str, Any]] = []
        self._pace = new_pace(np, window, np.float64)
        self._at_minimum = False
        self._last = "none"

    def update(
        self,
        step: int,
        params: PyTree,
        value: Any,
        opt_state: PyTree = None,
        batch: PyTree = None,
        fixed: PyTree = None,
    ) -> Event:
        """Tell the monitor about a step, and go on with `event.params` and `event.opt_state`.

        Args:
            step: number of the step, for the log.
            params: parameters after the step (or before it: always the same).
            value: the loss of the step; a device array is waited for.
            opt_state: the optimiser's state, any pytree.
            batch: the step's batch; needed where `loss` takes one and the monitor has no data.
            fixed: arrays that the loss reads and nobody trains (batch statistics, frozen layers, random
                keys); `loss` is then called as `loss(params, fixed)` or `loss(params, fixed, batch)`.

        Returns:
            Event.

        Raises:
            ValueError: `value` is no scalar.
        """
        began = time.perf_counter()
        if np.size(value) != 1:
            raise ValueError(f"value has shape {np.shape(value)}; expected the loss, a scalar")
        value = float(np.asarray(value).reshape(()))
        self.cost.num_steps += 1
        kind = self.test.update(value)
        self._notice_progress()
        before = self.cost.num_hvps, self.cost.num_evaluations
        point: CriticalPoint | None = None
        move: Escape | None = None
        new_params, new_state = params, opt_state
        evidence: tuple[str, ...] = (self.test.evidence(),)
        looks = kind in LOOK_AT and self.cost.num_steps >= self._pace.next_look
        if looks:
            point, move, reasons = self._look(params, batch, fixed)
            evidence = (*evidence, *reasons)
            if move is not None and move.status == "escaped":
                kind, new_params = "escaped", move.params
                displacement = jax.tree.map(_difference, new_params, params)
                new_state = adjust_moments(opt_state, params, self._moments, displacement)
        if self._at_minimum and kind in LOOK_AT:
            kind = "at_minimum"
            evidence = (*evidence, f"a minimum; the next look is at update {math.ceil(self._pace.next_look)}")
        seconds = time.perf_counter() - began
        self.cost.seconds += seconds
        self.cost.probe_seconds += seconds if looks else 0.0
        event = Event(
            kind=kind,
            step=int(step),
            value=value,
            params=new_params,
            opt_state=new_state,
            point=point,
            escape=move,
            evidence=evidence,
            num_hvps=self.cost.num_hvps - before[0],
            num_evaluations=self.cost.num_evaluations - before[1],
            seconds=seconds,
        )
        self._record(event, looks)
        return event

    def _notice_progress(self) -> None:
        """Let pauses start anew once the loss has left the plateau of the last look."""
        if self.test.fresh:
            steps, before = np.int64(self.cost.num_steps), self._pace
            self._pace = after_progress(np, before, steps, self.test.level, self.test.window)
            self._at_minimum &= self._pace.level == before.level

    def _look(
        self, params: PyTree, batch: PyTree, fixed: PyTree
    ) -> tuple[CriticalPoint | None, Escape | None, tuple[str, ...]]:
        """Classify, and leave if that is proved to help; results are about the parameters alone."""
        if fixed is None:
            return self._probe(self._loss, params, batch)
        point, move, reasons = self._probe(self._joined, WithFixed(params, fixed), batch)
        return *only_params((point, move)), reasons

    def _probe(
        self, loss: Callable[..., Any], params: PyTree, batch: PyTree
    ) -> tuple[CriticalPoint | None, Escape | None, tuple[str, ...]]:
        sample = draw(self._data, batch, self.cost.num_probes)
        key = jax.random.fold_in(jax.random.key(0) if self._key is None else self._key, self.cost.num_probes)
        self.cost.num_probes += 1
        verdict = self.test.verdict
        assert verdict is not None
        point = classify(loss, params, sample.probe, key=key, max_hvps=self._max_hvps)
        evaluations = point.num_evaluations
        move: Escape | None = None
        reasons: tuple[str, ...] = (f"{point.label} on {sample.what}: {point.evidence[0]}",)
        if point.escape_direction is not None and point.label not in HANDS_OFF:
            move = escape(loss, params, sample.probe, point=point)
            evaluations = move.num_evaluations
            if move.status == "escaped":
                doubt, spent = self._doubt(loss, move, params, sample.fresh, max(float(verdict.fall), 0.0))
                evaluations += spent
                move = move if doubt is None else _withdrawn(move, params, doubt)
            reasons = (*reasons, *move.evidence)
        self.cost.num_hvps += point.num_hvps
        self.cost.num_evaluations += evaluations
        self._at_minimum = point.label == "minimum"
        gain = move.loss_before - move.loss_after if move is not None else 0.0
        self._schedule(gain, point.num_hvps, evaluations)
        return point, move, reasons

    def _doubt(
        self, loss: Callable[..., Any], move: Escape, params: PyTree, fresh: Any, fall: float
    ) -> tuple[str | None, int]:
        """Say why an escape should not be taken, if so; and the evaluations spent to know."""
        gain = move.loss_before - move.loss_after
        if not gain > WORTH * fall:
            return f"the step gains {number(gain, 3)}, the last window {number(fall, 3)} without it", 0
        if fresh is None:
            return None, 0
        objective = Objective(loss, params, fresh)
        before, after = objective.value(objective.variables), objective.value(objective.read(move.params))
        if before - after > CONFIRMED * gain:
            return None, 2
        return f"on other data the loss changes by {signed(after - before, 3)}, not by {signed(-gain, 3)}", 2

    def _schedule(self, gain: float, num_hvps: int, num_evaluations: int) -> None:
        """Set the next look: soon after an escape, later and later where there was nothing."""
        steps, verdict = np.int64(self.cost.num_steps), self.test.verdict
        if gain > 0:
            self.cost.num_escapes += 1
            self._pace = after_escape(np, self._pace, steps, True, np.inf, gain, self.test.window)
            self.test.restart(gain)
            return
        assert verdict is not None
        price = worth(num_hvps, 0, num_evaluations)
        self._pace = after_look(
            np,
            self._pace,
            steps,
            fruitless=True,
            waits=True,
            hopeless=self._at_minimum,
            cost=price,
            price=price,
            level=self.test.level,
            scale=max(abs(float(verdict.fall)), float(verdict.noise)),
            max_share=self._max_share,
        )

    def _record(self, event: Event, looked: bool) -> None:
        """Keep and log what changed: looks, and new kinds."""
        if event.kind == self._last and not looked:
            return
        self._last = "none" if event.kind == "escaped" else event.kind
        row = event.record()
        self.events.append(row)
        if self._log is not None:
            append_event(self._log, row)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides future events as a flat dict of NumPy arrays.

        Save it with the parameters (orbax takes it as it is; `.tolist()` of each makes it JSON), and give
        it to `load_state_dict` of a monitor made with the same options: it continues with the same events.
        """
        numbers = {
            "at_minimum": self._at_minimum,
            "last": (*KINDS, "at_minimum").index(self._last),
            "pending": np.resize([*self.test.pending, math.nan], CHUNK),
        }
        costs = {f"cost_{name}": value for name, value in vars(self.cost).items()}
        stream = {f"stream_{name}": value for name, value in self.test.stream._asdict().items()}
        pace = {f"pace_{name}": value for name, value in self._pace._asdict().items()}
        return {name: np.asarray(value) for name, value in (numbers | costs | pace | stream).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Args:
            state: what `state_dict` returned; lists and numbers instead of arrays are fine.

        Raises:
            ValueError: an entry is missing, or the window differs.
        """
        own = self.state_dict()
        missing = sorted(set(own) - set(state))
        if missing:
            raise ValueError(f"the state lacks {', '.join(missing)}; was it made by Monitor.state_dict?")
        new = {name: np.asarray(state[name], kept.dtype) for name, kept in own.items()}
        for name, kept in own.items():
            if new[name].shape != kept.shape:
                raise ValueError(
                    f"{name} has shape {new[name].shape}, expected {kept.shape}: give the monitor the window "
                    "it was saved with"
                )
        self._pace = Pace(*(new[f"pace_{name}"] for name in Pace._fields))
        self._at_minimum = bool(new["at_minimum"])
        self._last = (*KINDS, "at_minimum")[int(new["last"])]
        for name, value in vars(self.cost).items():
            setattr(self.cost, name, type(value)(new[f"cost_{name}"]))
        pending = list(itertools.takewhile(math.isfinite, new["pending"].tolist()))
        self.test.resume(Stream(*(new[f"stream_{name}"] for name in Stream._fields)), pending)


def _difference(new: Any, old: Any) -> Any:
    """Displacement of a leaf; zero where it is no number that moves."""
    if np.issubdtype(np.asarray(new).dtype, np.floating) or hasattr(new, "dtype"):
        return np.asarray(new, np.float64) - np.asarray(old, np.float64)
    return 0.0


def _withdrawn(move: Escape, params: PyTree, reason: str) -> Escape:
    """Take back a step."""
    return Escape(
        status="no_decrease",
        params=params,
        loss_before=move.loss_before,
        loss_after=move.loss_before,
        distance=0.0,
        step=0.0,
        predicted=math.nan,
        num_hvps=move.num_hvps,
        num_evaluations=move.num_evaluations,
        point=move.point,
        evidence=(reason,),
    )
