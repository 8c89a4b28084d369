"""Points at which the gradient is not zero: slopes, floors of valleys, and places next to critical points.

A place next to a critical point carries that point's label: it lies so near that the loss differs by less
than 1e-3 of what the curvature changes over the distance over which it holds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.table import changed, draws, of_data, table
from hessian_probe.problems import KnownPoint, quadratic, random_polynomial, ridge_polynomial
from hessian_probe.problems.known_point import random_rotation

SIZE = 10


@table("slope", 24)
def rising(seed: int, number: int) -> KnownPoint:
    """s(z₀ + z₀³/3) + ½ Σ λᵢzᵢ² with z = Q(x − c): the derivative s(1 + z₀²) is nowhere zero."""
    rng, steep = draws(seed, number, 21), 10.0 ** (number % 6 - 4.0)
    curvature = rng.uniform(0.5, 2.0, SIZE - 1)
    curvature[: (0, 4, SIZE - 1)[number % 3]] *= -1.0
    rotation, z = random_rotation(SIZE, rng), np.zeros(SIZE)
    z[0] = rng.uniform(-1.0, 1.0) * (number % 4 > 0)
    if number >= 12:
        z[1:] = 0.01 * rng.standard_normal(SIZE - 1)
    center = rng.standard_normal(SIZE)
    weights = np.zeros((SIZE, 4))
    weights[0, [0, 2]] = SIZE * steep, 2.0 * SIZE * steep
    weights[1:, 1] = SIZE * curvature
    name, at, data = f"rising_{number}", center + rotation.T @ z, (rotation, rotation @ center, weights)
    why = f"the derivative along one direction is {steep:g}(1 + z²) everywhere"
    return KnownPoint(name, ridge_polynomial, at, "not_critical", data=data, gap=min(1.0, steep), why=why)


@of_data
def valley_floor(params: jax.Array, stiffness: Any, slope: Any) -> jax.Array:
    """½ Σ kᵢ(xᵢ − x₀²)² + s x₀, i ≥ 1."""
    apart = params[1:] - params[0] ** 2
    return 0.5 * jnp.sum(stiffness * apart**2) + slope[0] * params[0]


@table("slope", 12)
def valleys(seed: int, number: int) -> KnownPoint:
    """On and beside the floor of a curved valley that falls all the way."""
    rng, slope = draws(seed, number, 22), 10.0 ** -(number % 4)
    first = rng.uniform(-1.0, 1.0)
    aside = (0.0, 1e-3, 1e-2)[number // 4] * rng.standard_normal(4)
    at = np.r_[first, first**2 + aside[1:]]
    name, data = f"valley_{slope:g}_{number}", (10.0 ** rng.uniform(0.0, 2.0, 3), np.array([slope]))
    why = "where the other derivatives vanish the one along the valley is s"
    return KnownPoint(name, valley_floor, at, "not_critical", data=data, gap=slope / 100.0, why=why)


# Σ (xᵢ⁴/4 − aᵢ²xᵢ²/2): wells at ±aᵢ, hills at 0.
wells = of_data(lambda p, widths: jnp.sum(p**4 / 4.0 - widths**2 * p**2 / 2.0))


@table("slope", 12)
def inflections(seed: int, number: int) -> KnownPoint:
    """Some coordinates at the inflection a/√3, 5/36 a⁴ below a hill and 4/36 a⁴ above a well."""
    rng = draws(seed, number, 23)
    widths, place = rng.uniform(0.5, 2.0, 6), rng.choice([-1.0, 0.0, 1.0], 6)
    place[: 1 + number % 3] = 1.0 / np.sqrt(3.0)
    name, index, zero = f"inflection_{number}", int(np.sum(place == 0.0)), 1 + number % 3
    why = "between a well and a hill, at the steepest place"
    return KnownPoint(name, wells, widths * place, "not_critical", index, widths, num_zero=zero, why=why)


@table("slope", 36)
def beside(seed: int, number: int) -> KnownPoint:
    """1e-6 … 1e-2 of the distance over which λ holds from critical points of each type.

    For ½λz² + cz⁴/24 the curvature changes by less than a quarter over |z| ≤ √(|λ|/2c), 0.3 or more here.
    The last twelve are next to critical points of random quartics in five variables.
    """
    rng, kind, reach = draws(seed, number, 24), number % 3, 0.01
    if number < 24:
        spectrum = rng.uniform(0.5, 2.0, SIZE)
        spectrum[: (0, 4, SIZE)[kind]] *= -1.0
        center = rng.standard_normal(SIZE)
        point = quadratic(spectrum, center=center, quartic=2.0, seed=int(rng.integers(2**31)))
        reach = np.sqrt(np.min(np.abs(spectrum)) / 4.0)
    else:
        point = random_polynomial(5, seed=100 * seed + number, index=(0, 2, 5)[kind])
    direction = rng.standard_normal(point.size)
    distance = reach * 10.0 ** -(2.0 + number // 3 % 4 * 4.0 / 3.0)
    name = f"beside_{point.label}_{number}"
    params = point.params + distance * direction / np.linalg.norm(direction)
    why = f"{distance:.1e} beside a {point.label}, over which the curvature hardly changes"
    return changed(point, name, params=params, eigenvalue_range=None, gap=0.01, why=why)
