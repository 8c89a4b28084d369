"""Critical points that are not isolated: spheres, factorisations, over-parameterised fits, sums of powers.

At all but the sums of powers the critical points form a manifold whose dimension is the number of zero
eigenvalues (Morse & Bott), so that the signs of the others decide.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, random_rotation
from hessian_probe.problems.linear_networks import deep_linear_point


def shell(params: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Evaluate s(‖x‖² − r²)²/4.

    Args:
        params: x, shape (n,).
        data: s and r, each of shape (1,).

    Returns:
        The value, a scalar: the sphere ‖x‖ = r is critical with curvature 2sr² across it.
    """
    sign, radius = data
    return sign[0] * (jnp.sum(params**2) - radius[0] ** 2) ** 2 / 4.0


def shell_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build valleys and ridges along circles and spheres in 2, 3 and 10 variables, and their centres.

    Args:
        seed: Draws places and radii.

    Returns:
        12 points.
    """
    points = []
    for number, size in enumerate((2, 3, 10)):
        for sign in (1.0, -1.0):
            for centre in (False, True):
                rng = np.random.default_rng([seed, number, int(sign + 1.0), centre])
                radius = rng.uniform(0.5, 3.0)
                direction = rng.standard_normal(size)
                on_shell = radius * direction / np.linalg.norm(direction)
                label = "minimum" if (sign > 0) != centre else "maximum"
                inward = -sign * radius**2
                points.append(
                    KnownPoint(
                        name=f"shell_n{size}_{'valley' if sign > 0 else 'ridge'}{'_centre' * centre}",
                        kind="flat",
                        loss=shell,
                        params=np.zeros(size) if centre else on_shell,
                        label=label,
                        index=(size if sign > 0 else 0) if centre else (0 if sign > 0 else 1),
                        data=(np.array([sign]), np.array([radius])),
                        degenerate=not centre,
                        num_zero=0 if centre else size - 1,
                        isolated=centre,
                        eigenvalue_range=(inward, inward) if centre else None,
                        why="the loss is s(‖x‖² − r²)²/4: zero on the sphere, of one sign elsewhere",
                    )
                )
    return points


def factorisation(params: dict[str, jax.Array], target: Any) -> jax.Array:
    """Evaluate ½‖UVᵀ − M‖².

    Args:
        params: U of shape (m, k) and V of shape (n, k).
        target: M, shape (m, n).

    Returns:
        The value, a scalar.
    """
    return 0.5 * jnp.sum((params["U"] @ params["V"].T - target) ** 2)


def factorisation_points(*, seed: int = 0) -> list[KnownPoint]:
    """Factor a 5 × 4 matrix of rank 3 by factors of width 3, at all eight sets of singular pairs.

    With the singular values σ and the pairs in S fitted, U = P_S√Σ_S R and V = Q_S√Σ_S R with R any
    invertible change of basis (inverse transposed in V).  The Hessian at UVᵀ = Σ_S has a negative
    eigenvalue for every pair left out that is paired with a free column; all of S is a global minimum,
    of dimension 9: the loss is zero there, and dense eigenvalues count 9 zeros.

    Args:
        seed: Draws M and R.

    Returns:
        8 points of ``deep_linear_loss``'s kind without data; anything but all of S is a strict saddle
        (Baldi & Hornik 1989).
    """
    rng = np.random.default_rng([seed, 5, 4])
    left, right = random_rotation(5, rng)[:, :3], random_rotation(4, rng)[:, :3]
    values = np.array([3.0, 2.0, 1.0])
    target = left @ np.diag(values) @ right.T
    points = []
    for code in range(8):
        chosen = np.array([bool(code >> i & 1) for i in range(3)])
        mix = random_rotation(3, rng) @ np.diag(rng.uniform(0.7, 1.5, 3))
        root = np.sqrt(values) * chosen
        whole = bool(chosen.all())
        points.append(
            KnownPoint(
                name=f"factorisation_{code}",
                kind="flat",
                loss=factorisation,
                params={"U": left * root @ mix, "V": right * root @ np.linalg.inv(mix).T},
                label="minimum" if whole else "saddle",
                index=0 if whole else None,
                data=target,
                degenerate=whole,
                num_zero=9 if whole else None,
                isolated=False,
                why="zero loss" if whole else "a singular pair is left out (Baldi & Hornik 1989)",
            )
        )
    return points


def tanh_fit(params: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Evaluate ½ Σ (tanh(Ax) − b)²: fewer equations than unknowns.

    Args:
        params: x, shape (n,).
        data: A, shape (m, n), and b, shape (m,).

    Returns:
        The value, a scalar.
    """
    rows, target = data
    return 0.5 * jnp.sum((jnp.tanh(rows @ params) - target) ** 2)


def underdetermined_points(*, seed: int = 0) -> list[KnownPoint]:
    """Fit m = 3 and 8 values exactly with n = 6 and 20 unknowns: minima of dimension n − m.

    Args:
        seed: Draws the equations.

    Returns:
        8 minima of loss zero; the Hessian is JᵀJ with J of rank m.
    """
    points = []
    for number in range(8):
        rng = np.random.default_rng([seed, number, 77])
        m, n = ((3, 6), (8, 20))[number % 2]
        rows = rng.standard_normal((m, n)) / np.sqrt(n)
        params = rng.standard_normal(n)
        points.append(
            KnownPoint(
                name=f"underdetermined_{m}_of_{n}_{number}",
                kind="flat",
                loss=tanh_fit,
                params=params,
                label="minimum",
                index=0,
                data=(rows, np.tanh(rows @ params)),
                degenerate=True,
                num_zero=n - m,
                isolated=False,
                why="a sum of squares that is zero; J has rank m",
            )
        )
    return points


def power_sum(params: jax.Array, data: tuple[Any, Any, Any]) -> jax.Array:
    """Evaluate Σ c₂z² + c₄z⁴ + c₆z⁶ at z = Q(x − centre).

    Args:
        params: x, shape (n,).
        data: Q of shape (n, n), the centre of shape (n,) and c of shape (n, 3).

    Returns:
        The value, a scalar.
    """
    rotation, center, weights = data
    square = (rotation @ (params - center)) ** 2
    return jnp.sum(square * (weights[:, 0] + square * (weights[:, 1] + square * weights[:, 2])))


def power_sum_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build sums of second, fourth and sixth powers of four coordinates, with equal and mixed signs.

    Args:
        seed: Draws orders, signs, rotation and centre.

    Returns:
        24 points; a coordinate's lowest order with its sign decides how the function goes along it.
    """
    points = []
    for number in range(24):
        rng = np.random.default_rng([seed, number, 4])
        orders = rng.integers(0, 3, 4)
        orders[0] = 1 + number % 2  # one coordinate at least is flat
        common = (1.0, -1.0, 0.0)[number % 3]
        signs = np.full(4, common) if common else rng.choice([-1.0, 1.0], 4)
        weights = np.zeros((4, 3))
        weights[np.arange(4), orders] = signs * rng.uniform(0.5, 2.0, 4)
        negative, positive = (int(np.sum((signs == s) & (orders == 0))) for s in (-1.0, 1.0))
        center = rng.standard_normal(4) * rng.integers(0, 2)
        mixed = bool(np.any(signs > 0) and np.any(signs < 0))
        points.append(
            KnownPoint(
                name=f"power_sum_{number}",
                kind="flat",
                loss=power_sum,
                params=center,
                label="saddle" if mixed else "minimum" if signs[0] > 0 else "maximum",
                index=negative,
                data=(random_rotation(4, rng), center, weights),
                degenerate=not (negative and positive),
                num_zero=4 - negative - positive,
                why="separable: each coordinate's lowest even power has the sign " + str(signs.astype(int)),
            )
        )
    return points


def flat_network_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build linear networks at all-zero weights and at other points that only higher order decides.

    Args:
        seed: Draws data and rotations.

    Returns:
        Non-strict saddles and minima of depth 2 to 5 (``deep_linear_point``).
    """
    cases: list[tuple[tuple[int, ...], tuple[int, ...], dict[int, tuple[int, ...]]]] = [
        ((2, 2, 2, 2), (), {}),
        ((4, 3, 3, 2), (), {}),
        ((4, 3, 3, 2), (1,), {}),
        ((4, 3, 3, 2), (1, 2), {}),
        ((2, 2, 2, 2, 2), (), {}),
        ((2, 2, 2, 2, 2), (1,), {}),
        ((2, 2, 2, 2, 2), (1, 2), {}),
        ((2, 2, 2, 2, 2, 2), (), {}),
        ((6, 4, 3), (1, 2, 3), {}),
        ((6, 4, 3), (1, 3), {}),
    ]
    points = []
    for copy in (1, 2):
        for widths, subset, carried in cases:
            point = deep_linear_point(widths, subset, carried=carried, seed=10 * seed + copy)
            points.append(dataclasses.replace(point, name=f"{point.name}_{copy}", kind="flat"))
    return points


def flat_valley_points(*, seed: int = 0) -> list[KnownPoint]:
    """Collect all points of this file.

    Args:
        seed: Draws everything.

    Returns:
        Points of kind "flat".
    """
    makers = (
        shell_points,
        factorisation_points,
        underdetermined_points,
        power_sum_points,
        flat_network_points,
    )
    return [point for maker in makers for point in maker(seed=seed)]
