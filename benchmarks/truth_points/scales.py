"""Units, offsets and conditioning: where sizes mislead and signs do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.tails import cubic_slope_points, scale_invariant_points, tail_points
from hessian_probe.problems.known_point import KnownPoint, random_rotation
from hessian_probe.problems.polynomials import quadratic

Array = np.ndarray[Any, np.dtype[np.float64]]
SIZE = 10


def unit_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build quadratics in small and large units of loss and of parameters.

    The Hessian is multiplied by 10^±12 (its bulk stays within a factor of four), or the parameters by
    10^±6.

    Args:
        seed: Draws spectra and centres.

    Returns:
        24 points in 10 variables.
    """
    points = []
    for number, (loss_unit, unit) in enumerate(((1e-12, 1.0), (1e12, 1.0), (1.0, 1e-6), (1.0, 1e6))):
        for kind in range(3):
            for at_origin in (True, False):
                rng = np.random.default_rng([seed, number, kind, at_origin])
                spectrum = rng.uniform(0.5, 2.0, SIZE)
                spectrum[: (0, 3, SIZE)[kind]] *= -1.0
                center = unit * rng.standard_normal(SIZE) * float(not at_origin)
                point = quadratic(
                    loss_unit / unit**2 * spectrum, center=center, seed=int(rng.integers(2**31))
                )
                name = f"units_{loss_unit:g}_{unit:g}_{point.label}{'_origin' * at_origin}"
                points.append(dataclasses.replace(point, name=name, kind="scale"))
    return points


def conditioned_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build minima, and saddles of one small negative eigenvalue, of condition 1e2 … 1e14.

    ``gap`` is 1/condition: beyond the precision's rounding the sign of the smallest eigenvalue is noise,
    although the exact function has one.

    Args:
        seed: Draws spectra and centres.

    Returns:
        28 points in 10 variables, eigenvalues log-uniform, half of them with coordinate axes as
        eigenvectors.
    """
    points = []
    for exponent in (2, 3, 4, 6, 8, 11, 14):
        for sign in (1.0, -1.0):
            for rotate in (False, True):
                rng = np.random.default_rng([seed, exponent, int(sign + 1.0), rotate])
                spectrum = 10.0 ** -np.r_[0.0, rng.uniform(0.0, exponent, SIZE - 2), exponent]
                spectrum[-1] *= sign
                center = rng.standard_normal(SIZE)
                point = quadratic(spectrum, center=center, rotate=rotate, seed=int(rng.integers(2**31)))
                name = f"condition_1e{exponent}_{point.label}{'_rotated' * rotate}"
                gap = 10.0**-exponent
                points.append(dataclasses.replace(point, name=name, kind="scale", gap=gap))
    return points


def offset_quadratic(params: jax.Array, data: tuple[Any, Any, Any, Any]) -> jax.Array:
    """Evaluate ½ Σ λᵢzᵢ² + d at z = Q(x − c).

    Args:
        params: x, shape (n,).
        data: Q of shape (n, n), c and λ of shape (n,), d of shape (1,).

    Returns:
        The value, a scalar.
    """
    rotation, center, curvature, offset = data
    return 0.5 * jnp.sum(curvature * (rotation @ (params - center)) ** 2) + offset[0]


def offset_points(*, seed: int = 0) -> list[KnownPoint]:
    """Add 1e4 and 1e9 to quadratics of curvature 1: values near the point all round to the same.

    Args:
        seed: Draws spectra and centres.

    Returns:
        12 points in 10 variables.
    """
    points = []
    for number in range(12):
        rng = np.random.default_rng([seed, number, 9])
        negative = (0, 4, SIZE)[number % 3]
        spectrum = rng.uniform(0.5, 2.0, SIZE)
        spectrum[:negative] *= -1.0
        center = rng.standard_normal(SIZE)
        offset = (1e4, 1e9, -1e4, -1e9)[number // 3]
        label = ("minimum", "saddle", "maximum")[number % 3]
        points.append(
            KnownPoint(
                name=f"offset_{offset:g}_{label}",
                kind="scale",
                loss=offset_quadratic,
                params=center,
                label=label,
                index=negative,
                data=(random_rotation(SIZE, rng), center, spectrum, np.array([offset])),
                num_zero=0,
                eigenvalue_range=(float(spectrum.min()), float(spectrum.max())),
                why="a constant changes no derivative",
            )
        )
    return points


def scale_points(*, seed: int = 0) -> list[KnownPoint]:
    """Collect the points of this file and of ``tails``.

    Args:
        seed: Draws everything.

    Returns:
        Points of kind "scale".
    """
    makers = (
        unit_points,
        conditioned_points,
        offset_points,
        tail_points,
        scale_invariant_points,
        cubic_slope_points,
    )
    return [point for maker in makers for point in maker(seed=seed)]
