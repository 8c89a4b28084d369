"""How many samples would settle a sign that noise hides."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import chi2, norm

from hessian_probe.spectrum.errors import quantile

# Stated probability that so many samples settle it.
POWER = 0.9
# What is computed is the mean probability over what curvature and scatter may be, given the sample; it
# is asked to be this high so that POWER holds also where the sample shows more than there is: `make
# bench-noise` prints the share decided for a true curvature of 0.5 to 6 of its standard errors.
AIM = 0.93
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
    times the data show its sign is averaged over that ("assurance") and r is raised until it is AIM.

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

    threshold = quantile(level, max(0.5 * (freedom - 1.0), BATCHES / 2 - 1.0))
    aim = 1.0 - (1.0 - AIM) / signs

    def assurance(times: float) -> float:
        each = spread * math.sqrt(2.0 / times)
        seen = np.where(means > 0, means - bias / math.sqrt(times), -means)
        with np.errstate(divide="ignore", invalid="ignore"):
            both = np.square(norm.cdf(seen / each - threshold))
        return float(np.mean(both))

    if error == 0.0:
        return 1.0
    if assurance(MOST) < aim:
        return None
    lower, upper = 0.0, math.log(MOST)
    while upper - lower > 0.01:
        middle = 0.5 * (lower + upper)
        lower, upper = (middle, upper) if assurance(math.exp(middle)) < aim else (lower, middle)
    return math.exp(upper)


def rounded_up(samples: float) -> int:
    """Two significant digits, upwards."""
    unit = 10.0 ** max(math.floor(math.log10(samples)) - 1, 0)
    return int(math.ceil(samples / unit) * unit)
