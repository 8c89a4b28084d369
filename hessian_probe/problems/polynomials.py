"""Random functions whose Hessian is known exactly: quadratics, bent saddles, quartics.

All are one loss, a mean of quartic polynomials of linear forms. Everything random sits in the
data, so that hundreds of them share one compiled function per shape. Every polynomial of degree
four or less can be written this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, label_from_signs, random_rotation

RidgeData = tuple[Any, Any, Any]


def ridge_polynomial(params: jax.Array, data: RidgeData) -> jax.Array:
    """Evaluate the mean over i of w₁z + w₂z²/2 + w₃z³/6 + w₄z⁴/24 at z = zᵢ = aᵢ·x − bᵢ.

    Args:
        params: x, shape (n,).
        data: Rows a, shape (m, n); offsets b, shape (m,); coefficients w of each row, (m, 4).

    Returns:
        The mean, a scalar.
    """
    rows, offsets, w = data
    z = rows @ params - offsets
    terms = z * (w[:, 0] + z * (w[:, 1] / 2.0 + z * (w[:, 2] / 6.0 + z * (w[:, 3] / 24.0))))
    return jnp.mean(terms)


def ridge_gradient(params: Any, data: RidgeData) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Differentiate ``ridge_polynomial`` by hand, in numpy.

    Args:
        params: x, shape (n,).
        data: As for ``ridge_polynomial``.

    Returns:
        Gradient, shape (n,), float64.
    """
    rows, offsets, w = (np.asarray(part, np.float64) for part in data)
    z = rows @ np.asarray(params, np.float64) - offsets
    slope = w[:, 0] + w[:, 1] * z + w[:, 2] * z**2 / 2.0 + w[:, 3] * z**3 / 6.0
    return np.asarray(rows.T @ slope / len(z), np.float64)


def ridge_hessian(params: Any, data: RidgeData) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Form the Hessian of ``ridge_polynomial`` by hand, in numpy: Aᵀ diag(w₂ + w₃z + w₄z²/2) A/m.

    Args:
        params: x, shape (n,).
        data: As for ``ridge_polynomial``.

    Returns:
        Symmetric matrix, shape (n, n), float64, in loss / params².
    """
    rows, offsets, w = (np.asarray(part, np.float64) for part in data)
    z = rows @ np.asarray(params, np.float64) - offsets
    bend = w[:, 1] + w[:, 2] * z + w[:, 3] * z**2 / 2.0
    return np.asarray(rows.T @ (bend[:, None] * rows) / len(z), np.float64)


def _from_spectrum(
    name: str,
    kind: str,
    eigenvalues: np.ndarray[Any, np.dtype[np.float64]],
    rows: np.ndarray[Any, np.dtype[np.float64]],
    center: np.ndarray[Any, np.dtype[np.float64]],
    quartic: float,
    why: str,
) -> KnownPoint:
    n = eigenvalues.size
    negative, positive = int(np.sum(eigenvalues < 0.0)), int(np.sum(eigenvalues > 0.0))
    zero = n - negative - positive
    weights = np.zeros((n, 4))
    weights[:, 1] = n * eigenvalues
    weights[:, 3] = n * quartic
    label = label_from_signs(negative, zero, positive)
    if quartic > 0.0 and zero and not negative:
        label = "minimum"
    elif quartic > 0.0 and zero and not positive:
        label = "saddle"
    return KnownPoint(
        name=name,
        kind=kind,
        loss=ridge_polynomial,
        params=center,
        label=label,
        index=negative,
        data=(rows, rows @ center, weights),
        degenerate=zero > 0 and not (negative and positive),
        num_zero=zero,
        isolated=zero == 0 or quartic > 0.0,
        eigenvalue_range=(float(eigenvalues.min()), float(eigenvalues.max())),
        why=why,
    )


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
    """
    spectrum = np.asarray(eigenvalues, np.float64)
    if spectrum.ndim != 1 or spectrum.size == 0 or not np.all(np.isfinite(spectrum)):
        raise ValueError(f"expected a non-empty sequence of finite eigenvalues, got shape {spectrum.shape}")
    if quartic < 0.0:
        raise ValueError(f"expected quartic >= 0, got {quartic}")
    n = spectrum.size
    rows = random_rotation(n, np.random.default_rng([seed, n])) if rotate else np.eye(n)
    at = np.zeros(n) if center is None else np.asarray(center, np.float64)
    name = f"quadratic_n{n}_seed{seed}"
    why = "the Hessian is Q' diag(eigenvalues) Q by construction"
    return _from_spectrum(name, "polynomial", spectrum, rows, at, quartic, why)


def axis_aligned_saddles(count: int = 300, *, seed: int = 0) -> list[KnownPoint]:
    """Build saddles at the origin whose eigenvectors are coordinate axes, one of them downhill.

    f(x) = Σᵢ (dᵢxᵢ²/2 + xᵢ⁴/4). The number of variables cycles through 2, 3, 5, 8, 13, 21; the
    position of the negative dᵢ is uniform; it is −10ᵘ with u uniform in [−2, 0], the others 10ᵘ
    with u uniform in [−1, 1]. A probe along a fixed direction, or along one axis, misses most of
    them, and renaming variables must change nothing. Bounded below: the lowest value is −d²/4, at
    xᵢ = ±√|dᵢ| on the negative axis.

    Args:
        count: Number of saddles.
        seed: Draws them.

    Returns:
        ``count`` points of index 1.
    """
    sizes = (2, 3, 5, 8, 13, 21)
    points = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        n = sizes[number % len(sizes)]
        d = 10.0 ** rng.uniform(-1.0, 1.0, n)
        d[rng.integers(n)] = -(10.0 ** rng.uniform(-2.0, 0.0))
        points.append(
            _from_spectrum(
                f"axis_aligned_{number}", "axis_saddle", d, np.eye(n), np.zeros(n), 6.0,
                "the Hessian at the origin is diagonal, with one negative entry",
            )
        )  # fmt: skip
    return points


def random_polynomial(
    n: int, *, seed: int = 0, index: int | None = None, num_terms: int | None = None
) -> KnownPoint:
    """Build a random quartic polynomial with a critical point at a random place.

    The rows of the linear forms and the coefficients w₃, w₄ are Gaussian; w₁ is zero and the
    offsets make z zero at the point, where the Hessian is therefore Aᵀ diag(w₂)A/m. It is drawn by
    its spectrum, |λ| log-uniform in [0.1, 10], and w₂ solves for it. Away from the point
    ``ridge_gradient`` and ``ridge_hessian`` give both derivatives exactly.

    Args:
        n: Number of variables.
        seed: Draws everything.
        index: Number of negative eigenvalues, 0 … n; None draws it.
        num_terms: Number of terms m, at least n(n + 1)/2; None for that many.

    Returns:
        The point.

    Raises:
        ValueError: If ``index`` or ``num_terms`` is out of range.
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
    return KnownPoint(
        name=f"random_polynomial_n{n}_seed{seed}",
        kind="polynomial",
        loss=ridge_polynomial,
        params=params,
        label=label_from_signs(negative, 0, n - negative),
        index=negative,
        data=(rows, rows @ params, weights),
        num_zero=0,
        eigenvalue_range=(float(spectrum.min()), float(spectrum.max())),
        why="the linear terms vanish at the point and the Hessian there was drawn by its spectrum",
    )
