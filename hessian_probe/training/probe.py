"""A look of the monitor: what is this point, is there a way down that training does not see, is it proved?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from hessian_probe.arrays import PyTree
from hessian_probe.escapes.escape import escape
from hessian_probe.escapes.result import Escape
from hessian_probe.operators.data import Data
from hessian_probe.operators.objective import Objective
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.rounding import decrease_margin
from hessian_probe.results import number, signed
from hessian_probe.training.compiled_search import NUM_PRODUCTS, CompiledSearch
from hessian_probe.training.probe_batches import ProbeBatches, draw
from hessian_probe.training.probe_result import ProbeResult, moved, stayed, summed
from hessian_probe.training.saddle_search import CONFIRMED, WORTH


class MonitorProbe:
    """Look at points of one loss.

    Args:
        loss: `loss(params)` or `loss(params, batch)`.
        data: of the monitor.
        key: random key, or None.
        max_hvps: products that one classification may spend.
    """

    def __init__(self, loss: Callable[..., Any], data: Any, key: jax.Array | None, max_hvps: int) -> None:
        self._loss, self._data, self._key, self._max_hvps = loss, data, key, max_hvps
        self._search: CompiledSearch | None = None

    def check(self, params: PyTree, batch: PyTree) -> None:
        """Refuse a loss, parameters or data that no look could work with, before the first one.

        Args:
            params: parameters.
            batch: the training step's batch, or None.

        Raises:
            TypeError: the loss needs a batch and there is none, or returns no real scalar.
            ValueError: no variable in `params`, or batches that are not alike.
        """
        sample = draw(self._data, batch, 0)
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
        self, params: PyTree, batch: PyTree, turn: int, *, fall: float, with_products: bool
    ) -> ProbeResult:
        """Search without a label, and label what was found, with few products.

        Args:
            params: where.
            batch: the training step's batch, or None.
            turn: number of looks so far.
            fall: what training brings within a window.
            with_products: whether to spend products on the search.

        Returns:
            What was found.
        """
        sample = draw(self._data, batch, turn)
        way = self.search(
            params, _first(sample.probe), key=self._key_of(turn), fall=fall, with_products=with_products
        )
        if way.params is None:
            return summed(None, None, (), [way])
        max_hvps = min(self._max_hvps, NUM_PRODUCTS)
        point = classify(self._loss, params, sample.probe, key=self._key_of(turn), max_hvps=max_hvps)
        reasons = _labelled(point, sample)
        if point.label == "minimum":
            return summed(point, None, reasons, [way], point.num_evaluations)
        move, losses = self._best(point, params, sample, [way.params])
        return summed(point, move, reasons, [way], point.num_evaluations, losses)

    def full_probe(self, params: PyTree, batch: PyTree, turn: int, *, fall: float) -> ProbeResult:
        """Classify, and leave if that is proved to help.

        Args:
            params: where.
            batch: the training step's batch, or None.
            turn: number of looks so far.
            fall: what training brings within a window.

        Returns:
            What was found.
        """
        sample, key = draw(self._data, batch, turn), self._key_of(turn)
        point = classify(self._loss, params, sample.probe, key=key, max_hvps=self._max_hvps)
        reasons = _labelled(point, sample)
        if point.label == "minimum":
            return summed(point, None, reasons, [], point.num_evaluations)
        first, evaluations = _first(sample.probe), point.num_evaluations
        curved = point.label != "not_critical" and point.escape_direction is not None
        move, lower = None, []
        if curved or point.descent is not None:
            move = escape(self._loss, params, sample.probe, point=point)
            evaluations = move.num_evaluations
            if move.status == "escaped":
                gain = move.loss_before - move.loss_after
                if not gain > WORTH * fall:
                    reason = f"the step gains {number(gain, 3)}, the last window {number(fall, 3)} without it"
                    return summed(point, stayed(point, params, gain, reason), reasons, [], evaluations)
                way = self.search.continue_from(params, move.params, first)
                lower = [move.params]
        if not lower:
            way = self.search(params, first, key=key, fall=fall, with_products=not curved)
        if way.params is not None:
            lower.append(way.params)
        if not lower:
            return summed(point, move, reasons, [way], evaluations)
        best, losses = self._best(point, params, sample, lower, move)
        return summed(point, best, reasons, [way], evaluations, losses)

    def worse_than_before(
        self, params: PyTree, before: PyTree, batch: PyTree, turn: int, gain: float
    ) -> bool:
        """Whether the loss here exceeds that at `before` by more than `gain`, or is no number.

        Args:
            params: here.
            before: other parameters.
            batch: the training step's batch; None means data of the next look.
            turn: number of looks so far.
            gain: what may be lost.

        Returns:
            Whether it does.

        Cost:
            Two evaluations.
        """
        data = batch if batch is not None else draw(self._data, None, turn).probe
        objective = Objective(self._loss, params, data)
        level = objective.value(objective.read(before))
        return math.isfinite(level) and not objective.value(objective.variables) <= level + gain

    def _key_of(self, turn: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(0) if self._key is None else self._key, turn)

    def _best(
        self,
        point: CriticalPoint,
        params: PyTree,
        sample: ProbeBatches,
        lower: list[PyTree],
        move: Escape | None = None,
    ) -> tuple[Escape, int]:
        """Take the lowest of some points that other data confirms; and the losses evaluated to know.

        Args:
            point: the classification.
            params: where the look was taken.
            sample: data.
            lower: points, of which `move` led to the first, if it is given.
            move: an escape.

        Returns:
            An escape to the point taken, or one that stays and says why.
        """
        objective = Objective(self._loss, params, sample.probe)
        before = objective.value(objective.variables)
        values = [objective.value(objective.read(each)) for each in lower]
        margin = decrease_margin(objective, before)
        doubts, losses = [], objective.cost.num_evaluations
        for after, there in sorted(zip(values, lower, strict=True), key=lambda pair: pair[0]):
            doubt = None
            if not before - after > margin:
                doubt = f"on {sample.what} the step changes the loss by {signed(after - before, 3)}"
            elif sample.fresh is not None:
                doubt = self._doubt(params, there, sample.fresh, before - after)
                losses += 2
            if doubt is None:
                if move is not None and there is move.params:
                    return move, losses
                return moved(point, objective, there, before, after), losses
            doubts.append(doubt)
        return stayed(point, params, before, doubts[-1]), losses

    def _doubt(self, params: PyTree, there: PyTree, fresh: Any, gain: float) -> str | None:
        """Say why other data does not confirm a step, if so."""
        objective = Objective(self._loss, params, fresh)
        before, after = objective.value(objective.variables), objective.value(objective.read(there))
        if before - after > CONFIRMED * gain:
            return None
        return f"on other data the loss changes by {signed(after - before, 3)}, not by {signed(-gain, 3)}"


def _first(probe: Any) -> Any:
    """Return the one batch, or the first of several, that a search works on."""
    return next(iter(probe)) if probe is not None and Data(probe).is_sequence else probe


def _labelled(point: CriticalPoint, sample: ProbeBatches) -> tuple[str, ...]:
    return (f"{point.label} on {sample.what}: {point.evidence[0]}",)
