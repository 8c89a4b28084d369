"""Points at which the gradient is not zero: slopes, floors of valleys, and places next to critical points.

A slope here has no critical point at all, or lies at the inflection between a well and a hill.  A place
next to a critical point carries that point's label: it lies so near that the loss differs by less than
1e-3 of what the curvature changes over the distance over which it holds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, random_rotation
from hessian_probe.problems.polynomials import quadratic, random_polynomial, ridge_polynomial

SIZE = 10


def rising_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build s(z₀ + z₀³/3) + ½ Σ λᵢzᵢ² with z = Q(x − c): the derivative s(1 + z₀²) is nowhere zero.

    Args:
        seed: Draws steepness, spectrum, rotation and place.

    Returns:
        24 points in 10 variables, steepness 1e-4 … 1e1, with and without gradient in the rest.
    """
    points = []
    for number in range(24):
        rng = np.random.default_rng([seed, number, 21])
        steep = 10.0 ** (number % 6 - 4.0)
        curvature = rng.uniform(0.5, 2.0, SIZE - 1)
        curvature[: (0, 4, SIZE - 1)[number % 3]] *= -1.0
        rotation = random_rotation(SIZE, rng)
        z = np.zeros(SIZE)
        z[0] = rng.uniform(-1.0, 1.0) * (number % 4 > 0)
        if number >= 12:
            z[1:] = 0.01 * rng.standard_normal(SIZE - 1)
        center = rng.standard_normal(SIZE)
        weights = np.zeros((SIZE, 4))
        weights[0, [0, 2]] = SIZE * steep, 2.0 * SIZE * steep
        weights[1:, 1] = SIZE * curvature
        points.append(
            KnownPoint(
                name=f"rising_{number}",
                kind="slope",
                loss=ridge_polynomial,
                params=center + rotation.T @ z,
                label="not_critical",
                index=None,
                data=(rotation, rotation @ center, weights),
                gap=min(1.0, steep),
                why=f"the derivative along one direction is {steep:g}(1 + z²) everywhere",
            )
        )
    return points


def valley_floor(params: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Evaluate ½ Σ kᵢ(xᵢ − x₀²)² + s x₀, i ≥ 1.

    Args:
        params: x, shape (n,).
        data: k, shape (n − 1,), and s, shape (1,).

    Returns:
        The value, a scalar.
    """
    stiffness, slope = data
    apart = params[1:] - params[0] ** 2
    return 0.5 * jnp.sum(stiffness * apart**2) + slope[0] * params[0]


def valley_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build points on and beside the floor of a curved valley that falls all the way.

    Where the derivatives by x₁ … vanish, xᵢ = x₀² and the derivative by x₀ is s ≠ 0.

    Args:
        seed: Draws stiffness and place.

    Returns:
        12 points in 4 variables, slopes 1e-3 … 1.
    """
    points = []
    for number in range(12):
        rng = np.random.default_rng([seed, number, 22])
        slope = 10.0 ** -(number % 4)
        first = rng.uniform(-1.0, 1.0)
        floor = np.r_[first, np.full(3, first**2)]
        aside = (0.0, 1e-3, 1e-2)[number // 4] * rng.standard_normal(4)
        points.append(
            KnownPoint(
                name=f"valley_{slope:g}_{number}",
                kind="slope",
                loss=valley_floor,
                params=floor + np.r_[0.0, aside[1:]],
                label="not_critical",
                index=None,
                data=(10.0 ** rng.uniform(0.0, 2.0, 3), np.array([slope])),
                gap=slope / 100.0,
                why="where the other derivatives vanish the one along the valley is s",
            )
        )
    return points


def wells(params: jax.Array, widths: Any) -> jax.Array:
    """Evaluate Σ (xᵢ⁴/4 − aᵢ²xᵢ²/2): wells at ±aᵢ, hills at 0.

    Args:
        params: x, shape (n,).
        widths: a, shape (n,).

    Returns:
        The value, a scalar.
    """
    return jnp.sum(params**4 / 4.0 - widths**2 * params**2 / 2.0)


def inflection_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build slopes between wells and hills: some coordinates at the inflection a/√3, the others at rest.

    The loss is 5/36 a⁴ below the hill there and 4/36 a⁴ above the well: as far from one as from the other.

    Args:
        seed: Draws widths and places.

    Returns:
        12 points in 6 variables.
    """
    points = []
    for number in range(12):
        rng = np.random.default_rng([seed, number, 23])
        widths = rng.uniform(0.5, 2.0, 6)
        place = rng.choice([-1.0, 0.0, 1.0], 6)
        place[: 1 + number % 3] = 1.0 / np.sqrt(3.0)
        points.append(
            KnownPoint(
                name=f"inflection_{number}",
                kind="slope",
                loss=wells,
                params=widths * place,
                label="not_critical",
                index=int(np.sum(place == 0.0)),
                data=widths,
                num_zero=1 + number % 3,
                why="between a well and a hill, at the steepest place",
            )
        )
    return points


def beside_points(*, seed: int = 0) -> list[KnownPoint]:
    """Move away from critical points of each type by 1e-6 … 1e-2 of the distance over which λ holds.

    For ½λz² + cz⁴/24 the curvature changes by less than a quarter over |z| ≤ √(|λ|/2c), 0.3 or more
    here; the distance moved is at most 1e-2 of it.

    Args:
        seed: Draws functions and directions.

    Returns:
        24 points in 10 variables, and 12 next to critical points of random quartics in 5.
    """
    points = []
    for number in range(36):
        rng = np.random.default_rng([seed, number, 24])
        kind = number % 3
        if number < 24:
            spectrum = rng.uniform(0.5, 2.0, SIZE)
            spectrum[: (0, 4, SIZE)[kind]] *= -1.0
            point = quadratic(
                spectrum, center=rng.standard_normal(SIZE), quartic=2.0, seed=int(rng.integers(2**31))
            )
            reach = np.sqrt(np.min(np.abs(spectrum)) / 4.0)
        else:
            point = random_polynomial(5, seed=100 * seed + number, index=(0, 2, 5)[kind])
            reach = 0.01
        direction = rng.standard_normal(point.size)
        distance = reach * 10.0 ** -(2.0 + number // 3 % 4 * 4.0 / 3.0)
        moved = point.params + distance * direction / np.linalg.norm(direction)
        points.append(
            dataclasses.replace(
                point,
                name=f"beside_{point.label}_{number}",
                kind="slope",
                params=moved,
                eigenvalue_range=None,
                gap=0.01,
                why=f"{distance:.1e} beside a {point.label}, over which the curvature hardly changes",
            )
        )
    return points


def slope_points(*, seed: int = 0) -> list[KnownPoint]:
    """Collect all points of this file.

    Args:
        seed: Draws everything.

    Returns:
        Points of kind "slope".
    """
    makers = (rising_points, valley_points, inflection_points, beside_points)
    return [point for maker in makers for point in maker(seed=seed)]
