"""Out of a saddle whose way down second order does not show, and which may be curved."""

from __future__ import annotations

import math

from hessian_probe.arrays import Vector, add_scaled, cast, norm, scale
from hessian_probe.escapes.line_search import LineSearch
from hessian_probe.operators.objective import Objective


def continue_from(objective: Objective, move: Vector, margin: float) -> Vector:
    """Jump to a lower point, and search downhill from there.

    Args:
        objective: the loss.
        move: displacement to a point that a classification found lower.
        margin: a decrease below this is rounding.

    Returns:
        The variables reached; the caller must compare the losses.

    Cost:
        One gradient, and 24 to 40 evaluations along a line.
    """
    layout = objective.layout
    work = cast(objective.variables, layout.work_dtypes)
    there = cast(add_scaled(work, 1.0, move), layout.dtypes)
    value, gradient = objective.value_and_gradient(there)
    steepness = float(norm(gradient))
    if not (math.isfinite(value) and math.isfinite(steepness)) or steepness == 0:
        return there
    downhill = scale(-1.0 / steepness, gradient)
    best = LineSearch(objective, there, downhill, value, margin, False).run(float(norm(move)))
    return cast(add_scaled(cast(there, layout.work_dtypes), best.length, downhill), layout.dtypes)
