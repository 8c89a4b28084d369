"""Noise over the data: of the gradient, and of signs judged on batches that had no part in finding them.

The lowest eigenvector of a sample fits its noise: the Rayleigh quotient there is too low on that very
sample, and so is the sample's lowest eigenvalue (λ_min is concave, so E λ_min(sample) ≤ λ_min(all); by
Jensen).  On other samples the quotient of that fixed vector has no bias, and its mean cannot lie below
λ_min(all).  For the largest eigenvalue all signs are turned.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from hessian_probe.arrays import Vector, add_scaled, dot, flatten, host_norm, norm, row, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import accumulate
from hessian_probe.operators.per_batch import (
    batch_gradients,
    charge_share,
    rayleigh_quotients,
    select_batches,
)
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.newton import krylov_step
from hessian_probe.points.thresholds import DRAW_HVPS, FEWEST_STEPS, MOST_STEPS, NOISE_DRAWS, UNEXPLAINED
from hessian_probe.spectrum.krylov import Krylov
from hessian_probe.spectrum.standard_errors import Estimate, weighted_mean


class SamplingErrors(NamedTuple):
    """Errors over the data; None where they were not measured.

    Attributes:
        low: standard error of the lowest eigenvalue at the parameters.
        high: of the highest.
        gradient: root mean square length of the gradient's error.
        samples: samples, in all, that would settle an undetermined label: from, about, to.
        batches: batches that the same samples should be cut into first.
    """

    low: float | None = None
    high: float | None = None
    gradient: float | None = None
    samples: tuple[int, int, int] | None = None
    batches: int | None = None


class GradientNoise(NamedTuple):
    """What the batches' gradients say.

    Attributes:
        error: root mean square length of the error of the mean gradient over the data.
        freedom: its degrees of freedom.
        along: slope along each direction that was asked for, with its error.
        curvatures: the curvature along each of them.
        halves: mean gradients of the even and of the odd batches.
        draw: the longest of a few draws of the mean gradient's error: the batches' deviations with random
            signs, as many of either.
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
    ends = [end for end in (extremes.low, extremes.high) if end is not None]
    spectrum = extremes.spectrum
    curvatures = np.array([end.value for end in ends]) if spectrum is None else spectrum[0]

    def project(gradient: Vector) -> list[float]:
        if spectrum is None:
            return [float(dot(gradient, end.vector)) for end in ends]
        return list(flatten(gradient) @ spectrum[1])

    weights, lengths, rows = list[float](), list[float](), list[list[float]]()
    sums: list[Vector | None] = [None, None]
    signs = np.where(np.arange(op.objective.data.count) % 2, -1.0, 1.0)
    signed = [rng.permutation(signs) for _ in range(NOISE_DRAWS)]
    draws: list[Vector | None] = [None] * NOISE_DRAWS
    for index, (weight, gradient) in enumerate(batch_gradients(op)):
        weights.append(weight)
        deviation = add_scaled(gradient, -1.0, op.gradient_vector)
        lengths.append(float(norm(deviation)))
        draws = [
            accumulate(d, weight * float(s[index]), deviation) for d, s in zip(draws, signed, strict=True)
        ]
        rows.append([*project(gradient), 0.0 if step is None else float(dot(gradient, step))])
        sums[index % 2] = accumulate(sums[index % 2], weight, gradient)
    shares = np.array(weights)
    concentration = float(np.sum(np.square(shares)))
    correction = 1.0 / math.sqrt(max(1.0 - concentration, 1e-300))
    draw = max((each for each in draws if each is not None), key=lambda each: float(norm(each)))
    even, odd = (scale(1.0 / np.sum(shares[s::2]), sums[s]) for s in (0, 1))
    *along, ahead = (weighted_mean(column, shares) for column in np.array(rows).T)
    return GradientNoise(
        correction * host_norm(shares * lengths),
        1.0 / concentration - 1.0,
        tuple(along),
        curvatures,
        (even, odd),
        draw,
        ahead.error,
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
        Nothing where the whole spectrum is known, else at most DRAW_HVPS products.

    Source:
        F. E. Satterthwaite, Biometrics Bulletin 2, 1946, doi:10.2307/3002019.
    """
    beyond = np.abs(gradient_noise.curvatures) > extremes.band
    errors, known = np.array([estimate.error for estimate in gradient_noise.along]), 0.0
    parts = 0.5 * errors[beyond] * (errors[beyond] / np.abs(gradient_noise.curvatures[beyond]))
    total = float(np.sum(parts))
    if total > 0:
        freedom = total * (total / float(np.sum(np.square(parts))))
        known = total * float(chi2.ppf(level, freedom)) / freedom
    if extremes.spectrum is not None:
        inside = float(np.linalg.norm(errors[~beyond]))
        return Displacement(known, inside > UNEXPLAINED * gradient_noise.error)
    if known > limit or float(norm(gradient_noise.draw)) == 0.0:
        return Displacement(known, False)
    if budget < DRAW_HVPS:
        return Displacement(known, False, enough=False)
    rng = np.random.default_rng(0)  # only after a breakdown, where any direction will do
    step = krylov_step(op, extremes.band, UNEXPLAINED, (math.inf, limit), rng, DRAW_HVPS, gradient_noise.draw)
    return Displacement(max(known, step.change), step.outcome == "flat")


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


class SplitHalf(NamedTuple):
    """The same quantity on the even and on the odd batches.

    A sign is held to be shown where each half alone shows it.  One test on both together would not do:
    where many directions are alike the two halves' errors are correlated.  Measured at the boundary
    (all curvatures zero but one, noise Gaussian or of squared Gaussians, 1 to 20 variables, 4 to 32
    batches, 4,000 draws each, level 1 %): false signs at most 1.0 %; a joint test 6 %.
    """

    even: Estimate
    odd: Estimate
    both: Estimate

    def show(self, sign: float, level: float, band: float = 0.0) -> bool:
        """Whether each half shows the sign with the probability `level`."""
        return self.even.beyond(sign, level, band) and self.odd.beyond(sign, level, band)


def split_halves(values: np.ndarray, weights: np.ndarray) -> SplitHalf:
    """Take the means over the even, the odd and all batches."""
    halves = [weighted_mean(values[s::2], weights[s::2] / np.sum(weights[s::2])) for s in (0, 1)]
    return SplitHalf(halves[0], halves[1], weighted_mean(values, weights))


def steps_for_halves(op: HessianOperator, steps: int, budget: int) -> int:
    """Products that the search on each half may make; 0 where the budget does not allow the check."""
    size = op.search_dimension(op.active)
    wanted = min(size, min(max(steps, FEWEST_STEPS), MOST_STEPS))
    # Two halves of `allowed` products each, and two vectors judged on either half, rounded up.
    allowed = budget - 4
    return min(wanted, allowed) if allowed >= min(size, FEWEST_STEPS) else 0


def held_out(op: HessianOperator, steps: int, rng: np.random.Generator) -> tuple[SplitHalf, SplitHalf] | None:
    """Find both extreme eigenvectors on each half of the batches and judge them on the other.

    Args:
        op: operator whose data are a sequence of at least four batches.
        steps: products for the search on each half.
        rng: source of the start vectors.

    Returns:
        Lower and upper end: Rayleigh quotients on batches that had no part in finding the vector
        ("even": found on the odd ones); None where a product was not finite.

    Cost:
        steps + 2 products, counting one with half of the batches as half.
    """
    halves = [select_batches(op, start, 2) for start in (0, 1)]
    pairs = [_ends(half, steps, rng, op.active) for half in halves]
    judged = []
    for half, pair in zip(halves, reversed(pairs), strict=True):
        if pair is not None:
            judged.append(rayleigh_quotients(half, pair))
    shares = [half.objective.data.total for half in halves]
    charge_share(op, halves)
    if len(judged) < 2:
        return None
    share = shares[0] / sum(shares)
    found = []
    for end in (0, 1):
        even, odd = (weighted_mean(values[:, end], weights) for weights, values in judged)
        # The mean of both about their own means.
        value = share * even.value + (1.0 - share) * odd.value
        error = math.hypot(share * even.error, (1.0 - share) * odd.error)
        found.append(SplitHalf(even, odd, Estimate(value, error, even.freedom + odd.freedom)))
    return found[0], found[1]


def _ends(
    op: HessianOperator, steps: int, rng: np.random.Generator, active: tuple[bool, ...]
) -> tuple[Vector, Vector] | None:
    """Unit vectors of the lowest and the highest Ritz value of a fresh Krylov space."""
    krylov = Krylov(op, None, rng, steps, active)
    while krylov.size < steps and krylov.step():
        pass
    if krylov.size == 0 or krylov.nonfinite:
        return None
    extremes = krylov.vectors(krylov.ritz().weights[:, [0, -1]])
    low, high = (row(extremes, index) for index in (0, 1))
    return scale(1.0 / float(norm(low)), low), scale(1.0 / float(norm(high)), high)
