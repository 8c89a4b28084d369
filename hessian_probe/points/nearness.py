"""Is there a critical point near enough for the curvature here to be about it?

Training never stops at a critical point exactly.  The local quadratic model predicts one at
x + s with H s = −g; it counts as near when the model explains the gradient, the true gradient all but
vanishes there (after a few such steps, each of which must work), and the loss there differs from here
by a small share of what the curvature changes over the distance along which it was checked.
"""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.arrays import add_scaled, cast, dot, norm, random_normal
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.extreme_eigenpairs import ExtremeEigenpairs
from hessian_probe.points.line_check import LineCheck
from hessian_probe.points.locate import (
    FEW_VARIABLES,
    KEPT_IN_ALL,
    MODEL_SHARE,
    LocatedPoint,
    NewtonIteration,
    Noise,
    far,
    unknown,
)
from hessian_probe.points.newton import dense_step, split_gradient
from hessian_probe.points.rounding import DRAWS, GRADIENT_NOISE, SINGLE, hides_slope
from hessian_probe.results import number

# A Newton step, and a gradient in the zero band, of at most so many roundings are zero.
STEP_ROUNDINGS = 32.0
# Products allowed for the Newton step.
STEP_PRODUCTS = 200


def locate(
    op: HessianOperator,
    extremes: ExtremeEigenpairs,
    line_checks: tuple[LineCheck, ...],
    noise: Noise,
    rng: np.random.Generator,
    budget: int,
) -> LocatedPoint:
    """Decide how near a critical point is.

    Args:
        op: operator at the parameters.
        extremes: spectrum ends found there.
        line_checks: line probes along the ends whose curvature is beyond the zero band.
        noise: accuracy of loss and gradient.
        rng: source of randomness.
        budget: products that may be spent.

    Returns:
        The judgement.
    """
    noise = _seen_from_zero(op, noise, line_checks, rng)
    length, tolerance = float(norm(op.gradient_vector)), noise.tolerance
    small = length <= tolerance
    if small and _small_along_all(op, extremes, noise) and _small_beside_change(op, extremes, line_checks):
        reason = f"gradient norm {number(length, 3)} is zero to rounding (tolerance {number(tolerance, 2)})"
        return LocatedPoint("exact", 0.0, op.value, None, reason)
    if not line_checks:
        return far(f"gradient norm {number(length, 3)} with no curvature beyond the zero band: a slope")
    if any(p.radius == 0.0 for p in line_checks):
        return unknown("the curvature holds at no distance probed")
    both_signs = extremes.negatives > 0 and extremes.positives > 0
    # A saddle needs both curvatures to matter; where all have one sign, that along the step will do.
    change = (min if both_signs else max)(p.change for p in line_checks)
    radius = max(p.radius for p in line_checks)
    iteration = NewtonIteration(op, extremes, noise, (change, radius), rng, min(budget, STEP_PRODUCTS))
    iteration.polish = not both_signs or op.size <= FEW_VARIABLES
    iteration.one_sign = not both_signs
    if small:  # as a whole, but not along weak curvature: steps must show that it falls there
        iteration.tolerance, iteration.doubtful = KEPT_IN_ALL * length, tolerance
    return iteration.run()


def _seen_from_zero(
    op: HessianOperator, noise: Noise, line_checks: tuple[LineCheck, ...], rng: np.random.Generator
) -> Noise:
    """Measure the gradient's rounding where parameters are zero and have no rounding of their own."""
    # They are moved by one rounding of the distance over which the curvature holds.
    flags = [bool(leaf.size) and not bool(np.any(np.asarray(leaf))) for leaf in op.x]
    radius = min((p.radius for p in line_checks), default=0.0)
    if not any(flags) or not radius > 0:
        return noise
    changes = []
    for _ in range(DRAWS):
        draw = random_normal(rng, op.layout, tuple(flags))
        moved = op.at(add_scaled(cast(op.x, op.layout.work_dtypes), op.eps * radius, draw))
        changes.append(add_scaled(moved.gradient_vector, -1.0, op.gradient_vector))
    slope = max(noise.slope, *(float(norm(change)) for change in changes))
    if not math.isfinite(slope):
        return noise
    tolerance = max(noise.tolerance, GRADIENT_NOISE * slope)
    return noise._replace(tolerance=tolerance, slope=slope, moved=(*noise.moved, *changes))


def _small_along_all(op: HessianOperator, extremes: ExtremeEigenpairs, noise: Noise) -> bool:
    """Whether a gradient that is small as a whole is small along every eigenvector."""
    # Along weak curvature a gradient below the rounding of the strong one can still be a slope.  Where
    # the spectrum is known, the Newton step and what lies in the zero band are compared with those of
    # the change that one rounding makes.
    if extremes.spectrum is None:
        return not hides_slope(op.gradient_vector, noise.moved, noise.tolerance)
    work = op.layout.work_dtypes
    eps, length = op.eps, float(norm(cast(op.x, work)))
    step, flat = split_gradient(op, op.gradient_vector, extremes.spectrum, extremes.band)
    noises = [split_gradient(op, change, extremes.spectrum, extremes.band) for change in noise.moved]
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
    found = [
        end for end in (extremes.low, extremes.high) if end is not None and abs(end.value) > extremes.band
    ]
    parts = [
        (0.5 * float(dot(op.gradient_vector, end.vector)) ** 2 / abs(end.value), check.change)
        for end, check in zip(found, line_checks, strict=True)
    ]
    if extremes.spectrum is not None:
        parts.append(
            (dense_step(op, extremes.spectrum, extremes.band).change, max(p.change for p in line_checks))
        )
    return all(moved <= MODEL_SHARE * change for moved, change in parts)
