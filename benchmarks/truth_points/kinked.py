"""Losses with kinks: minima of convex ones, kinked saddles, and smooth pieces with kinks elsewhere.

Inside a piece the Hessian decides as ever.  At a kink there is none; what automatic differentiation
returns there is that of one piece, and such points count as undecidable by derivatives, though a label
can still be wrong.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, random_rotation
from hessian_probe.problems.linear_networks import deep_linear_point

BIAS = 64.0  # a power of two: adding and subtracting it rounds, but moves nothing


def absolute_values(params: jax.Array, data: tuple[Any, Any, Any]) -> jax.Array:
    """Evaluate Σ wᵢ|zᵢ| + ½ Σ λᵢzᵢ² at z = x − c.

    Args:
        params: x, shape (n,).
        data: w, λ and c, each of shape (n,).

    Returns:
        The value, a scalar.
    """
    weights, curvature, center = data
    z = params - center
    return jnp.sum(weights * jnp.abs(z) + 0.5 * curvature * z**2)


def absolute_value_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build sharp minima, maxima and saddles: at c the first order of |z| outweighs any curvature.

    Args:
        seed: Draws weights, curvatures and centres.

    Returns:
        18 points in 4 variables; of each sign of w (positive, negative, mixed) one where curvature
        agrees, one where it has the other sign and one where w is zero in two variables.
    """
    points = []
    for number in range(18):
        rng = np.random.default_rng([seed, number, 11])
        sign = (np.ones(4), -np.ones(4), np.array([1.0, -1.0, 1.0, -1.0]))[number % 3]
        weights = sign * rng.uniform(0.2, 2.0, 4)
        agrees = (1.0, -1.0, 1.0)[number // 3 % 3]
        curvature = agrees * sign * rng.uniform(0.2, 2.0, 4)
        if number // 3 % 3 == 2:
            weights[2:] = 0.0
        center = rng.integers(-2, 3, 4).astype(np.float64)
        points.append(
            KnownPoint(
                name=f"absolute_values_{number}",
                kind="kink",
                loss=absolute_values,
                params=center,
                label=("minimum", "maximum", "saddle")[number % 3],
                index=None,
                data=(weights, curvature, center),
                decidable=False,
                why="separable: every coordinate's lowest order has the sign " + str(sign.astype(int)),
            )
        )
    return points


def lasso(params: jax.Array, data: tuple[Any, Any, Any]) -> jax.Array:
    """Evaluate ½‖Ax − b‖² + t‖x‖₁.

    Args:
        params: x, shape (n,).
        data: A, shape (m, n); b, shape (m,); t, shape (1,).

    Returns:
        The value, a scalar.
    """
    rows, target, penalty = data
    return 0.5 * jnp.sum((rows @ params - target) ** 2) + penalty[0] * jnp.sum(jnp.abs(params))


def lasso_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build L1-regularised least squares at the exact solution, with and without zeros in it.

    x is drawn first; with s = sign(x), and |sᵢ| ≤ 0.8 drawn where xᵢ = 0, b = A(AᵀA)⁻¹(AᵀAx + ts) makes
    Aᵀ(b − Ax) = ts: the Karush–Kuhn–Tucker conditions of a convex function.

    Args:
        seed: Draws everything.

    Returns:
        12 minima in 6 variables; those without a zero lie inside a piece.
    """
    points = []
    for number in range(12):
        rng = np.random.default_rng([seed, number, 12])
        rows = rng.standard_normal((9, 6))
        params = rng.uniform(0.5, 2.0, 6) * rng.choice([-1.0, 1.0], 6)
        inside = number % 3 == 0
        if not inside:
            params[: int(rng.integers(1, 4))] = 0.0
        penalty = rng.uniform(0.1, 2.0)
        slopes = np.where(params == 0.0, rng.uniform(-0.8, 0.8, 6), np.sign(params))
        target = rows @ np.linalg.solve(rows.T @ rows, rows.T @ rows @ params + penalty * slopes)
        values = np.linalg.eigvalsh(rows.T @ rows)
        points.append(
            KnownPoint(
                name=f"lasso_{'inside' if inside else 'kinked'}_{number}",
                kind="kink",
                loss=lasso,
                params=params,
                label="minimum",
                index=0 if inside else None,
                data=(rows, target, np.array([penalty])),
                num_zero=0 if inside else None,
                decidable=inside,
                gap=float(values[0] / values[-1]),
                why="convex, and zero is a subgradient (Karush–Kuhn–Tucker)",
            )
        )
    return points


def largest_of_quadratics(params: jax.Array, data: tuple[Any, Any, Any]) -> jax.Array:
    """Evaluate maxⱼ ½(x − cⱼ)ᵀAⱼ(x − cⱼ) + dⱼ.

    Args:
        params: x, shape (n,).
        data: A, shape (k, n, n); c, shape (k, n); d, shape (k,).

    Returns:
        The value, a scalar.
    """
    matrices, centers, heights = data
    apart = params[None, :] - centers
    return jnp.max(0.5 * jnp.einsum("ki,kij,kj->k", apart, matrices, apart, precision="highest") + heights)


def largest_of_quadratics_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build maxima of three quadratics, inside the piece of the first and where two pieces meet.

    Inside: the first is higher than the others by 1 or more at its own centre, so that its Hessian
    decides.  Where two meet: centres at ±c with one common positive definite matrix, whose maximum is
    lowest at 0 by symmetry and convexity.

    Args:
        seed: Draws everything.

    Returns:
        16 points in 3 variables.
    """
    points = []
    for number in range(16):
        rng = np.random.default_rng([seed, number, 13])
        meet = number % 4 == 3
        spectrum = rng.uniform(0.5, 2.0, (3, 3))
        negative = 0 if meet else (0, 1, 3)[number % 4]
        spectrum[0, :negative] *= -1.0
        turns = [random_rotation(3, rng) for _ in range(3)]
        matrices = np.stack([q.T @ np.diag(s) @ q for q, s in zip(turns, spectrum, strict=True)])
        centers, heights = rng.standard_normal((3, 3)), np.zeros(3)
        params = centers[0]
        if meet:
            matrices[1], centers[1], params = matrices[0], -centers[0], np.zeros(3)
            heights[2] = -100.0
        else:
            apart = params - centers
            others = 0.5 * np.einsum("ki,kij,kj->k", apart, matrices, apart)
            heights[0] = others[1:].max() + rng.uniform(1.0, 2.0)
        label = "minimum" if negative == 0 else "saddle" if negative == 1 else "maximum"
        points.append(
            KnownPoint(
                name=f"largest_of_quadratics_{'kinked' if meet else label}_{number}",
                kind="kink",
                loss=largest_of_quadratics,
                params=params,
                label=label,
                index=None if meet else negative,
                data=((matrices + matrices.transpose(0, 2, 1)) / 2.0, centers, heights),
                num_zero=None if meet else 0,
                decidable=not meet,
                why="symmetric and convex" if meet else "the centre of the quadratic that is highest there",
            )
        )
    return points


def relu_piece(weights: tuple[jax.Array, jax.Array], batch: tuple[Any, Any]) -> jax.Array:
    """Evaluate half the squared error of V(relu(Wx + 64) − 64), as a mean over samples.

    Args:
        weights: W, shape (p, d₀), and V, shape (d₂, p).
        batch: Inputs, shape (m, d₀), and targets, shape (m, d₂).

    Returns:
        The loss of the linear network VWx while every |Wx| is below 64.
    """
    inputs, targets = batch
    hidden = jax.nn.relu(inputs @ weights[0].T + BIAS) - BIAS
    num_samples: int = inputs.shape[0]
    return jnp.sum((hidden @ weights[1].T - targets) ** 2) / (2.0 * num_samples)


def relu_network(weights: tuple[jax.Array, jax.Array], batch: tuple[Any, Any]) -> jax.Array:
    """Evaluate half the squared error of V relu(Wx), as a mean over samples.

    Args:
        weights: W, shape (p, d₀), and V, shape (d₂, p).
        batch: Inputs, shape (m, d₀), and targets, shape (m, d₂).

    Returns:
        The value, a scalar.
    """
    inputs, targets = batch
    hidden = jax.nn.relu(inputs @ weights[0].T)
    num_samples: int = inputs.shape[0]
    return jnp.sum((hidden @ weights[1].T - targets) ** 2) / (2.0 * num_samples)


def relu_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build ReLU networks inside a piece, where they are linear networks, and at all-zero weights.

    At zero the loss is ½‖y‖² − ⟨V, mean(y relu(Wx)ᵀ)⟩ up to fourth order, and flipping the sign of V
    flips that of the product: lower and higher values arbitrarily near.

    Args:
        seed: Draws data.

    Returns:
        14 points.
    """
    points = []
    for subset in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)):
        linear = deep_linear_point((3, 3, 3), subset, seed=seed + 7)
        piece = dataclasses.replace(linear, loss=relu_piece, kind="kink", gap=1e-3)
        points.append(dataclasses.replace(piece, name=f"relu_piece_{''.join(map(str, subset)) or 'none'}"))
    for number in range(6):
        rng = np.random.default_rng([seed, number, 14])
        inputs, targets = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
        points.append(
            KnownPoint(
                name=f"relu_zero_{number}",
                kind="kink",
                loss=relu_network,
                params=(np.zeros((4, 3)), np.zeros((2, 4))),
                label="saddle",
                index=None,
                data=(inputs, targets),
                isolated=False,
                decidable=False,
                why="odd in V to leading order, which is not zero",
            )
        )
    return points


def kink_points(*, seed: int = 0) -> list[KnownPoint]:
    """Collect all points of this file.

    Args:
        seed: Draws everything.

    Returns:
        Points of kind "kink".
    """
    makers = (absolute_value_points, lasso_points, largest_of_quadratics_points, relu_points)
    return [point for maker in makers for point in maker(seed=seed)]
