"""What a look of the monitor brought."""

from __future__ import annotations

import math
from typing import NamedTuple

from hessian_probe.arrays import PyTree, add_scaled, cast, norm
from hessian_probe.escapes.result import Escape
from hessian_probe.operators.objective import Objective
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import number
from hessian_probe.training.backoff import cost_in_gradients
from hessian_probe.training.compiled_search import HostSearchResult


class ProbeResult(NamedTuple):
    """What a look brought, and what it cost.

    Attributes:
        point: the classification, if one was made.
        escape: the escape, if one was tried.
        reasons: sentences.
        num_hvps: products.
        num_gradients: gradients, or evaluations that may have been gradients.
        num_losses: losses.
    """

    point: CriticalPoint | None
    escape: Escape | None
    reasons: tuple[str, ...]
    num_hvps: int
    num_gradients: int
    num_losses: int

    @property
    def gain(self) -> float:
        """What the escape brought on its own data; 0 where none was accepted."""
        return self.escape.loss_before - self.escape.loss_after if self.escape is not None else 0.0

    @property
    def cost(self) -> float:
        """Gradients that the look was worth."""
        return float(cost_in_gradients(self.num_hvps, self.num_gradients, self.num_losses))


NOTHING = ProbeResult(None, None, (), 0, 0, 0)


def summed(
    point: CriticalPoint | None,
    move: Escape | None,
    reasons: tuple[str, ...],
    ways: list[HostSearchResult],
    evaluations: int = 0,
    losses: int = 0,
) -> ProbeResult:
    """Add up what was spent: evaluations of classifications and escapes may be gradients."""
    return ProbeResult(
        point,
        move,
        reasons if move is None else (*reasons, *move.evidence),
        (0 if point is None else point.num_hvps) + sum(way.num_hvps for way in ways),
        evaluations + sum(way.num_gradients for way in ways),
        losses + sum(way.num_evaluations for way in ways),
    )


def moved(point: CriticalPoint, objective: Objective, there: PyTree, before: float, after: float) -> Escape:
    """Write down a step that was found by the search, or went on by it."""
    work = objective.layout.work_dtypes
    gone = add_scaled(cast(objective.read(there), work), -1.0, cast(objective.variables, work))
    distance = float(norm(gone))
    fell = (
        f"the loss fell by {number(before - after, 4)} over {number(distance, 3)}, by steps that bend down "
        "and steepest descent from there"
    )
    return Escape(
        status="escaped",
        params=there,
        loss_before=before,
        loss_after=after,
        distance=distance,
        step=math.nan,
        predicted=math.nan,
        num_hvps=point.num_hvps,
        num_evaluations=point.num_evaluations + objective.cost.num_evaluations,
        point=point,
        evidence=(fell,),
    )


def stayed(point: CriticalPoint, params: PyTree, before: float, reason: str) -> Escape:
    """Say why a step is not taken."""
    return Escape(
        status="no_decrease",
        params=params,
        loss_before=before,
        loss_after=before,
        distance=0.0,
        step=0.0,
        predicted=math.nan,
        num_hvps=point.num_hvps,
        num_evaluations=point.num_evaluations,
        point=point,
        evidence=(reason,),
    )
