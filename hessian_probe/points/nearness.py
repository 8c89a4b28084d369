"""Is there a critical point near enough for the curvature here to be about it?

Training never stops at a critical point exactly.  The local quadratic model predicts one at
x + s with H s = −g; it counts as near when the model explains the gradient, x + s lies within the
distance over which the model was checked, the true gradient falls on the way there, and the loss
there differs from here by a small share of what the curvature changes over the distance checked.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, norm, row, scale
from hessian_probe.operators.hessian import HessianOperator, flatten_rows, unflatten_rows
from hessian_probe.points.ends import Ends
from hessian_probe.points.lines import LineProbe
from hessian_probe.results import number
from hessian_probe.spectrum.krylov import Krylov

# Share of the curvature's change that the loss may change on the way to the critical point.
# Measured on digits networks: at most 0.004 on plateaus, 0.3 and more when leaving them.
LOSS_SHARE = 0.03
# Share of the gradient that the model may leave unexplained, and the true gradient at x + s keep.
UNEXPLAINED = 0.1
KEPT = 0.5
# A remainder below this many gradient tolerances could be rounding; then nothing is claimed.
DOUBT = 10.0
# Products allowed for the Newton step.
STEP_PRODUCTS = 100


class Nearness(NamedTuple):
    """Where the nearest predicted critical point is.

    Attributes:
        kind: "exact" (gradient zero to rounding), "near", "far" or "unknown".
        distance: ‖s‖ in params; NaN if there is no prediction.
        critical_loss: loss at x + s.
        operator: the Hessian at x + s where "near", else None.
        reason: one sentence with the numbers.
    """

    kind: str
    distance: float
    critical_loss: float
    operator: HessianOperator | None
    reason: str


class Step(NamedTuple):
    """Newton step of the quadratic model: step, share unexplained, ½Σ|gᵢ|²/|λᵢ|, how it ended."""

    step: Vector | None
    unexplained: float
    change: float
    outcome: str


def judge_nearness(
    op: HessianOperator,
    ends: Ends,
    probes: tuple[LineProbe, ...],
    tolerance: float,
    key: jax.Array,
    budget: int,
) -> Nearness:
    """Decide how near a critical point is.

    Args:
        op: operator at the parameters.
        ends: spectrum ends found there.
        probes: line probes along the ends whose curvature is beyond the zero band.
        tolerance: gradient norm that is zero to rounding.
        key: random key.
        budget: products that may be spent.

    Returns:
        The judgement.
    """
    length = float(norm(op.gradient_vector))
    nowhere = math.nan
    if length <= tolerance:
        reason = f"gradient norm {number(length, 3)} is zero to rounding (tolerance {number(tolerance, 2)})"
        return Nearness("exact", 0.0, op.value, None, reason)
    if not probes:
        reason = f"gradient norm {number(length, 3)} with no curvature beyond the zero band: a slope"
        return Nearness("far", nowhere, nowhere, None, reason)
    if any(p.radius == 0.0 for p in probes):
        reason = "the quadratic model held at no distance probed"
        return Nearness("unknown", nowhere, nowhere, None, reason)
    radius = max(p.radius for p in probes)
    change = min(p.change for p in probes)
    least = length**2 / (2 * ends.top)
    if length / ends.top > radius or least > LOSS_SHARE * change:
        reason = (
            f"gradient norm {number(length, 3)} is too large: the nearest point where it could vanish changes "
            f"the loss by {number(least, 2)} or more, {number(least / change, 2)} of what the curvature "
            f"does within {number(radius, 2)} (at most {LOSS_SHARE})"
        )
        return Nearness("far", nowhere, nowhere, None, reason)
    step = _newton_step(op, ends, tolerance, radius, key, min(budget, STEP_PRODUCTS))
    return _check_step(op, step, length, tolerance, radius, change)


def _newton_step(
    op: HessianOperator, ends: Ends, tolerance: float, radius: float, key: jax.Array, budget: int
) -> Step:
    """Solve H s = −g, by the whole spectrum where it is known, else in the gradient's Krylov space."""
    length = float(norm(op.gradient_vector))
    goal = max(UNEXPLAINED, tolerance / length)
    if ends.spectrum is not None:
        return _dense_step(op, ends, length)
    krylov = Krylov(op, op.gradient_vector, key, max(budget, 1))
    y, rest, outcome = np.zeros(0), 1.0, "budget"
    while krylov.step():
        y, rest = krylov.least_squares(ends.band)
        if rest <= goal:
            outcome = "solved"
            break
        if length * float(np.linalg.norm(y)) > radius:
            outcome = "beyond"
            break
        if krylov.invariant or krylov.exhausted:
            outcome = "flat"
            break
    if krylov.size == 0:
        return Step(None, 1.0, math.inf, "budget")
    if krylov.size >= krylov.dimension and outcome == "budget":
        outcome = "flat"
    ritz = krylov.ritz()
    beyond = np.abs(ritz.values) > ends.band
    change = 0.5 * length**2 * float(np.sum(ritz.weights[0, beyond] ** 2 / np.abs(ritz.values[beyond])))
    step = scale(length, row(krylov.vectors(y[:, None]), 0))
    return Step(step, rest, change, outcome)


def _dense_step(op: HessianOperator, ends: Ends, length: float) -> Step:
    assert ends.spectrum is not None
    values, vectors = ends.spectrum
    gradient = flatten_rows(tuple(g[None] for g in op.gradient_vector))[0]
    inside = np.abs(values) > ends.band
    parts = vectors.T @ gradient
    flat = vectors[:, inside] @ (-parts[inside] / values[inside])
    rest = float(np.sqrt(max(length**2 - np.sum(parts[inside] ** 2), 0.0))) / length
    change = 0.5 * float(np.sum(parts[inside] ** 2 / np.abs(values[inside])))
    step = row(unflatten_rows(op.layout, flat[None]), 0)
    return Step(step, rest, change, "solved" if rest <= UNEXPLAINED else "flat")


def _check_step(
    op: HessianOperator, step: Step, length: float, tolerance: float, radius: float, change: float
) -> Nearness:
    nowhere = math.nan
    if step.outcome == "budget" or step.step is None:
        reason = (
            f"the Newton step to a critical point was not found within the budget "
            f"({number(step.unexplained, 2)} of the gradient still unexplained)"
        )
        return Nearness("unknown", nowhere, nowhere, None, reason)
    distance = float(norm(step.step))
    if step.outcome == "flat":
        share = f"{number(step.unexplained, 2)} of the gradient (norm {number(length, 3)})"
        if step.unexplained * length <= DOUBT * tolerance:
            reason = f"{share} lies where there is no curvature, and it could be rounding"
            return Nearness("unknown", nowhere, nowhere, None, reason)
        reason = f"{share} lies where there is no curvature: a slope along a flat direction"
        return Nearness("far", nowhere, nowhere, None, reason)
    if step.outcome == "beyond" or distance > radius:
        reason = (
            f"the nearest predicted critical point is {number(distance, 2)} away or more; the quadratic "
            f"model was seen to hold over {number(radius, 2)}"
        )
        return Nearness("far", nowhere, nowhere, None, reason)
    there = op.at(add_scaled(cast(op.x, op.layout.work_dtypes), 1.0, step.step))
    kept = float(norm(there.gradient_vector)) / length
    moved = max(abs(there.value - op.value), step.change)
    if not math.isfinite(kept):
        reason = "the loss is not finite at the predicted critical point"
        return Nearness("unknown", nowhere, nowhere, None, reason)
    numbers = (
        f"predicted critical point {number(distance, 2)} away: the gradient falls to {number(kept, 2)} of "
        f"{number(length, 2)} there, the loss moves by {number(moved, 2)}, {number(moved / change, 2)} of "
        f"what the curvature does within {number(radius, 2)}"
    )
    if moved > LOSS_SHARE * change:
        return Nearness("far", nowhere, nowhere, None, numbers + f" (at most {LOSS_SHARE})")
    if kept > KEPT and kept * length > DOUBT * tolerance:
        return Nearness("far", nowhere, nowhere, None, numbers + f" (the gradient must fall to {KEPT})")
    return Nearness("near", distance, there.value, there, numbers)


