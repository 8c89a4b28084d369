"""How many samples would settle a sign that noise hides."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import chi2, norm

from hessian_probe.spectrum.errors import quantile

# Stated probability that so many samples settle it, for a curvature of at least LEAST of its present
# standard errors.
POWER = 0.9
LEAST = 0.5
# The mean probability over what curvature and scatter may be, given the sample, is asked to be AIM; no
# more samples than make it SURE for the least curvature.  Both lie above POWER since the sample may show
# more than there is.  Measured (Gaussian samples in 8, 16 and 64 batches, 150 draws each, true curvature
# of 0.5 to 4 errors): settled in 91 % to 99 %.
AIM = 0.93
SURE = 0.98
# The number is meant for data in the present number of batches, or in so many if these are fewer: with
# fewer each half knows too little of its own scatter (Student's t at 99 %: 32, 4.5, 3.0 for 4, 8, 16).
BATCHES = 16
# Beyond so many times the data no number is given.
MOST = 1e5
# Points at which the unknown curvature and its scatter are taken.
GRID = (np.arange(60) + 0.5) / 60


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
