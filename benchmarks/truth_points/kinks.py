"""Losses with kinks: minima of convex ones, kinked saddles, and smooth pieces with kinks elsewhere.

At a kink automatic differentiation returns the Hessian of one piece; such points count as undecidable by
derivatives, though a label can still be wrong.
"""

import functools
from itertools import chain, combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.table import changed, draws, of_data, table
from hessian_probe.problems import KnownPoint, deep_linear_point
from hessian_probe.problems.known_point import random_rotation

BIAS = 64.0  # a power of two: adding and subtracting it rounds, but moves nothing
LABELS = ("minimum", "maximum", "saddle")


@of_data
def absolute_values(params: jax.Array, weights: Any, curvature: Any, center: Any) -> jax.Array:
    """Σ wᵢ|zᵢ| + ½ Σ λᵢzᵢ² at z = x − c."""
    z = params - center
    return jnp.sum(weights * jnp.abs(z) + 0.5 * curvature * z**2)


@table("kink", 18)
def sharp(seed: int, number: int) -> KnownPoint:
    """At c the first order of |z| outweighs any curvature; a third of the points have w = 0 twice."""
    rng = draws(seed, number, 11)
    sign = (np.ones(4), -np.ones(4), np.array([1.0, -1.0, 1.0, -1.0]))[number % 3]
    weights = sign * rng.uniform(0.2, 2.0, 4)
    curvature = (1.0, -1.0, 1.0)[number // 3 % 3] * sign * rng.uniform(0.2, 2.0, 4)
    if number // 3 % 3 == 2:
        weights[2:] = 0.0
    center = rng.integers(-2, 3, 4).astype(np.float64)
    name, label, data = f"absolute_values_{number}", LABELS[number % 3], (weights, curvature, center)
    why = "separable: every coordinate's lowest order has the sign " + str(sign.astype(int))
    return KnownPoint(name, absolute_values, center, label, data=data, decidable=False, why=why)


# ½‖Ax − b‖² + t‖x‖₁.
lasso = of_data(lambda p, a, b, t: 0.5 * jnp.sum((a @ p - b) ** 2) + t[0] * jnp.sum(jnp.abs(p)))


@table("kink", 12)
def lassos(seed: int, number: int) -> KnownPoint:
    """L1-regularised least squares at the exact solution, inside a piece and with zeros in it.

    x is drawn first; with s = sign(x), and |sᵢ| ≤ 0.8 drawn where xᵢ = 0, b = A(AᵀA)⁻¹(AᵀAx + ts) makes
    Aᵀ(b − Ax) = ts: the Karush–Kuhn–Tucker conditions of a convex function.
    """
    rng, inside = draws(seed, number, 12), number % 3 == 0
    rows = rng.standard_normal((9, 6))
    params = rng.uniform(0.5, 2.0, 6) * rng.choice([-1.0, 1.0], 6)
    if not inside:
        params[: int(rng.integers(1, 4))] = 0.0
    penalty = rng.uniform(0.1, 2.0)
    slopes = np.where(params == 0.0, rng.uniform(-0.8, 0.8, 6), np.sign(params))
    target = rows @ np.linalg.solve(rows.T @ rows, rows.T @ rows @ params + penalty * slopes)
    values = np.linalg.eigvalsh(rows.T @ rows)
    name, data = f"lasso_{'inside' if inside else 'kinked'}_{number}", (rows, target, np.array([penalty]))
    facts: dict[str, Any] = {"decidable": inside, "gap": float(values[0] / values[-1])}
    facts |= {"index": 0, "num_zero": 0} if inside else {}
    facts["why"] = "convex, and zero is a subgradient (Karush–Kuhn–Tucker)"
    return KnownPoint(name, lasso, params, "minimum", data=data, **facts)


@of_data
def largest_of_quadratics(params: jax.Array, matrices: Any, centers: Any, heights: Any) -> jax.Array:
    """Maxⱼ ½(x − cⱼ)ᵀAⱼ(x − cⱼ) + dⱼ."""
    apart = params[None, :] - centers
    return jnp.max(0.5 * jnp.einsum("ki,kij,kj->k", apart, matrices, apart, precision="highest") + heights)


@table("kink", 16)
def largest(seed: int, number: int) -> KnownPoint:
    """The largest of three quadratics, inside the piece of the first and where two pieces meet.

    Inside, the first is higher than the others by 1 or more at its own centre.  Two meet with centres at ±c
    and one positive definite matrix: their maximum is lowest at 0 by symmetry and convexity.
    """
    rng, meet = draws(seed, number, 13), number % 4 == 3
    spectrum = rng.uniform(0.5, 2.0, (3, 3))
    negative = (0, 1, 3, 0)[number % 4]
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
    label = {0: "minimum", 1: "saddle", 3: "maximum"}[negative]
    name = f"largest_of_quadratics_{'kinked' if meet else label}_{number}"
    data = ((matrices + matrices.transpose(0, 2, 1)) / 2.0, centers, heights)
    facts = {"index": negative, "num_zero": 0, "why": "the centre of the quadratic that is highest there"}
    facts = {"decidable": False, "why": "symmetric and convex"} if meet else facts
    return KnownPoint(name, largest_of_quadratics, params, label, data=data, **facts)


def relu_network(weights: Any, inputs: Any, targets: Any, bias: float = 0.0) -> jax.Array:
    """Half the squared error of V(relu(Wx + bias) − bias), as a mean over samples."""
    hidden = inputs @ weights[0].T
    hidden = jax.nn.relu(hidden + bias) - bias if bias else jax.nn.relu(hidden)
    return jnp.sum((hidden @ weights[1].T - targets) ** 2) / (2.0 * inputs.shape[0])


relu_loss = of_data(relu_network)
# The loss of the linear network VWx while every |Wx| is below 64.
relu_piece = of_data(functools.partial(relu_network, bias=BIAS))


@table("kink", [(s,) for s in chain.from_iterable(combinations((1, 2, 3), r) for r in range(4))])
def relu_pieces(seed: int, subset: tuple[int, ...]) -> KnownPoint:
    """ReLU networks inside a piece, where they are linear networks."""
    linear = deep_linear_point((3, 3, 3), subset, seed=seed + 7)
    return changed(linear, f"relu_piece_{''.join(map(str, subset)) or 'none'}", loss=relu_piece, gap=1e-3)


@table("kink", 6)
def relu_zeros(seed: int, number: int) -> KnownPoint:
    """ReLU networks, all weights zero: to leading order ½‖y‖² − ⟨V, mean(y relu(Wx)ᵀ)⟩, odd in V."""
    rng = draws(seed, number, 14)
    name, params = f"relu_zero_{number}", (np.zeros((4, 3)), np.zeros((2, 4)))
    data = (rng.standard_normal((20, 3)), rng.standard_normal((20, 2)))
    facts = {"isolated": False, "decidable": False, "why": "odd in V to leading order, which is not zero"}
    return KnownPoint(name, relu_loss, params, "saddle", data=data, **facts)
