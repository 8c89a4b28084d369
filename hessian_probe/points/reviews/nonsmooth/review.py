"""When finite steps are used, and whether they confirm or replace a verdict (labels: `stationarity`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, dot, norm, random_normal, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import Objective
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.line_check import LineCheck, parameter_scale
from hessian_probe.points.reviews.nonsmooth.stationarity import APART, Stationarity, examine_stationarity
from hessian_probe.points.rounding import SINGLE, Rounding
from hessian_probe.points.second_order import Verdict, undetermined
from hessian_probe.programs.active_kinks import operands_tie
from hessian_probe.results import number, signed

# A saddle's gradient is zero here; gradients at opposite points whose mean is longer than this share of
# the longer one, at two distances, are a slope that the derivative at the point itself does not show.
HIDDEN_SLOPE = 0.5
# Distances at which that is looked for, as shares of the distance over which the curvature holds.
CLOSER = (1e-2, 1e-4)
# Beside a kink the loss may lie above it by this share of the change further out, as beside a smooth point.
DEPTH_SHARE = 0.1
# Up to this dimension samples cover the directions densely enough for an extremum at a kink to be claimed.
FEW_DIRECTIONS = 2
# Finite-step curvature agrees with the second derivative within this share.
AGREES = 0.25
# Steps along minus the gradient, as shares of the length of the parameters (at least 1).
STEPS = 0.1 * 0.1 ** np.arange(8)
# The slope has ended where less than this share of it is left.
LEFT = 0.5
# A step at which the curvature changes the slope by this share says nothing of a kink.
CURVED = 0.1
# The parameters' rounding must be below this share of a step.
ROUNDING_SHARE = 1e-2
# Times that the bracket around the kink is divided by nine, at most: 9¹⁶ > 1/eps.
REFINEMENTS = 16


class DerivativeEvidence(NamedTuple):
    """What the derivatives show before finite steps are taken.

    Attributes:
        extremes: extreme eigenpairs, or None.
        line_checks: what the loss shows along them.
        rounding: rounding error at the parameters.
        blind: the second derivative does not exist, cannot be repeated, or is not what the loss shows.
    """

    extremes: ExtremeEigenpairs | None
    line_checks: Mapping[str, LineCheck]
    rounding: Rounding
    derivative_failed: bool


def review_nonsmooth(
    op: HessianOperator, seen: DerivativeEvidence, verdict: Verdict, rng: np.random.Generator
) -> tuple[Verdict, Stationarity | None]:
    """Let finite steps confirm, withdraw or replace a verdict.

    Nothing is done for a loss whose program has no kink, unless the second derivative failed.

    Args:
        op: operator at the point that the verdict is about.
        seen: what is known.
        verdict: the verdict so far.
        rng: source of randomness.

    Returns:
        The verdict, and what was found if finite steps replaced it.

    Cost:
        Four to eight gradients for a saddle; about 80 for each of four distances otherwise.
    """
    facts = op.objective.facts
    # Gradients that are drawn, coarse, or not those of the loss are no guide.
    misled = facts.random or facts.callback or facts.custom_derivative or op.eps > SINGLE
    if misled or not (facts.kinks or seen.derivative_failed):
        return verdict, None
    if verdict.label == "saddle":
        hidden = _hidden_slope(op, seen, rng)
        if hidden is None:
            return verdict, None
        found = _examined(op, seen, rng)
        return _replaced(op, found, hidden, verdict, seen)
    if verdict.label in ("minimum", "maximum"):
        found = _examined(op, seen, rng, min((p.radius for p in seen.line_checks.values()), default=math.inf))
        against = found.falls if verdict.label == "minimum" else found.rises
        decided = found.verdict is not None and found.verdict.label != verdict.label
        if not (against or decided):
            return withhold_at_kink(op, verdict), None
        side = "lower" if verdict.label == "minimum" else "higher"
        reason = Reason("finite_steps_differ", label=verdict.label, side=side)
        return _replaced(op, found, reason, verdict, seen)
    if verdict.label == "not_critical" and seen.extremes is not None:
        return _slope_checked(op, seen, verdict, rng)
    if verdict.label == "degenerate" or (verdict.label == "undetermined" and seen.derivative_failed):
        found = _examined(op, seen, rng)
        if found.verdict is None or (verdict.label == "degenerate" and _many(op, found)):
            return verdict.with_reasons(*found.evidence), None
        return _replaced(op, found, None, verdict, seen)
    return verdict, None


def withhold_at_kink(op: HessianOperator, verdict: Verdict) -> Verdict:
    """Let an extremum stand that is not at a kink, or has few directions; else claim nothing.

    At a kink the loss may fall within a wedge so narrow that no sample meets it.

    Args:
        op: operator at the point.
        verdict: a minimum or maximum.

    Returns:
        The verdict, not certified at a kink; or "undetermined".
    """
    if not at_a_kink(op.objective, op.x):
        return verdict
    if op.size > FEW_DIRECTIONS:
        return undetermined(Reason("kinks_many_directions", size=op.size), *verdict.evidence)
    return verdict._replace(strict=False, certified=False).with_reasons(Reason("kink_sampled"))


def _slope_checked(
    op: HessianOperator, seen: DerivativeEvidence, verdict: Verdict, rng: np.random.Generator
) -> tuple[Verdict, Stationarity | None]:
    """Follow the slope: where it ends sooner than the curvature can make it, a kink is there."""
    assert seen.extremes is not None
    kink = find_kink(op, seen.extremes.top)
    if kink is None:
        return verdict, None
    there = op if kink.offset == 0 else op.at(add_scaled(_work(op), 1.0, kink.move))
    found = _examined(there, seen, rng, nearest=APART * kink.width)
    if found.verdict is not None:
        if found.verdict.label == "not_critical":
            return verdict, None
        if op.value - there.value > DEPTH_SHARE * found.extent:
            return verdict, None  # high up the wall of that valley
    return _replaced(op, found._replace(offset=kink.offset), kink.reason, verdict, seen)


def _replaced(
    op: HessianOperator,
    found: Stationarity,
    reason: Reason | None,
    verdict: Verdict,
    seen: DerivativeEvidence,
) -> tuple[Verdict, Stationarity]:
    first = () if reason is None else (reason,)
    if found.verdict is None:
        return undetermined(*first, *found.evidence, *verdict.evidence), found
    if _many(op, found):
        return undetermined(Reason("kinks_many_directions", size=op.size), *first, *verdict.evidence), found
    against = _against(found.verdict.label, seen.extremes)
    if against is not None:
        return undetermined(against, *first, *found.evidence, *verdict.evidence), found
    evidence = (*found.verdict.evidence, *first, *verdict.evidence)
    return found.verdict._replace(evidence=evidence), found


def _many(op: HessianOperator, found: Stationarity) -> bool:
    """Whether an extremum was found by samples in more directions than samples can cover."""
    verdict = found.verdict
    return verdict is not None and verdict.label in ("minimum", "maximum") and op.size > FEW_DIRECTIONS


def _against(label: str, extremes: ExtremeEigenpairs | None) -> Reason | None:
    """Say so if the second derivative, blind as it is, shows curvature of the sign that a label denies."""
    if extremes is None or extremes.low is None or extremes.high is None:
        return None
    value = {"minimum": extremes.low.value, "maximum": -extremes.high.value}.get(label, 0.0)
    return None if value >= -extremes.band else Reason("second_derivative_against", label=label)


def _examined(
    op: HessianOperator,
    seen: DerivativeEvidence,
    rng: np.random.Generator,
    farthest: float = math.inf,
    nearest: float = 0.0,
) -> Stationarity:
    directions = (
        [] if seen.extremes is None else [e.vector for e in (seen.extremes.low, seen.extremes.high) if e]
    )
    gradient = op.gradient_vector
    if math.isfinite(float(norm(gradient))):
        directions.append(gradient)
    top = seen.extremes.top if seen.extremes is not None else 0.0
    found = examine_stationarity(op, directions, seen.rounding, top, rng, farthest, nearest)
    if found.direction is None or not found.scales or (seen.derivative_failed and seen.extremes is None):
        return found
    return found._replace(evidence=(*found.evidence, *_beside(op, found)))


def _beside(op: HessianOperator, found: Stationarity) -> tuple[Reason, ...]:
    """Compare the curvature by finite steps with the second derivative along the same direction."""
    assert found.direction is not None
    exact = float(dot(found.direction, op.apply(found.direction)))
    if not math.isfinite(exact):
        return (Reason("second_derivative_nonfinite"),)
    listed = ", ".join(f"{signed(c, 3)} at {number(h, 2)}" for h, c in found.scales)
    good = [h for h, c in found.scales if abs(c - exact) <= AGREES * abs(c)]
    where = f"predicts the loss up to {number(max(good), 2)}" if good else "predicts it at no distance tried"
    return (Reason("finite_step_curvature", listed=listed, exact=exact, where=where),)


def _hidden_slope(op: HessianOperator, seen: DerivativeEvidence, rng: np.random.Generator) -> Reason | None:
    """Say so if gradients on both sides of the point agree on a slope that the point does not show."""
    distance = min(
        (p.radius for p in seen.line_checks.values() if p.radius > 0), default=0.1 * parameter_scale(op)
    )
    own = float(norm(op.gradient_vector))
    means = []
    for share in CLOSER:
        h = share * distance
        draw = random_normal(rng, op.layout, op.active)
        unit = scale(1 / norm(draw), draw)
        sides = [op.at(_moved(op, sign * h, unit)).gradient_vector for sign in (1.0, -1.0)]
        mean = 0.5 * float(norm(add_scaled(sides[0], 1.0, sides[1])))
        longest = max(float(norm(g)) for g in sides)
        means.append(mean)
        noise = 8 * seen.rounding.gradient if math.isfinite(seen.rounding.gradient) else 0.0
        if not mean > max(HIDDEN_SLOPE * longest, 4 * own + noise):
            return None
    if means[1] < HIDDEN_SLOPE * means[0]:
        return None
    return Reason("hidden_slope", gradient=own, mean=means[1], distance=CLOSER[1] * distance)


def _moved(op: HessianOperator, step: float, direction: Vector) -> Vector:
    return add_scaled(_work(op), step, direction)


def _work(op: HessianOperator) -> Vector:
    return cast(op.x, op.layout.work_dtypes)


def at_a_kink(objective: Objective, x: Vector) -> bool:
    """Whether operands of the loss's kinks tie at `x` on any batch; True also where that cannot be told.

    Returns:
        False only if none of these kinks lies at `x`, on any batch.

    Cost:
        One evaluation of the loss, and its compilation.
    """
    kinks = set(objective.facts.kinks)
    if not kinks:
        return False
    for batch in objective.data:
        program = objective.program(batch, x)
        inputs = jax.tree.leaves((x, objective.non_variables, batch.arrays))
        if operands_tie(program, len(x), inputs, kinks, float(objective.eps)):
            return True
    return False


class Kink(NamedTuple):
    """The end of a slope.

    Attributes:
        move: displacement to it.
        offset: its length; 0 where the slope does not even hold at the point.
        width: how accurately it is known.
        reason: what shows it.
    """

    move: Vector
    offset: float
    width: float
    reason: Reason


def find_kink(op: HessianOperator, top: float) -> Kink | None:
    """Follow minus the gradient until a kink ends the slope.

    Args:
        op: operator at the point.
        top: ‖H‖ there.

    Returns:
        The kink, or None where the slope goes on as the derivatives say.

    Cost:
        16 evaluations of loss and slope, or up to 136.
    """
    length = float(norm(op.gradient_vector))
    if not (length > 0 and math.isfinite(length)):
        return None
    downhill = scale(-1 / length, op.gradient_vector)
    rounding = op.eps * float(norm(cast(op.x, op.layout.work_dtypes)))
    steps = STEPS[::-1] * parameter_scale(op)
    _, slopes = op.objective.line(op.x, downhill, steps)
    useful = (rounding <= ROUNDING_SHARE * steps) & (top * steps <= CURVED * length) & np.isfinite(slopes)
    ended = useful & (slopes > -LEFT * length)
    if not np.any(ended):
        return _behind(op, downhill, steps[useful], length)
    first = int(np.argmax(ended))
    if not np.any(useful[:first]):
        return _on_kink(downhill, length, float(steps[first]), float(slopes[first]))
    low, high = float(steps[first - 1]), float(steps[first])
    for _ in range(REFINEMENTS):
        if high - low <= 2 * rounding:
            break
        inner = np.linspace(low, high, 10)[1:-1]
        _, slopes = op.objective.line(op.x, downhill, inner)
        index = int(np.argmax(np.append(slopes > -LEFT * length, True)))
        edges = np.r_[low, inner, high]
        low, high = float(edges[index]), float(edges[index + 1])
    reason = Reason("beside_kink", gradient=length, distance=low)
    return Kink(scale(0.5 * (low + high), downhill), 0.5 * (low + high), high - low, reason)


def _on_kink(downhill: Vector, length: float, step: float, slope: float) -> Kink:
    reason = Reason("on_kink", gradient=length, distance=step, slope=slope)
    return Kink(scale(0.0, downhill), 0.0, 0.0, reason)


def _behind(op: HessianOperator, downhill: Vector, steps: np.ndarray, length: float) -> Kink | None:
    """Whether the slope does not hold uphill of the point: it is on top of a kink."""
    if len(steps) == 0:
        return None
    _, slopes = op.objective.line(op.x, downhill, -np.resize(steps, len(STEPS)))
    if slopes[0] > -LEFT * length:
        return _on_kink(downhill, length, float(-steps[0]), float(slopes[0]))
    return None
