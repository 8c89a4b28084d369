"""`Monitor`: watches the loss, probes on a plateau and on a schedule, and leaves saddles."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree, add_scaled, cast, from_tangent, split, tangent
from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.optimizers.adjust_moments import adjust_moments
from hessian_probe.results import Cost
from hessian_probe.training import backoff
from hessian_probe.training.aux_inputs import WithAux, with_aux
from hessian_probe.training.events import Event, write_events
from hessian_probe.training.monitor_state import MonitorState
from hessian_probe.training.plateau import PlateauTest
from hessian_probe.training.probe import MonitorProbe, ProbeResult
from hessian_probe.training.thresholds import BLOCKS

# Kinds of a loss that has stopped.
RESTS = ("flat", "slow")


class Monitor:
    """Watch a training run from the host, in any framework.

    Each `update` adds the loss to a plateau test.  When the loss is flat or slow, or oscillates without
    progress (and, where it is too noisy for a verdict, 128, 256, 512 … steps after the start and after every
    escape), the point is classified with a bounded number of products.  Unless it is proved to be a minimum,
    `hp.escape` searches for a lower loss that the gradient does not reach by itself.

    An escape is accepted if it gains twice what training gained in the last window and 1 % of what the run
    has gained so far on the data of the probe, and half of that on held-out data.  If within 4 windows the
    loss rises above what it was by what the escape gained, the optimiser cannot continue from there: the
    escape is taken back, the optimiser's moments are reset, and a cooldown as long as the run so far follows.

    Probes without a result are followed by pauses that grow geometrically; at a minimum four times as fast.
    `escape_saddles` follows the same rules inside compiled steps, and labels nothing.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        data: None (then the training batch given to `update` is halved: one half is probed, the other
            confirms), one batch that is all the data, or a re-iterable of batches (a few are probed, a
            few others confirm).
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        key: random key; None means `jax.random.key(0)`.
        window: steps until the first verdict of the plateau test, a multiple of 32 (see `PlateauTest`).
        max_hvps: products that one classification may spend.
        max_share: no probe begins while those without a result have cost more than this share of the run's
            gradients; an escape resets what they have cost.
        moments: what becomes of the optimiser's state at an escape: "keep", "reset" or "project" (see
            `adjust_moments`).
        log: file to append events to, one JSON object a line; `read_events` reads it back.

    Attributes:
        test: the plateau test.
        gradient_test: the same of the gradient's norm, where `update` is given it.
        state: what it remembers; `num_steps`, `num_probes`, `num_escapes`, `num_rollbacks`, `seconds`.
        cost: what probes have cost; evaluations by classifications and escapes count as gradients.
        events: records of the events so far, of this process.

    Raises:
        TypeError: `loss` is not callable.
        ValueError: an option is out of range.

    Cost:
        7 μs an update in the median while healthy, probes aside; in the mean of real loops, where the
        processor's caches are cold after a step, 94 to 160 μs (measured).  A probe takes at most `max_hvps`
        products and a few hundred evaluations.  The first one compiles.  The parameters before an escape are
        kept on the host for 4 windows.

    Source:
        What to do at a critical point: H.-y. Lee, What to do if my network fails to train (2021).

    Example:
        >>> import jax
        >>> loss = lambda p: 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2
        >>> params, monitor = jax.numpy.zeros(2), Monitor(loss)  # a saddle
        >>> for step in range(120):
        ...     value, gradient = jax.value_and_grad(loss)(params)
        ...     event = monitor.update(step, params - 0.1 * gradient, value)
        ...     params = event.params
        ...     if event.kind == "escaped":
        ...         print(event.point.label, bool(loss(params) < -0.2))
        saddle True
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        data: Any = None,
        *,
        trainable: Any = None,
        key: jax.Array | None = None,
        window: int = 64,
        max_hvps: int = 40,
        max_share: float = 0.01,
        moments: str = "reset",
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        if max_hvps < 8:
            raise ValueError(f"max_hvps={max_hvps}; expected at least 8 products for a probe")
        backoff.check_common(loss, moments, max_share)
        self._moments, self._log = moments, log
        self.test = PlateauTest(window=window)
        self.gradient_test = PlateauTest(window=window, of="gradient norm")
        self.cost = Cost()
        self._trainable = trainable
        given = data, key, max_hvps, self.cost, trainable
        self._probes = [MonitorProbe(each, *given) for each in (loss, with_aux(loss))]
        self.events: list[dict[str, Any]] = []
        self.state = MonitorState(self.test, self.gradient_test, self.cost, max_share, trainable)

    def update(
        self,
        step: int,
        params: PyTree,
        value: Any,
        *,
        opt_state: PyTree = None,
        batch: PyTree = None,
        aux: PyTree = None,
        grad_norm: Any = None,
    ) -> Event:
        """Give the monitor one step, and continue with `event.params` and `event.opt_state`.

        Args:
            step: number of the step, for the log.
            params: parameters after the step (or before it: always the same).
            value: the loss of the step; a device array is waited for.
            opt_state: the optimiser's state, any pytree.
            batch: the step's batch; needed where `loss` takes one and the monitor has no data.
            aux: inputs that the loss reads and nobody trains (batch statistics, frozen layers, random
                keys); `loss` is then called as `loss(params, aux)` or `loss(params, aux, batch)`.
            grad_norm: norm of the step's gradient, if it is at hand.  Where the loss stops and the norm does
                not, the event's evidence says so: the parameters then bounce, and no critical point is near.

        Returns:
            Event.

        Raises:
            ValueError: `value` or `grad_norm` is no scalar; at the first update also: `params` holds no
                variable, or batches are not alike.
            TypeError: at the first update: the loss needs a batch and has none, or returns no real scalar.
        """
        began = time.perf_counter()
        value = _scalar(value, "value", "the loss")
        probe, joined = self._joined(params, aux)
        if not probe.checked:
            probe.check(joined, batch)
        self.state.num_steps += 1
        kind = self.test.update(value)
        self.state.notice_progress()
        before = self.cost.num_hvps, self.cost.num_evaluations
        evidence: tuple[str, ...] = (str(self.test.evidence()),)
        if grad_norm is not None:
            self.gradient_test.update(_scalar(grad_norm, "grad_norm", "the norm of the gradient"))
            evidence = (*evidence, *_bounce(kind, self.gradient_test))
        found: ProbeResult | None = None
        new_params, new_state = params, opt_state
        if self.state.exceeds_threshold(value) and self._escape_failed(params, batch, aux):
            kind, new_params = "taken_back", self.state.with_rollback_params(params)
            new_state = adjust_moments(opt_state, new_params, "reset", self._difference(new_params, params))
            evidence = (*evidence, str(self.state.roll_back(value)))
        elif self.state.due(kind):
            found = self._probe(params, batch, aux)
            evidence = (*evidence, *found.evidence)
            if found.escape is not None and found.escape.status == "escaped":
                kind, new_params = "escaped", found.escape.params
                moved = self._difference(new_params, params)
                new_state = adjust_moments(opt_state, new_params, self._moments, moved)
        if self.state.at_minimum and kind in RESTS:
            kind = "at_minimum"
            left, reach, then = self.state.left, self.state.reach, self.state.next_probe
            evidence = (*evidence, str(EscapeReason("at_minimum", left=left, reach=reach, next=then)))
        if kind in ("escaped", "taken_back"):
            self.gradient_test.restart()
        seconds = time.perf_counter() - began
        self.state.seconds += seconds
        probed = self.cost.num_evaluations > before[1]
        self.state.probe_seconds += seconds if probed else 0.0
        event = Event(
            kind=kind,
            step=int(step),
            value=value,
            params=new_params,
            opt_state=new_state,
            point=None if found is None else found.point,
            escape=None if found is None else found.escape,
            evidence=evidence,
            num_hvps=self.cost.num_hvps - before[0],
            num_evaluations=self.cost.num_evaluations - before[1],
            seconds=seconds,
        )
        self._record(event)
        return event

    def _probe(self, params: PyTree, batch: PyTree, aux: PyTree) -> ProbeResult:
        probe, joined = self._joined(params, aux)
        found = probe(joined, batch, self.state.num_probes, least=self.state.least)
        self.state.after(found, params)
        return found

    def _joined(self, params: PyTree, aux: PyTree) -> tuple[MonitorProbe, PyTree]:
        """Choose the probe, and what it takes as parameters."""
        return self._probes[aux is not None], params if aux is None else WithAux(params, aux)

    def _escape_failed(self, params: PyTree, batch: PyTree, aux: PyTree) -> bool:
        """Whether the loss is now above the saddle's by what the latest escape gained."""
        probe, joined = self._joined(params, aux)
        _, before = self._joined(self.state.with_rollback_params(params), aux)
        return probe.worse_than_before(joined, before, batch, self.state.num_probes, self.state.gain)

    def _difference(self, new: PyTree, old: PyTree) -> PyTree:
        """Displacement of the variables; zero elsewhere."""
        layout, here, rest = split(old, trainable=self._trainable)
        moved = add_scaled(from_tangent(layout, new), -1.0, cast(here, layout.work_dtypes))
        return tangent(layout, moved, rest)

    def _record(self, event: Event) -> None:
        """Keep and log what changed: classifications, rollbacks, and new kinds."""
        state, steps = self.state, self.state.num_steps
        often = (steps - state.noted) * BLOCKS < steps  # kinds that come and go would fill the log
        if event.point is None and not event.moved and (event.kind == state.last or often):
            return
        last = "none" if event.moved else event.kind
        state.last, state.noted = last, steps
        self.events.append(event.record())
        if self._log is not None:
            write_events(self._log, self.events[-1:])

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides future events as nested dicts of NumPy arrays.

        Save it with the parameters (orbax takes it as it is; `.tolist()` of each array makes it JSON), and
        give it to `load_state_dict` of a monitor made with the same options: it continues with the same
        events.  For 4 windows after an escape it holds the parameters before it.

        >>> saved = Monitor(jax.numpy.sum).state_dict()
        >>> Monitor(jax.numpy.sum).load_state_dict(saved)
        """
        return self.state.to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Args:
            state: what `state_dict` returned; lists and numbers instead of arrays are fine.

        Raises:
            ValueError: an entry is missing, or the window differs.
        """
        self.state.from_dict(state)


def _scalar(value: Any, name: str, what: str) -> float:
    if np.size(value) != 1:
        raise ValueError(f"{name} has shape {np.shape(value)}; expected {what}, a scalar")
    return float(np.asarray(value).reshape(()))


def _bounce(kind: str, test: PlateauTest) -> tuple[str, ...]:
    """Say how the gradient's norm goes on, and where it lasts though the loss has stopped."""
    said = (str(test.evidence()),)
    if kind not in (*RESTS, "oscillating") or not test.lasts:
        return said
    return (*said, str(EscapeReason("gradient_lasts", level=float(test.verdict.level))))
