"""Whether the gradient is zero to rounding here; else Newton steps to a critical point near enough.

Training never stops at a critical point exactly.  The local quadratic model predicts one at
x + s with H s = −g; it counts as near when the model explains the gradient, the true gradient all but
vanishes there (after a few such steps, each of which must work), and the loss there differs from here
by a small share of what the curvature changes over the distance along which it was checked.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, add_scaled, dot, norm, random_normal, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.line_check import LineCheck, line_check, parameter_scale
from hessian_probe.points.newton import NewtonStep, dense_step, krylov_step, split_gradient
from hessian_probe.points.rounding import SINGLE, Rounding
from hessian_probe.points.thresholds import (
    DOUBTFUL_TOLERANCES,
    FEW_VARIABLES,
    GRADIENT_NOISE,
    KEPT_IN_ALL,
    LOCATE_STEPS,
    LOSS_SHARE,
    MODEL_SHARE,
    NEWTON_HVPS,
    POLISH_STEPS,
    POLISH_UNEXPLAINED,
    POLISHED_IN_ALL,
    PROGRESS,
    REGULAR_KEPT,
    REGULAR_STEPS,
    ROUNDING_DRAWS,
    STEP_ROUNDINGS,
    STEP_TAIL,
    UNEXPLAINED,
)
from hessian_probe.spectrum.krylov import Krylov


class LocatedPoint(NamedTuple):
    """Where the nearest predicted critical point is.

    Attributes:
        kind: "exact" (gradient zero to rounding), "near", "far" or "unknown".
        distance: ‖s‖ in params; NaN if there is no prediction.
        critical_loss: loss at x + s.
        operator: the Hessian at x + s where "near", else None.
        regular: False where the gradient fell only as fast as towards a point without curvature.
        space: Krylov space of the gradient at x, as far as it was built, or None.
        polished: whether the gradient at x + s is zero to a few tolerances; else that it vanishes nearby is a
            prediction.
        evidence: the numbers, what decided first.
    """

    kind: str
    distance: float
    critical_loss: float
    operator: HessianOperator | None
    evidence: tuple[Reason, ...]
    regular: bool = True
    polished: bool = True
    space: Krylov | None = None


def far(*evidence: Reason) -> LocatedPoint:
    """No critical point is near."""
    return LocatedPoint("far", math.nan, math.nan, None, evidence)


def unknown(*evidence: Reason) -> LocatedPoint:
    """Whether one is near was not found out."""
    return LocatedPoint("unknown", math.nan, math.nan, None, evidence)


def locate(
    op: HessianOperator,
    extremes: ExtremeEigenpairs,
    line_checks: tuple[LineCheck, ...],
    rounding: Rounding,
    rng: np.random.Generator,
    budget: int,
) -> LocatedPoint:
    """Decide how near a critical point is, by what line checks show along ends beyond the zero band."""
    rounding, tolerance = _gradient_rounding(op, extremes, rounding, line_checks, rng)
    length = float(norm(op.gradient_vector))
    small = length <= tolerance
    along_all = small and _small_along_all(op, extremes, rounding, tolerance)
    if along_all and _small_beside_change(op, extremes, line_checks):
        zero = Reason("gradient_zero", gradient=length, tolerance=tolerance)
        if length > tolerance - GRADIENT_NOISE * rounding.gradient:
            zero = Reason("gradient_below_change", gradient=length, change=rounding.gradient)
        return LocatedPoint("exact", 0.0, op.value, None, (zero,))
    if not line_checks:
        return far(Reason("slope_without_curvature", gradient=length))
    if any(p.radius == 0.0 for p in line_checks):
        return unknown(Reason("curvature_not_held"))
    both_signs = extremes.negatives > 0 and extremes.ends[1].value > extremes.band
    iteration = NewtonIteration(op, extremes, rounding, rng, min(budget, NEWTON_HVPS))
    # A saddle needs both curvatures to matter; where all have one sign, that along the step will do.
    iteration.change = (min if both_signs else max)(p.change for p in line_checks)
    iteration.radius = max(p.radius for p in line_checks)
    iteration.polish = not both_signs or op.size <= FEW_VARIABLES
    iteration.one_sign, iteration.tolerance = not both_signs, tolerance
    if small:  # as a whole, but not along weak curvature: steps must show that it falls there
        iteration.tolerance, iteration.doubtful = KEPT_IN_ALL * length, tolerance
    return iteration.run()._replace(space=iteration.space)


def _gradient_rounding(
    op: HessianOperator,
    extremes: ExtremeEigenpairs,
    rounding: Rounding,
    line_checks: tuple[LineCheck, ...],
    rng: np.random.Generator,
) -> tuple[Rounding, float]:
    """Rounding error with the gradient norm that is zero to it; parameters of zero are measured apart."""
    tolerance = rounding.gradient_tolerance(extremes.top)
    # They have no rounding of their own: they move by that of the distance over which the curvature holds.
    flags = [bool(leaf.size) and not bool(np.any(np.asarray(leaf))) for leaf in op.x]
    radius = min((p.radius for p in line_checks), default=0.0)
    if not any(flags) or not radius > 0:
        return rounding, tolerance
    changes = []
    for _ in range(ROUNDING_DRAWS):
        draw = random_normal(rng, op.layout, tuple(flags))
        moved = op.moved(draw, op.eps * radius)
        changes.append(add_scaled(moved.gradient_vector, -1.0, op.gradient_vector))
    wider = rounding.widened(changes)
    if not wider.finite:
        return rounding, tolerance
    return wider, max(tolerance, GRADIENT_NOISE * wider.gradient)


def _small_along_all(
    op: HessianOperator, extremes: ExtremeEigenpairs, rounding: Rounding, tolerance: float
) -> bool:
    """Whether a gradient that is small as a whole is small along every eigenvector."""
    # Along weak curvature a gradient below the rounding of the strong one can still be a slope.  Where
    # the spectrum is known, the Newton step and what lies in the zero band are compared with those of
    # the change that one rounding makes.
    if extremes.spectrum is None:
        return not rounding.hides_slope(op.gradient_vector, tolerance)
    eps, length = op.eps, float(norm(op.x_vector))
    step, flat = split_gradient(op, op.gradient_vector, extremes.spectrum, extremes.band)
    noises = [split_gradient(op, change, extremes.spectrum, extremes.band) for change in rounding.changes]
    step_noise, flat_noise = (max(parts) for parts in zip(*noises, strict=True))
    return step <= STEP_ROUNDINGS * (step_noise + eps * length) and flat <= STEP_ROUNDINGS * (
        flat_noise + eps * extremes.band * length
    )


def _small_beside_change(
    op: HessianOperator, extremes: ExtremeEigenpairs, line_checks: tuple[LineCheck, ...]
) -> bool:
    """Whether a gradient below coarse rounding also moves the loss by little, as the model has it."""
    # Rounding in bfloat16 is wide enough to hide the slope of a tail like exp(−x), far out.
    if op.eps <= SINGLE or not line_checks or not float(norm(op.gradient_vector)) > 0:
        return True
    found = [end for end in extremes.ends if abs(end.value) > extremes.band]
    parts = [
        (0.5 * float(dot(op.gradient_vector, end.vector)) ** 2 / abs(end.value), check.change)
        for end, check in zip(found, line_checks, strict=True)
    ]
    if extremes.spectrum is not None:
        step = dense_step(op, extremes.spectrum, extremes.band)
        parts.append((step.change, max(p.change for p in line_checks)))
    return all(moved <= MODEL_SHARE * change for moved, change in parts)


class NewtonIteration:
    """Newton steps from the parameters towards the predicted critical point.

    Attributes:
        change: what the curvature changes of the loss.
        radius: up to which distance it was seen to hold.
        tolerance: gradient norm that is zero to rounding.
        doubtful: a remainder below this many DOUBTs could be rounding, too.
    """

    def __init__(
        self,
        op: HessianOperator,
        extremes: ExtremeEigenpairs,
        rounding: Rounding,
        rng: np.random.Generator,
        budget: int,
    ) -> None:
        self.op, self.extremes, self.rounding, self.rng = op, extremes, rounding, rng
        self.change = self.radius = self.tolerance = self.doubtful = 0.0
        self.polish = self.one_sign = False
        self.space: Krylov | None = None
        self.stop_at = op.objective.cost.num_hvps + budget
        self.limit = parameter_scale(op)
        self.length = float(norm(op.gradient_vector))

    def run(self) -> LocatedPoint:
        """Take steps until one settles it."""
        here, spectrum, ratio, in_a_row = self.op, self.extremes.spectrum, 1.0, 0
        for _ in range(POLISH_STEPS if self.polish else LOCATE_STEPS):
            step = self._step(here, spectrum)
            stop = self._hopeless(here, step)
            if stop is not None:
                return stop
            assert step.vector is not None
            if self.one_sign and here is self.op and not self._check_step(step.vector):
                return unknown(Reason("no_curvature_along_step"))
            there = here.moved(step.vector)
            before, after = (float(norm(o.gradient_vector)) for o in (here, there))
            if not math.isfinite(after):
                return unknown(Reason("loss_nonfinite_there"))
            # At params of zero nothing is rounded; where the step leads, something is.
            rounded = there.eps * self.extremes.top * float(norm(there.x_vector))
            self.tolerance = max(self.tolerance, rounded)
            numbers = self._numbers(there)
            # The loss, or the model eigenvector by eigenvector, may change too much on the path.
            if self._moved(there) > LOSS_SHARE * self.change:
                return far(Reason("loss_moves_too_much", limit=100 * LOSS_SHARE), numbers)
            if step.change > MODEL_SHARE * self.change:
                percent, limit = self._percent(step.change), 100 * MODEL_SHARE
                return far(Reason("model_moves_too_much", percent=percent, limit=limit), numbers)
            # Rounding may spoil the last ratio, hence the better one of the last two.
            ratio, last = after / before, ratio
            regular = min(ratio, last) <= REGULAR_KEPT or self._rounded_away(there, after)
            in_a_row = in_a_row + 1 if ratio <= REGULAR_KEPT else 0
            if self._arrived(before, after, regular, in_a_row):
                distance = float(norm(self._path(there)))
                if not regular and distance > self.radius:
                    return unknown(numbers, Reason("curvature_held_nearer", radius=self.radius))
                polished = after <= DOUBTFUL_TOLERANCES * self.tolerance
                return LocatedPoint("near", distance, there.value, there, (numbers,), regular, polished)
            if ratio > PROGRESS or (here is not self.op and ratio > STEP_TAIL):
                break
            here, spectrum = there, None
        return unknown(Reason("newton_stalls", share=after / before, kept=str(REGULAR_KEPT)), numbers)

    def _unseen(self, slope: float) -> bool:
        """Whether a slope does not show in the loss over the distance that is checked."""
        # Small parameters are hardly rounded, and so show little of the rounding of sums over the data.
        return slope * self.limit <= DOUBTFUL_TOLERANCES * self.rounding.value

    def _rounded_away(self, there: HessianOperator, after: float) -> bool:
        """Whether the gradient is what rounding was measured to make, as a whole and entry by entry."""
        measured = min(self.tolerance, GRADIENT_NOISE * self.rounding.gradient)
        return after <= measured and not self.rounding.hides_slope(there.gradient_vector, self.tolerance)

    def _check_step(self, step: Vector) -> bool:
        """Take the distance checked, and what the curvature does over it, along the step itself."""
        distance = float(norm(step))
        if not distance > 0:
            return False
        along = scale(1 / distance, step)
        curvature = -float(dot(self.op.gradient_vector, along)) / distance
        check = line_check(self.op, along, curvature, self.rounding)
        self.change, self.radius = check.change, check.radius
        return check.radius > 0

    def _arrived(self, before: float, after: float, regular: bool, in_a_row: int) -> bool:
        stuck = after > PROGRESS * before and after <= DOUBTFUL_TOLERANCES * self.tolerance
        if regular and (after <= self.tolerance or stuck):
            return True
        if self.polish:
            return after <= POLISHED_IN_ALL * self.length and not regular
        if in_a_row:
            return in_a_row >= REGULAR_STEPS
        return after <= KEPT_IN_ALL * self.length

    def _step(self, op: HessianOperator, spectrum: tuple[np.ndarray, np.ndarray] | None) -> NewtonStep:
        if spectrum is not None:
            return dense_step(op, spectrum, self.extremes.band)
        goal = POLISH_UNEXPLAINED if self.polish else UNEXPLAINED
        goal = max(goal, 0.5 * self.tolerance / float(norm(op.gradient_vector)))
        limits = self.limit, MODEL_SHARE * self.change
        left = self.stop_at - op.objective.cost.num_hvps
        step = krylov_step(op, self.extremes.band, goal, limits, self.rng, left)
        self.space = step.space if op is self.op else self.space
        return step

    def _path(self, there: HessianOperator) -> Vector:
        return add_scaled(there.x_vector, -1.0, self.op.x_vector)

    def _hopeless(self, here: HessianOperator, step: NewtonStep) -> LocatedPoint | None:
        """Say why no critical point follows from this step, or None if one may."""
        length = float(norm(here.gradient_vector))
        if step.outcome == "costly":
            numbers = {"gradient": length, "change": step.change, "percent": self._percent(step.change)}
            limit = 100 * MODEL_SHARE
            return far(Reason("gradient_too_large", **numbers, radius=self.radius, limit=limit))
        if step.outcome == "budget" or step.vector is None:
            return unknown(Reason("newton_budget", unexplained=step.unexplained))
        if step.outcome == "flat":
            left = step.unexplained * length
            if left <= max(DOUBTFUL_TOLERANCES * self.tolerance, self.doubtful) or self._unseen(left):
                return unknown(Reason("flat_or_rounding", percent=100 * step.unexplained, gradient=length))
            return far(Reason("slope_along_flat", percent=100 * step.unexplained, gradient=length))
        distance = float(norm(step.vector))
        if step.outcome == "beyond" or distance > self.limit:
            costly = step.change > MODEL_SHARE * self.change
            beyond = Reason("prediction_too_far", distance=distance, limit=self.limit)
            return far(beyond) if costly else unknown(beyond)
        return None

    def _moved(self, there: HessianOperator) -> float:
        """Change of the loss; from the gradients at both ends where losses are too coarse to subtract."""
        if 10 * self.rounding.value <= LOSS_SHARE * self.change:
            return abs(there.value - self.op.value)
        path = self._path(there)
        return 0.5 * abs(float(dot(path, self.op.gradient_vector)) + float(dot(path, there.gradient_vector)))

    def _percent(self, change: float) -> float:
        """A change of the loss, in percent of what the curvature changes."""
        return 100 * change / max(self.change, 1e-300)

    def _numbers(self, there: HessianOperator) -> Reason:
        moved = self._moved(there)
        return Reason(
            "newton_predicts",
            distance=float(norm(self._path(there))),
            before=self.length,
            after=float(norm(there.gradient_vector)),
            moved=moved,
            percent=self._percent(moved),
            radius=self.radius,
        )
