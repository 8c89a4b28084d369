"""Critical points where second order is silent and a higher order decides.

Coordinates (u, v) = Q(x − c) with u in the flat space.  The function is ½ Σ λᵢ(vᵢ − bᵢ(aᵢ·u)²)² + φ(u)
with φ a homogeneous polynomial of order p, a sum of p-th powers of linear forms.  The substitution
v → v − b(a·u)² is a diffeomorphism that fixes the origin, so that the label is that of ½ Σ λᵢvᵢ² + φ(u):
where all λ > 0, a minimum if φ is positive, a saddle if φ takes a negative value.  With b ≠ 0 and p > 4
the descents are curved: along straight lines through the point the function is a minimum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, random_rotation

FormData = tuple[Any, Any, Any, Any, Any, Any, Any]
Array = np.ndarray[Any, np.dtype[np.float64]]


@functools.cache
def flat_form(order: int) -> Callable[[jax.Array, FormData], jax.Array]:
    """Make the loss ½ Σ λᵢ(vᵢ − bᵢ(aᵢ·u)²)² + Σⱼ wⱼ(dⱼ·u)^order.

    Args:
        order: Order of the homogeneous polynomial in u.

    Returns:
        ``loss(params, (Q, c, λ, b, a, w, d))``: params of shape (n,), Q of shape (n, n), c of shape
        (n,), λ and b of shape (r,), a of shape (r, m), w of shape (k,), d of shape (k, m); u is the
        first m coordinates, v the last r.
        Equal arguments give the same function object.
    """

    def loss(params: jax.Array, data: FormData) -> jax.Array:
        rotation, center, curvature, bend, bend_rows, weights, rows = data
        z = rotation @ (params - center)
        u, v = z[: rows.shape[1]], z[z.shape[0] - curvature.shape[0] :]
        v = v - bend * (bend_rows @ u) ** 2
        return 0.5 * jnp.sum(curvature * v**2) + jnp.sum(weights * (rows @ u) ** order)

    loss.__name__ = loss.__qualname__ = f"flat_form_{order}"
    return loss


def _form(order: int, kind: str, flat: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Draw coefficients and linear forms of a homogeneous polynomial in ``flat`` variables.

    Args:
        order: Its order.
        kind: "positive", or "both": takes values of both signs.
        flat: Number of variables.
        rng: Source of randomness.

    Returns:
        Coefficients w, linear forms d and a unit vector u along which the polynomial is at most −0.05
        (where there is one, else zeros).
    """
    rows = np.r_[random_rotation(flat, rng), rng.standard_normal((2, flat))]
    weights = rng.uniform(0.5, 1.5, len(rows))
    if kind == "positive":  # even powers of forms that span the space: zero at u = 0 alone
        return weights, rows, np.zeros(flat)
    if order % 2:
        weights *= rng.choice([-1.0, 1.0], len(rows))
    else:
        weights[0] *= -20.0  # the first form alone is not small where the polynomial is negative
    trials = np.r_[rows[:1], rng.standard_normal((4000, flat))]
    trials /= np.linalg.norm(trials, axis=1, keepdims=True)
    values = (trials @ rows.T) ** order @ weights
    lowest = int(np.argmin(values))
    if not (values[lowest] < -0.05 and (flat == 1 or order % 2 == 0 or values.max() > 0.05)):
        return _form(order, kind, flat, rng)
    return weights, rows, np.asarray(trials[lowest])


def flat_form_point(order: int, kind: str, signs: str, *, curved: bool = False, seed: int = 0) -> KnownPoint:
    """Build one point of ``flat_form``.

    Args:
        order: Order of φ, at least 3.
        kind: "positive" (needs an even order) or "both".
        signs: Quadratic directions: "none", "positive", "negative" (all of that sign) or "mixed".
        curved: Bend the quadratic directions over the flat space.
        seed: Draws everything.

    Returns:
        The point, in 3 or 6 variables; ``descent`` where φ falls along a straight line and no bend hides
        it.

    Raises:
        ValueError: If an odd order is to be positive, or a name is unknown.
    """
    if kind not in ("positive", "both") or (kind == "positive" and order % 2):
        raise ValueError(f"expected an even order for 'positive', or 'both'; got {order}, {kind!r}")
    rng = np.random.default_rng([seed, order, len(kind), len(signs), curved])
    flat, n, rest = (3, 3, 1) if signs == "none" else (2, 6, 4)  # data of no length are refused
    if signs not in ("none", "positive", "negative", "mixed"):
        raise ValueError(f"expected none, positive, negative or mixed, got {signs!r}")
    curvature = rng.uniform(0.5, 2.0, rest)
    curvature *= {"none": 0.0, "negative": -1.0}.get(signs, 1.0)
    if signs == "mixed":
        curvature *= rng.permutation([1.0, 1.0, -1.0, -1.0])
    weights, rows, lower = _form(order, kind, flat, rng)
    rotation, center = random_rotation(n, rng), rng.standard_normal(n) * rng.integers(0, 2)
    bend = rng.uniform(0.5, 1.5, rest) * float(curved)
    bend_rows = rng.standard_normal((rest, flat))
    negative = int(np.sum(curvature < 0))
    if signs == "mixed" or kind == "both" or signs == "negative":
        label = "saddle"
        why = "curvature of both signs" if signs == "mixed" else "the higher-order form goes the other way"
    else:
        label, why = "minimum", "positive curvature, and a positive definite form on the flat space"
    descent = rotation.T @ np.r_[lower, np.zeros(n - flat)] if kind == "both" and not curved else None
    bent = "_bent" if curved else ""
    return KnownPoint(
        name=f"form{order}_{kind}_{signs}{bent}_seed{seed}",
        kind="flat",
        loss=flat_form(order),
        params=center,
        label=label,
        index=negative,
        data=(rotation, center, curvature, bend, bend_rows, weights, rows),
        degenerate=signs != "mixed",
        num_zero=flat,
        descent=descent,
        why=why,
    )


def peano_power(params: jax.Array, data: tuple[Any, Any, Any, Any]) -> jax.Array:
    """Evaluate (y − ax^k)(y − bx^k) with (x, y) = Q(params − c) and k = 2 or 3.

    Args:
        params: Shape (2,).
        data: Q, shape (2, 2); c, shape (2,); (a, b), shape (2,); (1, 0) for k = 2 or (0, 1) for k = 3.

    Returns:
        The value, a scalar.
    """
    rotation, center, slopes, which = data
    z = rotation @ (params - center)
    power = which[0] * z[0] ** 2 + which[1] * z[0] ** 3
    return (z[1] - slopes[0] * power) * (z[1] - slopes[1] * power)


def peano_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build (y − ax^k)(y − bx^k): f = (y − mx^k)² − h²x^2k with m = (a + b)/2, h = (b − a)/2.

    A saddle of order 2k; where ab > 0 a minimum along every straight line (Peano 1884).

    Args:
        seed: Draws the curves.

    Returns:
        16 points.
    """
    points = []
    for number in range(16):
        rng = np.random.default_rng([seed, number])
        k, curves = 2 + number % 2, ("same side", "both sides", "close")[number // 2 % 3]
        first = rng.uniform(0.5, 1.5)
        second = first * {"same side": 2.5, "both sides": -1.0, "close": 1.5}[curves]
        center = np.zeros(2) if number < 8 else rng.standard_normal(2)
        points.append(
            KnownPoint(
                name=f"peano_{number}",
                kind="flat",
                loss=peano_power,
                params=center,
                label="saddle",
                index=0,
                data=(random_rotation(2, rng), center, np.array([first, second]), np.eye(2)[k - 2]),
                degenerate=True,
                num_zero=1,
                why=f"negative between the curves y = {first:.2f}x^{k} and {second:.2f}x^{k}",
            )
        )
    return points


def flat_form_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build forms of order 3 to 6 of every kind, straight and bent.

    Args:
        seed: Draws everything.

    Returns:
        Points of ``flat_form_point``.
    """
    points = []
    for order in (3, 4, 5, 6):
        for kind in ("both",) if order % 2 else ("both", "positive"):
            for signs in ("none", "positive", "negative", "mixed"):
                for curved in (False, True) if signs == "positive" else (False,):
                    for copy in range(1 if signs == "mixed" else 2):
                        point = flat_form_point(order, kind, signs, curved=curved, seed=2 * seed + copy)
                        points.append(point)
    return points
