"""Power analysis: the number of samples that would settle a sign hidden by noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import chi2, norm

from hessian_probe.spectrum.standard_errors import quantile

# Stated probability that the number of samples settles it, for a curvature of at least LEAST of its present
# standard errors.
POWER = 0.9
LEAST = 0.5
# The mean probability over what curvature and scatter may be, given the sample, is asked to be AIM; no
# more samples than make it SURE for the least curvature.  Both lie above POWER since the sample may show
# more than there is.  Measured (Gaussian samples in 8, 16 and 64 batches, 150 draws each, true curvature
# of 0.5 to 4 errors): settled in 91 % to 99 %.
AIM = 0.93
SURE = 0.98
# The number is meant for data in the present number of batches, or in BATCHES if these are fewer: with
# fewer each half knows too little of its own scatter (Student's t at 99 %: 32, 4.5, 3.0 for 4, 8, 16).
BATCHES = 16
# Beyond this multiple of the data no number is given.
MOST = 1e5
# Points at which the unknown curvature and its scatter are taken.
GRID = (np.arange(60) + 0.5) / 60
# Draws of gradients, for the place of the critical point: 1 % of error in a probability of 0.93.
DRAWS = 600


def times_the_data(
    low: float,
    high: float,
    error: float,
    freedom: float,
    level: float,
    *,
    bias: float = 0.0,
    signs: int = 1,
) -> float | None:
    """How many times the data a sign needs to be shown by both halves.

    The unknown mean is taken as anywhere between `low` and `high`, Gaussian about it with the error of
    the sample, whose own uncertainty is that of a χ² variable; the probability that both halves of r
    times the data show its sign is averaged over that ("assurance") and r is raised until it is AIM, or
    until a mean of LEAST errors is seen with probability SURE.

    Args:
        low: lowest value that the sample supports.
        high: highest.
        error: standard error at the present number of samples.
        freedom: degrees of freedom of the error.
        level: probability with which each half must show the sign.
        bias: by how much the sample's lowest eigenvalue may lie below the true one, now; it falls at
            least like the square root of the number of samples, and delays a positive sign.
        signs: how many signs must be shown together.

    Returns:
        r, at least 1, or None above MOST.

    Source:
        A. O'Hagan, J. W. Stevens and M. J. Campbell, Pharmaceutical Statistics 4, 2005,
        doi:10.1002/pst.175.
    """
    if not math.isfinite(error) or freedom <= 0:
        return None
    spread = error * np.sqrt(freedom / chi2.ppf(GRID, freedom))[:, None, None]
    centers = np.linspace(low, high, 5)[None, :, None] if high > low else np.array([[[low]]])
    means = centers + spread * norm.ppf(GRID)[None, None, :]

    if error == 0.0:
        return 1.0
    threshold = quantile(level, max(0.5 * (freedom - 1.0), BATCHES / 2 - 1.0))

    def seen(means: np.ndarray, times: float) -> float:
        """Mean probability that both halves show the sign of a mean."""
        size = np.where(means > 0, means - bias / math.sqrt(times), -means)
        return float(np.mean(np.square(norm.cdf(size / (spread * math.sqrt(2.0 / times)) - threshold))))

    found = [
        _smallest(lambda times: seen(means, times), 1.0 - (1.0 - AIM) / signs),
        _smallest(lambda times: seen(np.array(LEAST * error), times), 1.0 - (1.0 - SURE) / signs),
    ]
    return min((times for times in found if times is not None), default=None)


def times_for_place(
    slopes: np.ndarray,
    errors: np.ndarray,
    curvatures: np.ndarray,
    limits: tuple[float, float, float],
    level: float,
    freedom: float,
) -> float | None:
    """Multiple of the data that shows whether a critical point is near.

    What there is in all has slopes within the errors of the sample's; r times the data show these to
    errors smaller by √r.  The critical point is then near with its displacement by noise added, or far with
    little noise in the gradient, or neither; r is raised until it is one of both with probability AIM,
    whatever share of the gradient, within two of its errors, is noise.

    Args:
        slopes: slopes along eigenvectors, shape (m,), in loss / params.
        errors: their standard errors now.
        curvatures: curvatures along them, none zero.
        limits: the loss to go, the same with rises and falls added, and the share of noise in the squared
            gradient that are allowed.
        level: probability with which a critical point must be near.
        freedom: degrees of freedom of the errors.

    Returns:
        r, at least about 1, or None above MOST.
    """
    rng = np.random.default_rng(0)  # the same draws for every r
    wide = errors * np.sqrt(freedom / rng.chisquare(freedom, (DRAWS, 1)))
    first = wide * rng.standard_normal((DRAWS, len(slopes)))
    again = wide * rng.standard_normal((DRAWS, len(slopes)))
    loss, model, noise = limits
    margin = quantile(level, max(freedom, BATCHES - 1.0))

    doubtful = 2.0 * float(np.linalg.norm(errors)) >= np.array([1.0, 0.5, 0.0]) * np.linalg.norm(slopes)
    shares = np.array([0.0, 0.5, 1.0])[doubtful]

    def told(times: float) -> float:
        """Share of the draws in which it is told, for the least favourable share of the gradient."""
        return min(told_of(share * slopes + math.sqrt(share) * first, times) for share in shares)

    def told_of(true: np.ndarray, times: float) -> float:
        seen, error = true + again / math.sqrt(times), wide / math.sqrt(times)
        parts = 0.5 * seen * (seen / curvatures)
        moved = 0.5 * np.sum(error * (error / np.abs(curvatures)), axis=1)
        moved *= chi2.ppf(level, len(slopes)) / len(slopes)
        ahead = np.abs(np.sum(parts, axis=1))
        linear = margin * np.linalg.norm(error * (seen / curvatures), axis=1)
        in_all = np.sum(np.abs(parts), axis=1)
        near = (ahead + linear + moved <= loss) & (np.sqrt(in_all) + np.sqrt(moved) <= math.sqrt(model))
        far = (ahead > loss) | (in_all > model)
        far &= np.sum(np.square(error), axis=1) <= noise * np.sum(np.square(seen), axis=1)
        return float(np.mean(near | far))

    return _smallest(told, AIM)


def _smallest(probability: Callable[[float], float], wanted: float) -> float | None:
    """Smallest multiple of the data at which a growing probability is as wanted; None above MOST."""
    lower, upper = 0.0, math.log(MOST)
    if probability(MOST) < wanted:
        return None
    while upper - lower > 0.01:
        middle = 0.5 * (lower + upper)
        lower, upper = (middle, upper) if probability(math.exp(middle)) < wanted else (lower, middle)
    return math.exp(upper)


def rounded_up(samples: float) -> int:
    """Two significant digits, upwards."""
    unit = 10.0 ** max(math.floor(math.log10(samples)) - 1, 0)
    return int(math.ceil(samples / unit) * unit)
