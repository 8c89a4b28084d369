"""Probes of the monitor: full (classify, then search) or quick (search first); held-out data confirm."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hessian_probe.arrays import PyTree
from hessian_probe.escapes.escape import distance_to, escape
from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.escapes.result import Escape
from hessian_probe.operators.data import Batches, Data
from hessian_probe.operators.objective import Objective
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.rounding import decrease_margin
from hessian_probe.results import Cost
from hessian_probe.training.backoff import cost_in_gradients
from hessian_probe.training.compiled_search import NUM_PRODUCTS, CompiledSearch
from hessian_probe.training.saddle_search import CONFIRMED, WORTH

# Batches that a probe multiplies with; as many others confirm.
BATCHES = 4


class ProbeResult(NamedTuple):
    """What a probe found, and what it cost.

    Attributes:
        point: the classification, if one was made.
        escape: the escape, if one was tried.
        evidence: sentences, of the classification first.
        cost: its part of the monitor's ledger.
    """

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
    training lowers the loss by `decrease` within a window.

    Args:
        loss: `loss(params)` or `loss(params, batch)`.
        data: of the monitor.
        key: random key, or None.
        max_hvps: products that one classification may spend.
        cost: ledger; what classifications and escapes evaluate is entered as gradients.
    """

    def __init__(
        self, loss: Callable[..., Any], data: Any, key: jax.Array | None, max_hvps: int, cost: Cost
    ) -> None:
        self._loss, self._data, self._key, self._max_hvps, self._cost = loss, data, key, max_hvps, cost
        self._search: CompiledSearch | None = None

    def check(self, params: PyTree, batch: PyTree) -> None:
        """Refuse a loss, parameters or data that no probe could work with, before the first one.

        Args:
            params: parameters.
            batch: the training step's batch, or None.

        Raises:
            TypeError: the loss needs a batch and there is none, or returns no real scalar.
            ValueError: no variable in `params`, or batches that are not alike.
        """
        sample = draw_batches(self._data, batch, 0)
        seen = [_first(part) for part in sample[:2] if part is not None]
        for _ in Data(seen if len(seen) > 1 else sample.probe):
            pass
        self._search = CompiledSearch(Objective(self._loss, params, seen[0] if seen else None))

    @property
    def search(self) -> CompiledSearch:
        """The compiled search."""
        assert self._search is not None
        return self._search

    @property
    def checked(self) -> bool:
        """Whether `check` has passed."""
        return self._search is not None

    def quick_probe(
        self, params: PyTree, batch: PyTree, turn: int, *, decrease: float, with_products: bool
    ) -> ProbeResult:
        """Search without a label, with or without products, and label what was found with few of them."""
        sample, key, cost = draw_batches(self._data, batch, turn), self._key_of(turn), self._cost.part()
        first = _first(sample.probe)
        lower = self.search(params, first, cost, key=key, decrease=decrease, with_products=with_products)
        if lower is None:
            return ProbeResult(None, None, (), cost)
        point = self._classified(params, sample, key, min(self._max_hvps, NUM_PRODUCTS), cost)
        if point.label == "minimum":
            return _result(point, None, sample, cost)
        return _result(point, self._best(point, params, sample, [lower], cost), sample, cost)

    def full_probe(self, params: PyTree, batch: PyTree, turn: int, *, decrease: float) -> ProbeResult:
        """Classify, and escape if held-out data confirm that."""
        sample, key, cost = draw_batches(self._data, batch, turn), self._key_of(turn), self._cost.part()
        point = self._classified(params, sample, key, self._max_hvps, cost)
        if point.label == "minimum":
            return _result(point, None, sample, cost)
        first = _first(sample.probe)
        curved = point.label != "not_critical" and point.escape_direction is not None
        move, found = None, []
        if curved or point.descent is not None:
            move = escape(self._loss, params, sample.probe, point=point)
            cost.add(gradients=move.num_evaluations - point.num_evaluations)
            if move.status == "escaped":
                gain = move.loss_before - move.loss_after
                if not gain > WORTH * decrease:
                    least = f"{WORTH:g}"
                    reason = EscapeReason("gains_too_little", gain=gain, least=least, decrease=decrease)
                    stays = Escape.of(point, "no_decrease", params, move.loss_before, reason)
                    return _result(point, stays, sample, cost)
                found = [move.params, self.search.continue_from(params, move.params, first, cost)]
        if not found:
            lower = self.search(params, first, cost, key=key, decrease=decrease, with_products=not curved)
            found = [lower]
        found = [each for each in found if each is not None]
        if not found:
            return _result(point, move, sample, cost)
        return _result(point, self._best(point, params, sample, found, cost, move), sample, cost)

    def worse_than_before(
        self, params: PyTree, before: PyTree, batch: PyTree, turn: int, gain: float
    ) -> bool:
        """Whether the loss at `params` exceeds that at `before` by more than `gain`, or is no number."""
        data = batch if batch is not None else draw_batches(self._data, None, turn).probe
        objective = Objective(self._loss, params, data, cost=self._cost)
        level = objective.value(objective.read(before))
        return math.isfinite(level) and not objective.value(objective.variables) <= level + gain

    def _key_of(self, turn: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(0) if self._key is None else self._key, turn)

    def _classified(
        self, params: PyTree, sample: ProbeBatches, key: jax.Array, max_hvps: int, cost: Cost
    ) -> CriticalPoint:
        point = classify(self._loss, params, sample.probe, key=key, max_hvps=max_hvps)
        cost.enter(point)
        return point

    def _best(
        self,
        point: CriticalPoint,
        params: PyTree,
        sample: ProbeBatches,
        lower: list[PyTree],
        cost: Cost,
        move: Escape | None = None,
    ) -> Escape:
        """Escape to the lowest of some points that held-out data confirm, or stay and say why."""
        # An escape `move` led to the first of them, if it is given.
        objective = Objective(self._loss, params, sample.probe, cost=cost.part())
        before = objective.value(objective.variables)
        values = [objective.value(objective.read(each)) for each in lower]
        margin, doubts = decrease_margin(objective, before), []
        for after, there in sorted(zip(values, lower, strict=True), key=lambda pair: pair[0]):
            doubt = None
            if not before - after > margin:
                doubt = EscapeReason("no_decrease_on_probe", data=sample.what, change=after - before)
            elif sample.held_out is not None:
                doubt = self._doubt(params, there, sample.held_out, before - after, cost)
            if doubt is None:
                if move is not None and there is move.params:
                    return move
                distance = distance_to(objective.read(there), objective)
                reason = EscapeReason("fell_by_search", gain=before - after, distance=distance)
                return Escape.of(
                    point,
                    "escaped",
                    there,
                    before,
                    reason,
                    after=after,
                    distance=distance,
                    step=math.nan,
                    cost=objective.cost,
                )
            doubts.append(doubt)
        return Escape.of(point, "no_decrease", params, before, doubts[-1])

    def _doubt(
        self, params: PyTree, there: PyTree, held_out: Any, gain: float, cost: Cost
    ) -> EscapeReason | None:
        """Say why held-out data do not confirm a step, if so."""
        objective = Objective(self._loss, params, held_out, cost=cost)
        before, after = objective.value(objective.variables), objective.value(objective.read(there))
        if before - after > CONFIRMED * gain:
            return None
        return EscapeReason("not_confirmed", change=after - before, expected=-gain)


def _result(point: CriticalPoint, move: Escape | None, sample: ProbeBatches, cost: Cost) -> ProbeResult:
    label = point.label.replace("_", " ")
    probed = EscapeReason("probed", label=label, data=sample.what, reason=point.evidence[0])
    return ProbeResult(point, move, (str(probed), *(() if move is None else move.evidence)), cost)


def draw_batches(data: Any, batch: PyTree, turn: int) -> ProbeBatches:
    """Choose the data of the `turn`-th probe.

    One batch as `data` is taken for all the data there is.  Of a sequence of batches, eight neighbours
    are taken, others at each turn: every other one to probe on, the rest to confirm.  Without `data`,
    the training batch is halved.

    Args:
        data: the monitor's data.
        batch: the training step's batch, or None.
        turn: number of probes so far.

    Returns:
        The sample.
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
    """Return the one batch, or the first of several, that a search works on."""
    return next(iter(probe)) if probe is not None and Data(probe).is_sequence else probe
