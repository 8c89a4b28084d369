"""Tails without a critical point, losses that do not see the scale, slopes that almost vanish."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, random_rotation


def separable_logistic(params: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Evaluate the mean of log(1 + exp(−y w·x)).

    Args:
        params: w, shape (n,).
        data: x, shape (samples, n), and y = ±1, shape (samples,).

    Returns:
        The mean, a scalar.
    """
    inputs, signs = data
    return jnp.mean(jax.nn.softplus(-signs * (inputs @ params)))


def tails(params: jax.Array, weights: Any) -> jax.Array:
    """Evaluate a function that falls for ever along x₀, times or plus a bowl in the others.

    Args:
        params: x, shape (n,).
        weights: Weights of exp(−x₀)(1 + ‖x'‖²/2), 1/(1 + x₀²) + ‖x'‖²/2, −atan(x₀) + ‖x'‖²/2 and
            softplus(−x₀) + ‖x'‖²/2, shape (4,).

    Returns:
        The value, a scalar. No weighted term has a critical point with x₀ > 0.
    """
    first, bowl = params[0], 0.5 * jnp.sum(params[1:] ** 2)
    away = (
        weights[0] * jnp.exp(-first) * (1.0 + bowl)
        + weights[1] / (1.0 + first**2)
        - weights[2] * jnp.arctan(first)
        + weights[3] * jax.nn.softplus(-first)
    )
    return away + (weights[1] + weights[2] + weights[3]) * bowl


def tail_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build points far out on tails, and logistic losses of separable data.

    Args:
        seed: Draws data.

    Returns:
        Points that are not critical, with gradients from 1e-1 down to 1e-13. Where the gradient is below
        the rounding of the bowl's curvature times the length of the parameters, ``gap`` says so.
    """
    points = []
    for which in range(4):
        for far in (2.0, 6.0, 12.0, 20.0):
            rng = np.random.default_rng([seed, which, int(far)])
            slope = (np.exp(-far), 2.0 * far / (1 + far**2) ** 2, 1 / (1 + far**2), np.exp(-far))[which]
            bowl = np.exp(-far) if which == 0 else 1.0
            points.append(
                KnownPoint(
                    name=f"tail_{which}_{far:g}",
                    kind="scale",
                    loss=tails,
                    params=np.r_[far, np.zeros(2)],
                    label="not_critical",
                    index=None,
                    data=np.eye(4)[which] * rng.uniform(0.5, 2.0),
                    gap=min(1.0, float(slope / (bowl * far))),
                    why="the derivative along x₀ is negative for every x₀ > 0",
                )
            )
    for number, length in enumerate((1.0, 3.0, 10.0, 30.0)):
        for copy in range(2):
            rng = np.random.default_rng([seed, number, copy, 3])
            inputs = rng.standard_normal((40, 4))
            truth = rng.standard_normal(4)
            truth /= np.linalg.norm(truth)
            signs = np.sign(inputs @ truth)
            inputs += 0.3 * signs[:, None] * truth  # a margin of 0.3
            points.append(
                KnownPoint(
                    name=f"separable_logistic_{length:g}_{copy}",
                    kind="scale",
                    loss=separable_logistic,
                    params=length * truth,
                    label="not_critical",
                    index=0,
                    data=(inputs, signs),
                    num_zero=0,
                    why="every step along w lowers every term: the loss has no critical point",
                )
            )
    return points


def rayleigh_quotient(params: jax.Array, matrix: Any) -> jax.Array:
    """Evaluate xᵀAx / xᵀx, which does not change when x is scaled.

    Args:
        params: x, shape (n,).
        matrix: A, shape (n, n).

    Returns:
        The value, a scalar.
    """
    return (params @ (matrix @ params)) / jnp.sum(params**2)


def scale_invariant_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build eigenvectors of length 0.01, 1 and 100, and points midway between them.

    At the eigenvector qₖ the Hessian is 2(A − aₖ)/‖x‖²: index k (counted from 0) and one zero, along x.
    At x = (q₀ + q₃)r/√2 the loss is at its steepest between the lowest and the highest value.

    Args:
        seed: Draws A.

    Returns:
        24 points in 4 variables.
    """
    points = []
    for number, radius in enumerate((0.01, 1.0, 100.0)):
        for copy in range(2):
            rng = np.random.default_rng([seed, number, copy, 5])
            values, vectors = np.array([-1.0, 0.3, 1.5, 3.0]), random_rotation(4, rng)
            matrix = vectors @ np.diag(values) @ vectors.T
            for k in range(4):
                if k == 1:  # replaced by a point midway between the lowest and the highest
                    params = radius * (vectors[:, 0] + vectors[:, 3]) / np.sqrt(2.0)
                    label = "not_critical"
                else:
                    params, label = radius * vectors[:, k], ("minimum", "", "saddle", "maximum")[k]
                points.append(
                    KnownPoint(
                        name=f"rayleigh_{k}_{radius:g}_{copy}",
                        kind="scale",
                        loss=rayleigh_quotient,
                        params=params,
                        label=label,
                        index=None if k == 1 else k,
                        data=(matrix + matrix.T) / 2.0,
                        degenerate=label in ("minimum", "maximum"),
                        num_zero=None if k == 1 else 1,
                        isolated=False,
                        why="the Hessian at an eigenvector is 2(A − aₖ)/‖x‖²",
                    )
                )
    return points


def cubic_slope(params: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Evaluate x₀³/3 + ex₀ + ½ Σ λᵢxᵢ², i ≥ 1.

    Args:
        params: x, shape (n,).
        data: e, shape (1,), and λ, shape (n − 1,).

    Returns:
        The value, a scalar.
    """
    slope, curvature = data
    x = params[0]
    return x**3 / 3.0 + slope[0] * x + 0.5 * jnp.sum(curvature * params[1:] ** 2)


def cubic_slope_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build slopes that vanish almost: x³/3 + ex has no critical point for e > 0, and two for e < 0.

    Args:
        seed: Draws curvatures.

    Returns:
        For e = 1e-2 … 1e-8: the inflection (not critical); and for −e the minimum and the saddle at
        x = ±√e, whose curvature along x is ±2√e.
    """
    points = []
    for exponent in (2, 3, 4, 6, 8):
        for where in (0, 1, -1):
            rng = np.random.default_rng([seed, exponent, where + 1])
            slope, curvature = 10.0**-exponent, rng.uniform(0.5, 2.0, 3)
            x = where * np.sqrt(slope)
            gap = 1.0 if where == 0 else float(2 * np.sqrt(slope) / curvature.max())
            points.append(
                KnownPoint(
                    name=f"cubic_slope_1e-{exponent}_{where}",
                    kind="scale",
                    loss=cubic_slope,
                    params=np.r_[x, np.zeros(3)],
                    label=("not_critical", "minimum", "saddle")[where],
                    index=(0, 0, 1)[where],
                    data=(np.array([slope if where == 0 else -slope]), curvature),
                    num_zero=int(where == 0),
                    gap=gap,
                    why="the derivative along x₀ is x₀² + e" if where == 0 else "curvature ±2√e along x₀",
                )
            )
    return points
