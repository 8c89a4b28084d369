"""Losses of which only a sample is seen: the truth is the population's.

A sample s has the loss ½ Σᵢ h_si zᵢ² + Σᵢ g_si zᵢ + ¼ Σᵢ zᵢ⁴ with z = Q(x − c), h_si of mean λᵢ and
standard deviation σ, g_si of mean mᵢ and standard deviation τ.  The data hold the h and g, so that the
population's function is the one with λ and m: at c its gradient is Qᵀm and its Hessian Qᵀ diag(λ) Q.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from hessian_probe.problems.known_point import KnownPoint, label_from_signs, random_rotation

# A point counts as decidable where a sign that is found on one half of the batches stands on the other
# beyond Student's t at this one-sided level: the half's standard error is √2 times the whole's, and known
# from B/2 batch means only.  A dozen eigenvalues of two halves make it a chance of about 1 %.
LEVEL = 5e-4
SIZE, BATCH = 12, 32


def standard_errors_needed(num_batches: int) -> float:
    """Distance from zero, in standard errors of all the data, from which a sign is decidable.

    Args:
        num_batches: Number of batches B, at least 4.

    Returns:
        √2 times the quantile of Student's t with B/2 − 1 degrees of freedom: 18 for 8 batches, 5.8 for
        32.
    """
    return float(np.sqrt(2.0) * scipy.stats.t.isf(LEVEL, num_batches // 2 - 1))


class Population(NamedTuple):
    """What samples are drawn from.

    Attributes:
        curvature: λ, shape (n,).
        slope: m, shape (n,).
        curvature_spread: σ.
        slope_spread: τ.
    """

    curvature: np.ndarray[Any, np.dtype[np.float64]]
    slope: np.ndarray[Any, np.dtype[np.float64]]
    curvature_spread: float
    slope_spread: float


def sampled_quartic(params: jax.Array, batch: tuple[Any, Any, Any, Any]) -> jax.Array:
    """Evaluate the mean over samples of ½ Σ h z² + Σ g z + ¼ Σ z⁴ at z = Q(x − c).

    Args:
        params: x, shape (n,).
        batch: Curvatures h and slopes g, shape (samples, n); Q and c, repeated for every sample, shapes
            (samples, n, n) and (samples, n).

    Returns:
        The mean, a scalar.
    """
    curvature, slope, rotation, center = batch
    z = jnp.einsum("sij,sj->si", rotation, params[None, :] - center, precision="highest")
    terms = 0.5 * curvature * z**2 + slope * z + 0.25 * z**4
    return jnp.sum(terms) / curvature.shape[0]


def sampled_point(population: Population, num_batches: int, *, seed: int = 0) -> KnownPoint:
    """Draw batches of 32 samples from a population, at the population's critical point if it has one.

    Args:
        population: What to draw from.  Where mᵢ ≠ 0 and λᵢ = 0 the point c is a slope: mᵢ + z³ vanishes
            at |z| = mᵢ^(1/3), over which the loss changes by ¾mᵢ^(4/3).
        num_batches: Number of batches.
        seed: Draws rotation, centre and samples.

    Returns:
        The point; ``data`` is a list of batches.
    """
    rng = np.random.default_rng([seed, num_batches])
    curvature, slope, spread, slope_spread = population
    n, samples = curvature.size, num_batches * BATCH
    rotation, center = random_rotation(n, rng), rng.standard_normal(n)
    h = curvature + spread * rng.standard_normal((samples, n))
    g = slope + slope_spread * rng.standard_normal((samples, n))
    repeated = (
        np.broadcast_to(rotation, (BATCH, n, n)),
        np.broadcast_to(center, (BATCH, n)),
    )
    batches = [(h[k : k + BATCH], g[k : k + BATCH], *repeated) for k in range(0, samples, BATCH)]
    label, negative = "not_critical", int(np.sum(curvature < 0))
    if not np.any(slope):
        label = label_from_signs(negative, 0, n - negative)
    return KnownPoint(
        name=f"sampled_{label}_seed{seed}",
        kind="noise",
        loss=sampled_quartic,
        params=center,
        label=label,
        index=None,  # that of the sample's Hessian may differ
        data=batches,
        decidable=_decidable(population, label, num_batches),
        gap=1.0,
        why="mean and spread of the samples' curvatures and slopes are given",
    )


def _decidable(population: Population, label: str, num_batches: int) -> bool:
    """Compare what decides with its true standard error."""
    curvature, slope, spread, slope_spread = population
    root, needed = np.sqrt(num_batches * BATCH), standard_errors_needed(num_batches)
    error, slope_error = spread / root, slope_spread / root
    if label == "not_critical":
        return bool(np.max(np.abs(slope)) > needed * slope_error)
    if label == "saddle":
        decisive = min(-curvature.min(), curvature.max())
    else:
        decisive = float(np.min(np.abs(curvature)))
    # The sample's own critical point lies where the slopes' error moves it: |z| ≈ τ/(√N |λ|); its
    # quartic changes the curvature by 3z² there.
    moved = slope_error / np.abs(curvature)
    kept = bool(np.all(3.0 * moved**2 < 0.1 * np.abs(curvature)))
    return bool(decisive > needed * error) and kept


def sampled_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build populations of every type, seen through samples that are large enough and too small.

    The curvature that decides lies at 0.3, 1, 2, 10, 30 and 100 standard errors of the whole sample; the
    others are of order 1.  Slopes lie at 0.3 … 100 standard errors, along a direction in which the
    population has a slope of 1 and no curvature.

    Args:
        seed: Draws everything.

    Returns:
        48 points in 12 variables, with 8 or 32 batches of 32 samples.
    """
    points = []
    for number, multiple in enumerate((0.3, 1.0, 2.0, 10.0, 30.0, 100.0)):
        for num_batches in (8, 32):
            root = np.sqrt(num_batches * BATCH)
            for kind, name in enumerate(("minimum", "saddle", "maximum", "not_critical")):
                rng = np.random.default_rng([seed, number, num_batches, kind])
                curvature = rng.uniform(0.5, 2.0, SIZE)
                small = rng.uniform(0.05, 0.5)
                spread = small * root / multiple
                slope = np.zeros(SIZE)
                slope_spread = 0.01 * rng.random()
                if name == "not_critical":
                    curvature[0], slope[0] = 0.0, 1.0
                    spread, slope_spread = 0.2, root / multiple
                else:
                    curvature[0] = -small if name == "saddle" else small
                    curvature *= -1.0 if name == "maximum" else 1.0
                population = Population(curvature, slope, spread, slope_spread)
                code = kind + 4 * number + 100 * num_batches
                points.append(sampled_point(population, num_batches, seed=code + 10_000 * seed))
    return points
