"""Random functions whose Hessian is known exactly: quadratics, bent saddles, quartics.

All are one loss, a mean of quartic polynomials of linear forms. Everything random sits in the
data, so that hundreds of them share one compiled function per shape. Every polynomial of degree
four or less can be written this way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, random_rotation


def ridge_polynomial(params: jax.Array, data: tuple[Any, Any, Any]) -> jax.Array:
    """Evaluate the mean over i of w₁z + w₂z²/2 + w₃z³/6 + w₄z⁴/24 at z = zᵢ = aᵢ·x − bᵢ.

    Args:
        params: x, shape (n,).
        data: Rows a, shape (m, n); offsets b, shape (m,); coefficients w of each row, (m, 4).

    Returns:
        The mean, a scalar.

    Example:
        >>> row, offset, weights = jnp.ones((1, 1)), jnp.zeros(1), jnp.array([[0.0, 2.0, 0.0, 0.0]])
        >>> float(ridge_polynomial(jnp.array([3.0]), (row, offset, weights)))
        9.0
    """
    rows, offsets, w = data
    z = rows @ params - offsets
    terms = z * (w[:, 0] + z * (w[:, 1] / 2.0 + z * (w[:, 2] / 6.0 + z * (w[:, 3] / 24.0))))
    return jnp.mean(terms)


def quadratic(
    eigenvalues: Sequence[float] | np.ndarray[Any, Any],
    *,
    center: Any = None,
    rotate: bool = True,
    quartic: float = 0.0,
    seed: int = 0,
) -> KnownPoint:
    """Build a quadratic function with a prescribed spectrum, at its critical point.

    f(x) = Σᵢ (λᵢzᵢ²/2 + c zᵢ⁴/24) with z = Q(x − centre) and Q orthogonal.

    Args:
        eigenvalues: λ, in any order, repeats and zeros allowed; at least one.
        center: Critical point, shape (n,); None for the origin.
        rotate: Draw Q from the Haar distribution; otherwise Q is the identity and the
            eigenvectors are the coordinate axes in the order of ``eigenvalues``.
        quartic: c. Zero for a quadratic; a positive one bounds the function below and leaves the
            Hessian at the centre as it is.
        seed: Draws Q.

    Returns:
        The point. The data are the terms of f as n samples whose mean is f: a subset of them is
        another function.

    Raises:
        ValueError: If there is no eigenvalue, or one is not finite, or ``quartic`` is negative.

    Example:
        >>> quadratic([-1.0, 2.0])
        KnownPoint(polynomial/quadratic_n2_seed0: saddle, index 1, 2 parameters)
    """
    spectrum = np.asarray(eigenvalues, np.float64)
    if spectrum.ndim != 1 or spectrum.size == 0 or not np.all(np.isfinite(spectrum)):
        raise ValueError(f"expected a non-empty sequence of finite eigenvalues, got shape {spectrum.shape}")
    if quartic < 0.0:
        raise ValueError(f"expected quartic >= 0, got {quartic}")
    n = spectrum.size
    rows = random_rotation(n, np.random.default_rng([seed, n])) if rotate else np.eye(n)
    at = np.zeros(n) if center is None else np.asarray(center, np.float64)
    weights = np.zeros((n, 4))
    weights[:, 1] = n * spectrum
    weights[:, 3] = n * quartic
    point = KnownPoint.from_curvature(
        f"quadratic_n{n}_seed{seed}",
        ridge_polynomial,
        at,
        spectrum,
        (rows, rows @ at, weights),
        kind="polynomial",
        isolated=quartic > 0.0 or bool(np.all(spectrum)),
        why="the Hessian is Q' diag(eigenvalues) Q by construction",
    )
    if quartic > 0.0 and point.degenerate:  # the fourth order rises along the flat directions
        point = dataclasses.replace(point, label="saddle" if point.index else "minimum")
    return point


def random_polynomial(
    n: int, *, seed: int = 0, index: int | None = None, num_terms: int | None = None
) -> KnownPoint:
    """Build a random quartic polynomial with a critical point at a random place.

    The rows of the linear forms and the coefficients w₃, w₄ are Gaussian; w₁ is zero and the
    offsets make z zero at the point, where the Hessian is therefore Aᵀ diag(w₂)A/m. It is drawn by
    its spectrum, |λ| log-uniform in [0.1, 10], and w₂ solves for it.

    Args:
        n: Number of variables.
        seed: Draws everything.
        index: Number of negative eigenvalues, 0 … n; None draws it.
        num_terms: Number of terms m, at least n(n + 1)/2; None for that many.

    Returns:
        The point.

    Raises:
        ValueError: If ``index`` or ``num_terms`` is out of range.

    Example:
        >>> random_polynomial(5, index=2)
        KnownPoint(polynomial/random_polynomial_n5_seed0: saddle, index 2, 5 parameters)
    """
    fewest = n * (n + 1) // 2
    m = fewest if num_terms is None else num_terms
    if n < 1 or m < fewest:
        raise ValueError(f"expected n >= 1 and num_terms >= n(n + 1)/2 = {fewest}, got {n}, {m}")
    if index is not None and not 0 <= index <= n:
        raise ValueError(f"expected an index in 0 ... {n}, got {index}")
    rng = np.random.default_rng([seed, n])
    negative = int(rng.integers(n + 1)) if index is None else index
    spectrum = 10.0 ** rng.uniform(-1.0, 1.0, n)
    spectrum[:negative] *= -1.0
    rotation = random_rotation(n, rng)
    wanted = rotation.T @ (spectrum[:, None] * rotation)
    rows = rng.standard_normal((m, n))
    # Symmetric matrices have n(n + 1)/2 entries; the squares a a' of that many Gaussian rows span
    # them, so that the coefficients w2 exist.
    upper = np.triu_indices(n)
    squares = np.einsum("mi,mj->mij", rows, rows)[:, upper[0], upper[1]]
    weights = np.zeros((m, 4))
    weights[:, 1] = m * np.linalg.lstsq(squares.T, wanted[upper], rcond=None)[0]
    weights[:, 2:] = rng.standard_normal((m, 2))
    params = rng.standard_normal(n)
    return KnownPoint.from_curvature(
        f"random_polynomial_n{n}_seed{seed}",
        ridge_polynomial,
        params,
        spectrum,
        (rows, rows @ params, weights),
        kind="polynomial",
        why="the linear terms vanish at the point and the Hessian there was drawn by its spectrum",
    )
