"""Losses of which only a sample is seen, or only some digits: the truth is the population's, or exact."""

import functools
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from benchmarks.truth_points.table import draws, of_data, table
from hessian_probe.problems import KnownPoint
from hessian_probe.problems.known_point import random_rotation

# A point counts as decidable where a sign that is found on one half of the batches stands on the other
# beyond Student's t at this one-sided level: the half's standard error is √2 times the whole's, and known
# from B/2 batch means only.  A dozen eigenvalues of two halves make it a chance of about 1 %.
LEVEL = 5e-4
# Variables, and samples of a batch.
SIZE, BATCH = 12, 32
LABELS = ("minimum", "saddle", "maximum", "not_critical")


def standard_errors_needed(num_batches: int) -> float:
    """Standard errors of all B batches from zero from which a sign is decidable: 18 for 8, 5.8 for 32."""
    return float(np.sqrt(2.0) * scipy.stats.t.isf(LEVEL, num_batches // 2 - 1))


@of_data
def sampled_quartic(params: jax.Array, curvature: Any, slope: Any, rotation: Any, center: Any) -> jax.Array:
    """Mean over samples of ½ Σ h z² + Σ g z + ¼ Σ z⁴ at z = Q(x − c), Q and c repeated for every sample."""
    z = jnp.einsum("sij,sj->si", rotation, params[None, :] - center, precision="highest")
    terms = 0.5 * curvature * z**2 + slope * z + 0.25 * z**4
    return jnp.sum(terms) / curvature.shape[0]


def decidable(
    label: str, batches: int, curvature: Any, slope: Any, spread: float, slope_spread: float
) -> bool:
    """Compare what decides with its true standard error; spreads are standard deviations of samples."""
    root, needed = np.sqrt(batches * BATCH), standard_errors_needed(batches)
    error, slope_error = spread / root, slope_spread / root
    if label == "not_critical":
        return bool(np.max(np.abs(slope)) > needed * slope_error)
    decisive = min(-curvature.min(), curvature.max()) if label == "saddle" else np.min(np.abs(curvature))
    # The sample's own critical point lies where the slopes' error moves it: |z| ≈ τ/(√N |λ|); its
    # quartic changes the curvature by 3z² there.
    moved = slope_error / np.abs(curvature)
    return bool(decisive > needed * error and np.all(3.0 * moved**2 < 0.1 * np.abs(curvature)))


@table("noise", product((0.3, 1.0, 2.0, 10.0, 30.0, 100.0), (8, 32), LABELS))
def noise(seed: int, multiple: float, num_batches: int, label: str) -> KnownPoint:
    """What decides lies at a multiple of the standard error of the whole sample; the rest is of order 1.

    At c the population's gradient is Qᵀm and its Hessian Qᵀ diag(λ) Q.  "not_critical" has a slope m of 1
    where there is no curvature: m + z³ vanishes at |z| = m^(1/3), over which the loss changes by ¾m^(4/3).
    """
    number, kind = (0.3, 1.0, 2.0, 10.0, 30.0, 100.0).index(multiple), LABELS.index(label)
    root = np.sqrt(num_batches * BATCH)
    rng = draws(seed, number, num_batches, kind)
    curvature, slope = rng.uniform(0.5, 2.0, SIZE), np.zeros(SIZE)
    small = rng.uniform(0.05, 0.5)
    spread, slope_spread = small * root / multiple, 0.01 * rng.random()
    if label == "not_critical":
        curvature[0], slope[0] = 0.0, 1.0
        spread, slope_spread = 0.2, root / multiple
    else:
        curvature[0] = -small if label == "saddle" else small
        curvature *= -1.0 if label == "maximum" else 1.0
    code, samples = kind + 4 * number + 100 * num_batches + 10_000 * seed, num_batches * BATCH
    rng = draws(code, num_batches)
    rotation, center = random_rotation(SIZE, rng), rng.standard_normal(SIZE)
    h = curvature + spread * rng.standard_normal((samples, SIZE))
    g = slope + slope_spread * rng.standard_normal((samples, SIZE))
    repeated = np.broadcast_to(rotation, (BATCH, SIZE, SIZE)), np.broadcast_to(center, (BATCH, SIZE))
    data = [(h[k : k + BATCH], g[k : k + BATCH], *repeated) for k in range(0, samples, BATCH)]
    why = "mean and spread of the samples' curvatures and slopes are given"
    sure = decidable(label, num_batches, curvature, slope, spread, slope_spread)
    # Without an index: that of the sample's Hessian may differ.
    name = f"sampled_{label}_seed{code}"
    return KnownPoint(name, sampled_quartic, center, label, data=data, decidable=sure, why=why)


# ‖H‖-relative curvature counts as decidable from DECIDED·u upwards and as hidden up to HIDDEN·u, u the
# narrow type's epsilon; nothing is built in between.  A product of n = 16 rounded terms, twice, is off by
# up to about 2·√16·u‖H‖ = 8u‖H‖ (Higham 2002, section 3.1).
DECIDED, HIDDEN = 32.0, 0.5
NARROW = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}


@functools.cache
def narrow_quadratic(narrow: str) -> Any:
    """Make ½ Σ wᵢ (Ax − b)ᵢ² with the product Ax computed in a narrow type."""
    dtype = NARROW[narrow]

    @of_data
    def loss(params: jax.Array, rows: Any, target: Any, weights: Any) -> jax.Array:
        product = rows.astype(dtype) @ params.astype(dtype)
        apart = product.astype(weights.dtype) - target
        return (0.5 * jnp.sum(weights * apart**2)).astype(params.dtype)

    return loss


# ½ Σ wᵢ (Ax − b)ᵢ² in float32, whatever narrow type the parameters have.
wide_quadratic = of_data(lambda x, a, b, w: 0.5 * jnp.sum(w * (a @ x.astype(a.dtype) - b) ** 2))


def narrowed(values: Any, narrow: str) -> np.ndarray:
    """Round to the nearest numbers of a narrow type."""
    return np.asarray(values).astype(jnp.dtype(NARROW[narrow])).astype(np.float64)


def inertia(rows: np.ndarray, weights: np.ndarray, name: str, loss: Any, **facts: Any) -> KnownPoint:
    """Read the truth off AᵀWA: its inertia is that of W, A being invertible (Sylvester)."""
    values = np.linalg.eigvalsh(rows.T @ (weights[:, None] * rows))
    both = min(-values[0], values[-1]) if values[0] < 0 < values[-1] else np.min(np.abs(values))
    gap = float(both / np.max(np.abs(values)))
    why = "the Hessian is A'WA with A invertible: its signs are those of W (Sylvester)"
    return KnownPoint.from_curvature(name, loss, curvature=values, gap=gap, why=why, **facts)


@table("precision", product(NARROW, range(9)))
def precision(seed: int, narrow: str, number: int) -> list[KnownPoint]:
    """Products, or parameters, in bfloat16 and float16.

    Every number in the data is representable in the narrow type, so that the exact function is known.  The
    deciding curvature is between 32u and 1 of ‖H‖, or 0.01u of it, which the narrow product hides.
    """
    label, hidden = LABELS[number % 3], number >= 6
    rng, n, unit = draws(seed, number, len(narrow)), 16, float(jnp.finfo(NARROW[narrow]).eps)
    decisive = 0.02 * HIDDEN * unit if hidden else rng.uniform(DECIDED * unit, 1.0)
    curvature = rng.uniform(0.5, 1.0, n)
    curvature[0], curvature[1] = decisive, 1.0
    curvature[0] *= -1.0 if label == "saddle" else 1.0
    curvature *= -1.0 if label == "maximum" else 1.0
    weights = curvature.astype(np.float32).astype(np.float64)

    rows = narrowed(random_rotation(n, rng), narrow)
    center = np.zeros(n) if number < 3 else narrowed(rng.standard_normal(n), narrow)
    # The target is the rounded product, as the loss computes it up to the order of its sum.
    data = (rows, narrowed(rows @ center, narrow), weights)
    name, loss = f"{narrow}_product_{label}_{number}", narrow_quadratic(narrow)
    points = [inertia(rows, weights, name, loss, params=center, data=data, decidable=not hidden)]
    if hidden:
        return points
    # A Hadamard matrix (Sylvester 1867) of columns with random signs: AᵀA = n, and with small integers
    # every product and sum is exact in float32.
    rows = np.ones((1, 1))
    while len(rows) < n:
        rows = np.kron([[1.0, 1.0], [1.0, -1.0]], rows)
    rows = rng.permutation(rows) * rng.choice([-1.0, 1.0], n)
    center = rng.integers(-4, 5, n).astype(np.float64)
    data = tuple(part.astype(np.float32) for part in (rows, rows @ center, curvature))
    facts = {"params": center.astype(jnp.dtype(NARROW[narrow])), "data": data, "fixed_dtype": True}
    name = f"{narrow}_params_{label}_{number}"
    return [*points, inertia(rows, weights, name, wide_quadratic, **facts)]
