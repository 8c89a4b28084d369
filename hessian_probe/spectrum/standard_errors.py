"""Standard errors over the data: how far a mean over batches may lie from the population's mean.

The population is all samples that the data could have contained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from hessian_probe.arrays import Vector, host_norm
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.per_batch import rayleigh_quotients


class Estimate(NamedTuple):
    """A mean over batches, with its standard error.

    Attributes:
        value: the mean, weighted by samples.
        error: its standard error over the data.
        freedom: degrees of freedom of that error.
    """

    value: float
    error: float
    freedom: float

    def beyond(self, sign: float, level: float, band: float = 0.0) -> bool:
        """Whether the mean has this sign, beyond a band, with the probability `level` (one-sided)."""
        return sign * self.value - band > quantile(level, self.freedom) * self.error


def quantile(level: float, freedom: float) -> float:
    """Quantile of Student's t; infinite without a degree of freedom."""
    return float(student.ppf(level, freedom)) if freedom > 0 else math.inf


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> Estimate:
    r"""Estimate the population's mean from the means of batches of unequal size.

    With shares w of the samples, batch means q, R = Σ w q and

    $$\mathrm{var}(R) = \frac{\sum w_b^2 (q_b - R)^2}{1 - \sum w_b^2}, \qquad \nu = 1/\sum w_b^2 - 1,$$

    the error is unbiased where samples are independent (var q ∝ 1/w: Σ w²·var(q − R) = var(R)(1 − Σ w²));
    to leading order also where samples within a batch are correlated.

    Args:
        values: batch means, shape (batches,).
        weights: share of the samples in each batch, shape (batches,), of sum 1.

    Returns:
        The estimate; its error is infinite for a single batch.

    Source:
        W. G. Cochran, Sampling Techniques, 3rd ed. 1977, §6.3 (ratio estimator); effective number of
        batches 1/Σ w²: L. Kish, Survey Sampling, 1965, §11.7.
    """
    shares = float(np.sum(np.square(weights)))
    mean = float(weights @ values)
    if len(values) < 2 or shares >= 1.0:
        return Estimate(mean, math.inf, 0.0)
    spread = host_norm(weights * (values - mean))
    return Estimate(mean, spread / math.sqrt(1.0 - shares), 1.0 / shares - 1.0)


def eigenvalue_errors(op: HessianOperator, vectors: Sequence[Vector]) -> list[Estimate]:
    """Return the Rayleigh quotient of each unit vector, with its standard error over the batches.

    To first order an eigenvalue of a mean of matrices changes as the Rayleigh quotient of its vector, so
    this is also the standard error of the eigenvalue (its infinitesimal jackknife).

    Cost:
        One product for each vector.
    """
    weights, values = rayleigh_quotients(op, vectors)
    return [weighted_mean(column, weights) for column in values.T]
