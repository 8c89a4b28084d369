"""Where sizes mislead and signs do not: units, offsets, conditioning, tails, invariance to scale."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.table import changed, draws, of_data, table
from hessian_probe.problems import KnownPoint, quadratic
from hessian_probe.problems.known_point import random_rotation

SIZE = 10


@table("scale", product(range(4), range(3), (True, False)))
def units(seed: int, number: int, kind: int, at_origin: bool) -> KnownPoint:
    """The Hessian multiplied by 10^±12, its bulk within a factor of four, or the parameters by 10^±6."""
    loss_unit, unit = ((1e-12, 1.0), (1e12, 1.0), (1.0, 1e-6), (1.0, 1e6))[number]
    rng = draws(seed, number, kind, at_origin)
    spectrum = rng.uniform(0.5, 2.0, SIZE)
    spectrum[: (0, 3, SIZE)[kind]] *= -1.0
    center = unit * rng.standard_normal(SIZE) * float(not at_origin)
    point = quadratic(loss_unit / unit**2 * spectrum, center=center, seed=int(rng.integers(2**31)))
    return changed(point, f"units_{loss_unit:g}_{unit:g}_{point.label}{'_origin' * at_origin}")


@table("scale", product((2, 3, 4, 6, 8, 11, 14), (1, -1), (False, True)))
def conditions(seed: int, exponent: int, sign: int, rotate: bool) -> KnownPoint:
    """Minima, and saddles of one small negative eigenvalue, of condition 1e2 … 1e14, 1/``gap``."""
    rng = draws(seed, exponent, sign + 1, rotate)
    spectrum = 10.0 ** -np.r_[0.0, rng.uniform(0.0, exponent, SIZE - 2), exponent]
    spectrum[-1] *= sign
    center = rng.standard_normal(SIZE)
    point = quadratic(spectrum, center=center, rotate=rotate, seed=int(rng.integers(2**31)))
    return changed(point, f"condition_1e{exponent}_{point.label}{'_rotated' * rotate}", gap=10.0**-exponent)


# ½ Σ λᵢzᵢ² + d at z = Q(x − c).
offset_quadratic = of_data(lambda x, q, c, curve, d: 0.5 * jnp.sum(curve * (q @ (x - c)) ** 2) + d[0])


@table("scale", 12)
def offsets(seed: int, number: int) -> KnownPoint:
    """±1e4 and ±1e9 added to curvature of order 1: values near the point all round to the same."""
    rng, offset = draws(seed, number, 9), (1e4, 1e9, -1e4, -1e9)[number // 3]
    spectrum = rng.uniform(0.5, 2.0, SIZE)
    spectrum[: (0, 4, SIZE)[number % 3]] *= -1.0
    center = rng.standard_normal(SIZE)
    name = f"offset_{offset:g}_{('minimum', 'saddle', 'maximum')[number % 3]}"
    data = (random_rotation(SIZE, rng), center, spectrum, np.array([offset]))
    why = "a constant changes no derivative"
    return KnownPoint.from_curvature(name, offset_quadratic, center, spectrum, data, why=why)


@of_data
def falling(params: jax.Array, weights: Any) -> jax.Array:
    """A function that falls for ever along x₀, times or plus a bowl in the others, by weights.

    exp(−x₀)(1 + ‖x'‖²/2), 1/(1 + x₀²) + ‖x'‖²/2, −atan(x₀) + ‖x'‖²/2 and softplus(−x₀) + ‖x'‖²/2: no
    weighted term has a critical point with x₀ > 0.
    """
    first, bowl = params[0], 0.5 * jnp.sum(params[1:] ** 2)
    away = (
        weights[0] * jnp.exp(-first) * (1.0 + bowl)
        + weights[1] / (1.0 + first**2)
        - weights[2] * jnp.arctan(first)
        + weights[3] * jax.nn.softplus(-first)
    )
    return away + (weights[1] + weights[2] + weights[3]) * bowl


@table("scale", product(range(4), (2, 6, 12, 20)))
def tails(seed: int, which: int, far: int) -> KnownPoint:
    """Far out on tails, gradients from 1e-1 to 1e-9; ``gap`` holds them against the bowl's rounding."""
    slope = (np.exp(-far), 2.0 * far / (1.0 + far**2) ** 2, 1.0 / (1.0 + far**2), np.exp(-far))[which]
    bowl = np.exp(-far) if which == 0 else 1.0
    at = np.r_[float(far), np.zeros(2)]
    data = np.eye(4)[which] * draws(seed, which, far).uniform(0.5, 2.0)
    gap = min(1.0, float(slope / (bowl * far)))
    why = "the derivative along x₀ is negative for every x₀ > 0"
    return KnownPoint(f"tail_{which}_{far}", falling, at, "not_critical", data=data, gap=gap, why=why)


# Mean of log(1 + exp(−y w·x)), y = ±1.
separable_logistic = of_data(lambda w, x, y: jnp.mean(jax.nn.softplus(-y * (x @ w))))


@table("scale", product(range(4), range(2)))
def separable(seed: int, number: int, copy: int) -> KnownPoint:
    """Logistic losses of data separated by a margin of 0.3, at weights of length 1 … 30."""
    rng, length = draws(seed, number, copy, 3), (1.0, 3.0, 10.0, 30.0)[number]
    inputs, truth = rng.standard_normal((40, 4)), rng.standard_normal(4)
    truth /= np.linalg.norm(truth)
    signs = np.sign(inputs @ truth)
    inputs += 0.3 * signs[:, None] * truth
    name, at, data = f"separable_logistic_{length:g}_{copy}", length * truth, (inputs, signs)
    why = "every step along w lowers every term: the loss has no critical point"
    return KnownPoint(name, separable_logistic, at, "not_critical", 0, data, num_zero=0, why=why)


# xᵀAx / xᵀx, which does not change when x is scaled.
rayleigh_quotient = of_data(lambda x, matrix: (x @ (matrix @ x)) / jnp.sum(x**2))


@table("scale", product(range(3), range(2), range(4)))
def rayleigh(seed: int, number: int, copy: int, k: int) -> KnownPoint:
    """Eigenvectors of length 0.01, 1 and 100, and for k = 1 points midway between the first and the last.

    At the eigenvector qₖ the Hessian is 2(A − aₖ)/‖x‖²: index k (counted from 0) and one zero, along x.
    At x = (q₀ + q₃)r/√2 the loss is at its steepest between the lowest and the highest value.
    """
    rng, radius = draws(seed, number, copy, 5), (0.01, 1.0, 100.0)[number]
    values, vectors = np.array([-1.0, 0.3, 1.5, 3.0]), random_rotation(4, rng)
    matrix = vectors @ np.diag(values) @ vectors.T
    label, at = ("minimum", "not_critical", "saddle", "maximum")[k], radius * vectors[:, k]
    facts: dict[str, Any] = {"index": k, "num_zero": 1, "degenerate": k != 2}
    if k == 1:
        at, facts = radius * (vectors[:, 0] + vectors[:, 3]) / np.sqrt(2.0), {}
    facts |= {"data": (matrix + matrix.T) / 2.0, "why": "the Hessian at an eigenvector is 2(A − aₖ)/‖x‖²"}
    name = f"rayleigh_{k}_{radius:g}_{copy}"
    return KnownPoint(name, rayleigh_quotient, at, label, isolated=False, **facts)


# x₀³/3 + ex₀ + ½ Σ λᵢxᵢ², i ≥ 1.
cubic_slope = of_data(
    lambda x, slope, curve: x[0] ** 3 / 3.0 + slope[0] * x[0] + 0.5 * jnp.sum(curve * x[1:] ** 2)
)


@table("scale", product((2, 3, 4, 6, 8), (0, 1, -1)))
def cubic_slopes(seed: int, exponent: int, where: int) -> KnownPoint:
    """x³/3 + ex has no critical point for e > 0, and two at ±√|e| for e < 0, of curvature ±2√|e|."""
    slope, curvature = 10.0**-exponent, draws(seed, exponent, where + 1).uniform(0.5, 2.0, 3)
    name, at = f"cubic_slope_1e-{exponent}_{where}", np.r_[where * np.sqrt(slope), np.zeros(3)]
    data = (np.array([slope if where == 0 else -slope]), curvature)
    if where == 0:
        facts = {"index": 0, "num_zero": 1, "why": "the derivative along x₀ is x₀² + e"}
        return KnownPoint(name, cubic_slope, at, "not_critical", data=data, **facts)
    gap, index = float(2 * np.sqrt(slope) / curvature.max()), int(where < 0)
    facts = {"index": index, "num_zero": 0, "gap": gap, "why": "curvature ±2√e along x₀"}
    return KnownPoint(name, cubic_slope, at, ("minimum", "saddle")[index], data=data, **facts)
