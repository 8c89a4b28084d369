"""The gradient as an estimate: its noise over the data, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from hessian_probe.arrays import Vector, add_scaled, cast, dot, flatten, norm, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import accumulate
from hessian_probe.operators.per_batch import batch_gradients
from hessian_probe.points.extremes import ExtremeEigenpairs, Point
from hessian_probe.points.newton import UNEXPLAINED, krylov_step
from hessian_probe.points.reviews.sampling.split_half import SplitHalf, split_halves
from hessian_probe.spectrum.standard_errors import Estimate, weighted_mean

# Products for one draw of the gradient's noise where only the ends of the spectrum are known.
DRAW_PRODUCTS = 12


class GradientNoise(NamedTuple):
    """What the batches' gradients say.

    Attributes:
        error: root mean square length of the error of the mean gradient over the data.
        freedom: its degrees of freedom.
        along: slope along each direction that was asked for, with its error.
        curvatures: the curvature along each of them.
        halves: mean gradients of the even and of the odd batches.
        draw: one draw of the mean gradient's error: the batches' deviations with random signs.
        step_error: standard error of the slope along the step to the critical point, times its length.
    """

    error: float
    freedom: float
    along: tuple[Estimate, ...]
    curvatures: np.ndarray
    halves: tuple[Vector, Vector]
    draw: Vector
    step_error: float


def measure_gradient_noise(
    op: HessianOperator, extremes: ExtremeEigenpairs, rng: np.random.Generator, step: Vector | None = None
) -> GradientNoise:
    """Pass over the batches' gradients once.

    Args:
        op: operator at the parameters, over at least two batches.
        extremes: spectrum whose directions the gradients are projected on: all where they are known, else
            both ends.
        rng: source of the signs of the draw.
        step: step to the critical point, if that is elsewhere.

    Returns:
        The noise, from |ḡ|² = |G|² + tr Σ/N in the mean.

    Cost:
        One gradient.

    Source:
        S. McCandlish, J. Kaplan, D. Amodei et al. 2018, appendix A, arXiv:1812.06162; random signs:
        C. F. J. Wu, Annals of Statistics 14, 1986, doi:10.1214/aos/1176350142.
    """
    curvatures, project = _directions(extremes)
    weights, lengths, rows, ahead = [], [], [], []
    sums: list[Vector | None] = [None, None]
    draw: Vector | None = None
    totals = [0.0, 0.0]
    mean = op.gradient_vector
    for index, (weight, gradient) in enumerate(batch_gradients(op)):
        weights.append(weight)
        deviation = add_scaled(gradient, -1.0, mean)
        lengths.append(float(norm(deviation)))
        draw = accumulate(draw, weight * float(rng.choice((-1.0, 1.0))), deviation)
        rows.append(project(gradient))
        ahead.append(0.0 if step is None else float(dot(gradient, step)))
        sums[index % 2] = accumulate(sums[index % 2], weight, gradient)
        totals[index % 2] += weight
    shares = np.array(weights)
    concentration = float(np.sum(np.square(shares)))
    # Scaled first: squares of tiny gradients do not exist.
    top = max(max(lengths), 1e-300)
    spread = top * float(np.linalg.norm(shares * np.array(lengths) / top))
    correction = 1.0 / math.sqrt(max(1.0 - concentration, 1e-300))
    assert draw is not None
    even, odd = (scale(1.0 / t, s) for s, t in zip(sums, totals, strict=True) if s is not None)
    along = tuple(weighted_mean(column, shares) for column in np.array(rows).T)
    freedom = 1.0 / concentration - 1.0
    draw = scale(correction, draw)
    step_error = weighted_mean(np.array(ahead), shares).error
    return GradientNoise(correction * spread, freedom, along, curvatures, (even, odd), draw, step_error)


def _directions(extremes: ExtremeEigenpairs) -> tuple[np.ndarray, Callable[[Vector], np.ndarray]]:
    if extremes.spectrum is not None:
        values, columns = extremes.spectrum
        return values, lambda g: flatten(g) @ columns
    pairs = [end for end in (extremes.low, extremes.high) if end is not None]
    return (
        np.array([end.value for end in pairs]),
        lambda g: np.array([float(dot(g, end.vector)) for end in pairs]),
    )


class Displacement(NamedTuple):
    """How far noise of the gradient moves the critical point, in the loss.

    Attributes:
        change: quantile of ½ Σ εᵢ²/|λᵢ|, the most that the loss may differ by, in units of the loss.
        flat: whether much of the noise lies where there is no curvature.
        enough: whether the budget allowed to look.
    """

    change: float
    flat: bool
    enough: bool = True


def displacement(
    op: HessianOperator,
    extremes: ExtremeEigenpairs,
    gradient_noise: GradientNoise,
    level: float,
    limit: float,
    budget: int,
) -> Displacement:
    """Compare the critical points of these data and of all there could be.

    The noise ε of the gradient moves the critical point by H⁻¹ε, and the loss by at most ½ Σ εᵢ²/|λᵢ|
    eigenvector by eigenvector: a weighted sum of χ² variables, taken as one scaled χ² of the same mean
    and variance.  Where only the ends of the spectrum are known, one draw of ε is solved for in a short
    Krylov space as well.

    Args:
        op: operator at the place that is judged.
        extremes: spectrum there.
        gradient_noise: slopes along eigenvectors, with errors.
        level: probability of staying below what is returned.
        limit: change of the loss above which nothing more need be known.
        budget: products that may be spent.

    Returns:
        The displacement.

    Cost:
        Nothing where the whole spectrum is known, else at most DRAW_PRODUCTS products.

    Source:
        F. E. Satterthwaite, Biometrics Bulletin 2, 1946, doi:10.2307/3002019.
    """
    beyond = np.abs(gradient_noise.curvatures) > extremes.band
    errors = np.array([estimate.error for estimate in gradient_noise.along])
    known = _quantile(errors[beyond], gradient_noise.curvatures[beyond], level)
    if extremes.spectrum is not None:
        inside = float(np.linalg.norm(errors[~beyond]))
        return Displacement(known, inside > UNEXPLAINED * gradient_noise.error)
    if known > limit or float(norm(gradient_noise.draw)) == 0.0:
        return Displacement(known, False)
    if budget < DRAW_PRODUCTS:
        return Displacement(known, False, enough=False)
    rng = np.random.default_rng(0)  # only after a breakdown, where any direction will do
    step = krylov_step(
        op, extremes.band, UNEXPLAINED, (math.inf, limit), rng, DRAW_PRODUCTS, gradient_noise.draw
    )
    return Displacement(max(known, step.change), step.outcome == "flat")


def _quantile(errors: np.ndarray, curvatures: np.ndarray, level: float) -> float:
    """Quantile of ½ Σ εᵢ²/|λᵢ|."""
    parts = 0.5 * errors * (errors / np.abs(curvatures))
    total = float(np.sum(parts))
    if not (parts.size and total > 0):
        return 0.0
    freedom = total * (total / float(np.sum(np.square(parts))))
    return total * float(chi2.ppf(level, freedom)) / freedom


def held_out_slope(op: HessianOperator, gradient_noise: GradientNoise) -> SplitHalf:
    """Slope along each half's mean gradient, judged on the batches of the other half.

    Args:
        op: operator at the parameters.
        gradient_noise: what the first pass found.

    Returns:
        The slopes: of mean zero where the gradient of all there could be is zero, and at most |G|.

    Cost:
        One gradient.
    """
    directions = [scale(1.0 / max(float(norm(half)), 1e-300), half) for half in gradient_noise.halves]
    weights, values = [], []
    for index, (weight, gradient) in enumerate(batch_gradients(op)):
        weights.append(weight)
        values.append(float(dot(gradient, directions[1 - index % 2])))
    return split_halves(np.array(values), np.array(weights))


def newton_displacement(here: Point, there: Point) -> Vector | None:
    """Return the step from one place to the other; None where they are the same."""
    if there.operator is here.operator:
        return None
    work = here.operator.layout.work_dtypes
    return add_scaled(cast(there.operator.x, work), -1.0, cast(here.operator.x, work))


def loss_to_go(here: Point, there: Point, step: Vector | None) -> float:
    """Change of the loss along the step, from the slopes at both its ends."""
    if step is None:
        return 0.0
    return 0.5 * abs(sum(float(dot(step, place.operator.gradient_vector)) for place in (here, there)))


def model_change(gradient_noise: GradientNoise, there: Point, step: Vector | None) -> float:
    """The same eigenvector by eigenvector, as far as these are known: rises and falls do not cancel."""
    if step is None:
        return 0.0
    beyond = np.abs(gradient_noise.curvatures) > there.extremes.band
    along = np.array([estimate.value for estimate in gradient_noise.along])[beyond]
    return float(np.sum(0.5 * np.abs(along * (along / gradient_noise.curvatures[beyond]))))
