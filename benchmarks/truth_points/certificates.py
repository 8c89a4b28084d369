"""One small eigenvalue in a large bulk: what a certificate of a minimum must not miss.

Each pair of points differs in the sign of one eigenvalue (or of several equal ones): a saddle and
its counterpart, a minimum.  The Hessian is Qᵀ diag(λ) Q by construction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hessian_probe.problems.known_point import KnownPoint
from hessian_probe.problems.polynomials import quadratic

Spectrum = np.ndarray[Any, np.dtype[np.float64]]

# Numbers of variables: below and above what is computed densely by default.
SIZES = (10, 40, 120, 300, 400)
# After k products from a random start an eigenvalue below −ε(λ_max − λ_min) is missed with probability
# at most 1.648 √n exp(−√ε(2k−1)) (Kuczyński & Woźniakowski 1992, doi:10.1137/0613066): with n = 400, the
# default of 400 products and a probability of 1 % that is ε = 1.1e-4.  Smaller ones count as undecidable
# where n is above DENSE.
SMALLEST_SEEN = 1.1e-4
DENSE = 256


def bulk(shape: str, size: int, rng: np.random.Generator) -> Spectrum:
    """Draw positive eigenvalues up to 1.

    Args:
        shape: "flat" (all near 1), "uniform", "decades" (log-uniform over two decades), "edge" (density
            like that of a random Gram matrix, most of it near its lower edge).
        size: How many.
        rng: Source of randomness.

    Returns:
        Eigenvalues, at least 0.01 and at most 1.

    Raises:
        ValueError: If the shape is unknown.
    """
    if shape == "flat":
        return 1.0 - 0.05 * rng.random(size)
    if shape == "uniform":
        return 0.02 + 0.98 * rng.random(size)
    if shape == "decades":
        return 10.0 ** rng.uniform(-2.0, 0.0, size)
    if shape == "edge":
        values = np.linalg.eigvalsh(np.cov(rng.standard_normal((size, 2 * size))))
        return np.asarray(np.maximum(values / values.max(), 0.01))
    raise ValueError(f"expected flat, uniform, decades or edge, got {shape!r}")


def certificate_points(*, sizes: Sequence[int] = SIZES, seed: int = 0) -> list[KnownPoint]:
    """Build minima, and saddles that differ from them by one small eigenvalue or a repeated one.

    For each size and shape of the bulk: a decisive eigenvalue ±ε with ε log-uniform in [1e-3, 0.1] of
    ‖H‖; one with ε in [1e-6, 1e-4]; m equal eigenvalues −μ, with m up to n/4; and a maximum.  Half of
    them have coordinate axes as eigenvectors, so that the small eigenvalue sits on one variable.

    Args:
        sizes: Numbers of variables.
        seed: Draws everything.

    Returns:
        Points whose ``index`` is the exact number of negative eigenvalues.
    """
    points = []
    for size in sizes:
        for number, shape in enumerate(("flat", "uniform", "decades", "edge")):
            rng = np.random.default_rng([seed, size, number])
            values = bulk(shape, size, rng)
            seen = 10.0 ** rng.uniform(-3.0, -1.0)
            tiny = 10.0 ** rng.uniform(-6.0, -4.0)
            copies = int(rng.integers(2, max(size // 4, 3)))
            depth = 10.0 ** rng.uniform(-1.5, 0.0)
            repeated = np.r_[np.full(copies, -depth), values[copies:]]
            rotate = bool(number % 2)
            spectra = {
                "negative": np.r_[-seen, values[1:]],
                "positive": np.r_[seen, values[1:]],
                "tiny_negative": np.r_[-tiny, values[1:]],
                "repeated": repeated,
                "maximum": -values,
            }
            for name, spectrum in spectra.items():
                points.append(_point(f"{name}_{shape}_n{size}", rng.permutation(spectrum), rotate, rng))
    return points


def _point(name: str, spectrum: Spectrum, rotate: bool, rng: np.random.Generator) -> KnownPoint:
    center = rng.standard_normal(spectrum.size) * rng.integers(0, 2)
    point = quadratic(
        spectrum,
        center=center,
        rotate=rotate,
        quartic=float(rng.integers(0, 2)) if spectrum.max() > 0 else 0.0,
        seed=int(rng.integers(2**31)),
    )
    gap = float(np.min(np.abs(spectrum)) / np.max(np.abs(spectrum)))
    if point.label == "saddle":  # the largest of either sign decide
        gap = float(min(-spectrum.min(), spectrum.max()) / np.max(np.abs(spectrum)))
    decidable = spectrum.size <= DENSE or point.label != "saddle" or gap >= SMALLEST_SEEN
    return dataclasses.replace(point, name=name, kind="certificate", gap=gap, decidable=decidable)
