"""Leave a saddle or a maximum along negative curvature, and prove that it was left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, Vector, add_scaled, cast, from_tangent, merge, norm
from hessian_probe.escape.result import Escape
from hessian_probe.escape.step import LineSearch
from hessian_probe.operators.objective import Objective
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import number, signed

# A decrease must exceed this many roundings of the loss to count: of the parameters' precision, and of a
# lower one in which the loss computes.
ROUNDING = 16.0
COARSE_ROUNDING = 2.0


def escape(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    key: jax.Array | None = None,
    point: CriticalPoint | None = None,
    max_hvps: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Escape:
    """Find a lower loss along the most negative curvature, or say that there is nothing to escape.

    The direction comes from the classification.  Both signs are tried, the step length is searched
    on the true loss, and the step is accepted only if the loss falls beyond rounding, below the
    loss of the critical point itself: going on downhill from there cannot lead back to it.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its real floating-point leaves are the variables.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        key: random key; None means `jax.random.key(0)`.
        point: a classification of these very parameters, to save classifying again.
        max_hvps: products allowed for the classification.
        progress: called with a line of text as the search goes on.

    Returns:
        Escape; its `params` are never worse than what came in.

    Raises:
        TypeError: `loss` or `data` are of the wrong kind.
        ValueError: `point` was made at other parameters or for another loss.

    Cost:
        The classification (about a dozen products at a saddle) and 24 to 40 evaluations of loss and
        slope along the line.

    Source:
        Negative-curvature step with a search on the loss: J. J. Moré and D. C. Sorensen,
        Math. Programming 16, 1979, doi:10.1007/BF01582091.
    """
    if point is not None and not isinstance(point, CriticalPoint):
        raise TypeError(f"point must be made by hp.classify; got {type(point).__name__}")
    if point is None:
        point = classify(loss, params, data, key=key, max_hvps=max_hvps, progress=progress)
    objective = Objective(loss, params, data)
    before = objective.value(objective.variables)
    _check_point(point, objective, before)
    if point.escape_direction is None:
        return _stay(point, params, before, objective, *_no_direction(point))
    direction = from_tangent(objective.layout, point.escape_direction, "point.escape_direction")
    eps = float(jnp.finfo(objective.layout.dtype).eps)
    margin = max(ROUNDING * eps, COARSE_ROUNDING * objective.eps) * abs(before)
    search = LineSearch(objective, objective.variables, direction, before, margin, point.distance == 0)
    best = search.run(max(float(norm(cast(objective.variables, objective.layout.work_dtypes))), 1.0))
    if progress is not None:
        progress(f"best step {signed(best.length)}: loss {number(best.value, 6)}")
    work = cast(objective.variables, objective.layout.work_dtypes)
    moved = cast(add_scaled(work, best.length, direction), objective.layout.dtypes)
    after = objective.value(moved)
    floor = before if math.isnan(point.critical_loss) else min(before, point.critical_loss)
    if not after < floor - margin:
        reason = (
            f"no step along the direction lowers the loss below {number(floor, 6)} by more than "
            f"rounding ({number(margin, 2)}); the lowest found is {number(after, 6)}"
        )
        return _stay(point, params, before, objective, "no_decrease", reason)
    return _moved(point, objective, moved, direction, before, after, best.length)


def _check_point(point: CriticalPoint, objective: Objective, value: float) -> None:
    if point.size != objective.layout.size:
        raise ValueError(
            f"point is about {point.size} variables, params has {objective.layout.size}; "
            "classify these parameters, or leave point out"
        )
    close = 1e3 * float(jnp.finfo(objective.layout.dtype).eps) * max(abs(value), abs(point.loss))
    if np.isfinite(value) and abs(value - point.loss) > close:
        raise ValueError(
            f"point has loss {point.loss:.8g}, params have {value:.8g}: it was made at other parameters, "
            "for another loss or other data; classify again, or leave point out"
        )


def _no_direction(point: CriticalPoint) -> tuple[str, str]:
    if point.label == "minimum":
        return "nothing_to_escape", "a minimum: no direction of negative curvature"
    if point.label == "not_critical":
        return (
            "nothing_to_escape",
            "a slope without negative curvature: the gradient is the way down",
        )
    known = f"the point is {point.label}, and no direction of negative curvature is known"
    return "undetermined", f"{known}: {point.evidence[0]}"


def _stay(
    point: CriticalPoint,
    params: PyTree,
    loss: float,
    objective: Objective,
    status: str,
    reason: str,
) -> Escape:
    return Escape(
        status=status,
        params=params,
        loss_before=loss,
        loss_after=loss,
        distance=0.0,
        step=0.0,
        predicted=math.nan,
        num_hvps=point.num_hvps,
        num_evaluations=point.num_evaluations + objective.num_evaluations,
        point=point,
        evidence=(reason,),
    )


def _moved(
    point: CriticalPoint,
    objective: Objective,
    moved: Vector,
    direction: Vector,
    before: float,
    after: float,
    step: float,
) -> Escape:
    _, slopes = objective.line(objective.variables, direction, np.zeros(1))
    curvature = float(point.lowest.eigenvalues[0])
    predicted = before + float(slopes[0]) * step + 0.5 * curvature * step**2
    evidence = (
        f"the loss fell by {number(before - after, 4)} over {number(abs(step), 3)}; the quadratic model "
        f"predicts a fall by {number(before - predicted, 4)}",
        f"it is {number(min(before, point.critical_loss) - after, 4)} below the critical point's: going on "
        "downhill cannot return there"
        if math.isfinite(point.critical_loss)
        else f"the point was {point.label}; the step uses its negative curvature all the same",
    )
    return Escape(
        status="escaped",
        params=merge(objective.layout, moved, objective.rest),
        loss_before=before,
        loss_after=after,
        distance=abs(step),
        step=step,
        predicted=predicted,
        num_hvps=point.num_hvps,
        num_evaluations=point.num_evaluations + objective.num_evaluations,
        point=point,
        evidence=evidence,
    )
