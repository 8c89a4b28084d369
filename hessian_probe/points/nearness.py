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
from hessian_probe.points.extreme_eigenpairs import Ends
from hessian_probe.points.line_check import LineProbe
from hessian_probe.points.locate import (
    FEW_VARIABLES,
    KEPT_IN_ALL,
    MODEL_SHARE,
    Approach,
    Nearness,
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


def judge_nearness(
    op: HessianOperator,
    ends: Ends,
    probes: tuple[LineProbe, ...],
    noise: Noise,
    rng: np.random.Generator,
    budget: int,
) -> Nearness:
    """Decide how near a critical point is.

    Args:
        op: operator at the parameters.
        ends: spectrum ends found there.
        probes: line probes along the ends whose curvature is beyond the zero band.
        noise: accuracy of loss and gradient.
        rng: source of randomness.
        budget: products that may be spent.

    Returns:
        The judgement.
    """
    noise = _seen_from_zero(op, noise, probes, rng)
    length, tolerance = float(norm(op.gradient_vector)), noise.tolerance
    small = length <= tolerance
    if small and _small_along_all(op, ends, noise) and _small_beside_change(op, ends, probes):
        reason = f"gradient norm {number(length, 3)} is zero to rounding (tolerance {number(tolerance, 2)})"
        return Nearness("exact", 0.0, op.value, None, reason)
    if not probes:
        return far(f"gradient norm {number(length, 3)} with no curvature beyond the zero band: a slope")
    if any(p.radius == 0.0 for p in probes):
        return unknown("the curvature holds at no distance probed")
    both_signs = ends.negatives > 0 and ends.positives > 0
    # A saddle needs both curvatures to matter; where all have one sign, that along the step will do.
    change = (min if both_signs else max)(p.change for p in probes)
    radius = max(p.radius for p in probes)
    approach = Approach(op, ends, noise, (change, radius), rng, min(budget, STEP_PRODUCTS))
    approach.polish = not both_signs or op.size <= FEW_VARIABLES
    approach.one_sign = not both_signs
    if small:  # as a whole, but not along weak curvature: steps must show that it falls there
        approach.tolerance, approach.doubtful = KEPT_IN_ALL * length, tolerance
    return approach.run()


def _seen_from_zero(
    op: HessianOperator, noise: Noise, probes: tuple[LineProbe, ...], rng: np.random.Generator
) -> Noise:
    """Measure the gradient's rounding where parameters are zero and have no rounding of their own."""
    # They are moved by one rounding of the distance over which the curvature holds.
    flags = [bool(leaf.size) and not bool(np.any(np.asarray(leaf))) for leaf in op.x]
    radius = min((p.radius for p in probes), default=0.0)
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


def _small_along_all(op: HessianOperator, ends: Ends, noise: Noise) -> bool:
    """Whether a gradient that is small as a whole is small along every eigenvector."""
    # Along weak curvature a gradient below the rounding of the strong one can still be a slope.  Where
    # the spectrum is known, the Newton step and what lies in the zero band are compared with those of
    # the change that one rounding makes.
    if ends.spectrum is None:
        return not hides_slope(op.gradient_vector, noise.moved, noise.tolerance)
    work = op.layout.work_dtypes
    eps, length = op.eps, float(norm(cast(op.x, work)))
    step, flat = split_gradient(op, op.gradient_vector, ends.spectrum, ends.band)
    noises = [split_gradient(op, change, ends.spectrum, ends.band) for change in noise.moved]
    step_noise, flat_noise = (max(parts) for parts in zip(*noises, strict=True))
    return step <= STEP_ROUNDINGS * (step_noise + eps * length) and flat <= STEP_ROUNDINGS * (
        flat_noise + eps * ends.band * length
    )


def _small_beside_change(op: HessianOperator, ends: Ends, probes: tuple[LineProbe, ...]) -> bool:
    """Whether a gradient below coarse rounding also moves the loss by little, as the model has it."""
    # Rounding in bfloat16 is wide enough to hide the slope of a tail like exp(−x), far out.
    if op.eps <= SINGLE or not probes or not float(norm(op.gradient_vector)) > 0:
        return True
    found = [end for end in (ends.low, ends.high) if end is not None and abs(end.value) > ends.band]
    parts = [
        (0.5 * float(dot(op.gradient_vector, end.vector)) ** 2 / abs(end.value), probe.change)
        for end, probe in zip(found, probes, strict=True)
    ]
    if ends.spectrum is not None:
        parts.append((dense_step(op, ends.spectrum, ends.band).change, max(p.change for p in probes)))
    return all(moved <= MODEL_SHARE * change for moved, change in parts)
