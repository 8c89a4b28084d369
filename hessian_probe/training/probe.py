"""Probes of the monitor: label the point, search for a lower loss, confirm it on held-out data."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hessian_probe.arrays import PyTree, split
from hessian_probe.escapes.escape import escape
from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.escapes.result import Escape
from hessian_probe.operators.data import Batches, Data
from hessian_probe.operators.objective import Objective
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import Cost
from hessian_probe.training.aux_inputs import WithAux, only_params
from hessian_probe.training.backoff import cost_in_gradients
from hessian_probe.training.thresholds import BATCHES, CONFIRMED


class ProbeResult(NamedTuple):
    """The classification, if one was made, the escape, if one was tried, sentences, and the cost of both."""

    point: CriticalPoint | None
    escape: Escape | None
    evidence: tuple[str, ...]
    cost: Cost

    @property
    def gain(self) -> float:
        """Decrease by the escape on its own data; 0 where none was accepted."""
        return self.escape.loss_before - self.escape.loss_after if self.escape is not None else 0.0

    @property
    def price(self) -> float:
        """Cost in gradients."""
        cost = self.cost
        return float(cost_in_gradients(cost.num_hvps, cost.num_gradients, cost.num_losses))


class ProbeBatches(NamedTuple):
    """Data to probe on, held-out data (None where the probe sees all there is), and words for the former."""

    probe: Any
    held_out: Any
    what: str


class MonitorProbe:
    """Probe points of one loss.

    A probe is made at `params`, with the training step's `batch` or None, as the `turn`-th of its monitor;
    an escape must gain `least`.  What classifications and escapes evaluate enters `cost` as gradients.
    """

    def __init__(
        self, loss: Callable[..., Any], data: Any, key: Any, max_hvps: int, cost: Cost, trainable: Any = None
    ) -> None:
        self._loss, self._data, self._key, self._max_hvps, self._cost = loss, data, key, max_hvps, cost
        self._trainable = trainable
        self.checked = False

    def check(self, params: PyTree, batch: PyTree) -> None:
        """Refuse a loss, parameters or data that no probe could work with, before the first one."""
        sample = draw_batches(self._data, batch, 0)
        seen = [_first(part) for part in sample[:2] if part is not None]
        for _ in Data(seen if len(seen) > 1 else sample.probe):
            pass
        Objective(self._loss, params, seen[0] if seen else None, trainable=self._varied(params))
        self.checked = True

    def __call__(self, params: PyTree, batch: PyTree, turn: int, *, least: float) -> ProbeResult:
        """Classify; then escape, if that gains more than `least` and held-out data confirm it."""
        found = self._probe(params, batch, turn, least)
        if isinstance(params, WithAux):
            found = found._replace(point=only_params(found.point), escape=only_params(found.escape))
        return found

    def _probe(self, params: PyTree, batch: PyTree, turn: int, least: float) -> ProbeResult:
        sample, key, cost = draw_batches(self._data, batch, turn), self._key_of(turn), self._cost.part()
        given = {"trainable": self._varied(params), "key": key}
        point = classify(self._loss, params, sample.probe, max_hvps=self._max_hvps, **given)
        cost.enter(point)
        if point.label == "minimum" and point.strict:
            return _result(point, None, sample, cost)
        move = escape(self._loss, params, sample.probe, point=point, **given)
        cost.add(gradients=move.num_evaluations - point.num_evaluations)
        if move.status == "escaped":
            doubt = self._doubt(params, move, sample.held_out, least, cost)
            if doubt is not None:
                move = Escape.of(point, "no_decrease", params, move.loss_before, doubt)
        return _result(point, move, sample, cost)

    def worse_than_before(
        self, params: PyTree, before: PyTree, batch: PyTree, turn: int, gain: float
    ) -> bool:
        """Whether the loss at `params` exceeds that at `before` by more than `gain`, or is no number."""
        data = batch if batch is not None else draw_batches(self._data, None, turn).probe
        objective = Objective(self._loss, params, data, cost=self._cost, trainable=self._varied(params))
        level = objective.value(objective.read(before))
        return math.isfinite(level) and not objective.value(objective.variables) <= level + gain

    def _varied(self, params: PyTree) -> Any:
        """Which leaves are varied, of parameters or of a `WithAux`."""
        if not isinstance(params, WithAux):
            return self._trainable
        return WithAux(split(params.params, trainable=self._trainable)[0].mask, False)

    def _key_of(self, turn: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(0) if self._key is None else self._key, turn)

    def _doubt(
        self, params: PyTree, move: Escape, held_out: Any, least: float, cost: Cost
    ) -> EscapeReason | None:
        """Say why an escape is not worth its step, or not confirmed by held-out data, if so."""
        gain = move.loss_before - move.loss_after
        if not gain > least:
            return EscapeReason("gains_too_little", gain=gain, least=least)
        if held_out is None:
            return None
        objective = Objective(self._loss, params, held_out, cost=cost, trainable=self._varied(params))
        before, after = objective.value(objective.variables), objective.value(objective.read(move.params))
        if before - after > CONFIRMED * gain:
            return None
        return EscapeReason("not_confirmed", change=after - before, expected=-gain)


def _result(point: CriticalPoint, move: Escape | None, sample: ProbeBatches, cost: Cost) -> ProbeResult:
    label = point.label.replace("_", " ")
    probed = EscapeReason("probed", label=label, data=sample.what, reason=point.evidence[0])
    return ProbeResult(point, move, (str(probed), *(() if move is None else move.evidence)), cost)


def draw_batches(data: Any, batch: PyTree, turn: int) -> ProbeBatches:
    """Return the data of the `turn`-th probe, given the monitor's data and the training step's batch, if any.

    One batch as `data` is taken for all the data there is.  Of a sequence of batches, eight neighbours
    are taken, others at each turn: every other one to probe on, the rest to confirm.  Without `data`,
    the training batch is halved.
    """
    if data is None:
        return ProbeBatches(None, None, "the loss") if batch is None else _halves(batch)
    if not Data(data).is_sequence:
        return ProbeBatches(data, None, "the data")
    weights = data.weights if isinstance(data, Batches) else None
    count = len(weights) if weights is not None else operator.length_hint(data) or sum(1 for _ in data)
    if count == 1:
        return ProbeBatches(data, None, "the one batch of data")
    width = min(2 * BATCHES, count)
    chosen = [(turn * width + offset) % count for offset in range(width)]
    kept = {i: item for i, item in enumerate(itertools.islice(data, max(chosen) + 1)) if i in chosen}

    def part(numbers: list[int]) -> Any:
        items = [kept[i] for i in numbers]
        return items if weights is None else Batches(items, [weights[i] for i in numbers])

    return ProbeBatches(part(chosen[::2]), part(chosen[1::2]), f"{(width + 1) // 2} of {count} batches")


def _halves(batch: PyTree) -> ProbeBatches:
    """Halve a batch along the leading axis of its arrays."""
    sizes = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf) > 0}
    if len(sizes) != 1 or min(sizes) < 2:
        return ProbeBatches(batch, None, "the training batch, which cannot be halved to confirm it")
    half = sizes.pop() // 2

    def cut(part: slice) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[part] if np.ndim(leaf) > 0 else leaf, batch)

    return ProbeBatches(cut(slice(half)), cut(slice(half, 2 * half)), "half of the training batch")


def _first(probe: Any) -> Any:
    """Return the one batch, or the first of several."""
    return next(iter(probe)) if probe is not None and Data(probe).is_sequence else probe
