"""Functions with a prescribed spectrum: what a certificate of an extremum must not miss, and units."""

from itertools import product

import numpy as np

from benchmarks.truth_points.table import changed, draws, table
from hessian_probe.problems import KnownPoint, quadratic, random_polynomial

# After k products from a random start an eigenvalue below −ε(λ_max − λ_min) is missed with probability
# at most 1.648 √n exp(−√ε(2k−1)) (Kuczyński & Woźniakowski 1992, doi:10.1137/0613066): with n = 400, the
# default of 400 products and a probability of 1 % that is ε = 1.1e-4.  Smaller ones count as undecidable
# where n is above DENSE.
SMALLEST_SEEN = 1.1e-4
# Up to this number of variables the default is to compute all eigenvalues.
DENSE = 256
SHAPES = ("flat", "uniform", "decades", "edge")
SPECTRA = (
    [-5.0, *(0.01 + 0.01 * i for i in range(299))],  # one negative eigenvalue in 300
    [-9.9, *(i / 48.0 for i in range(1, 49)), 10.0],  # ends that are nearly symmetric
    [-0.3, -0.3, -0.3, -0.2, -0.2, *([1.0] * 45)],  # repeated negative ones
    [4.0, 2.0, 1.0, *([0.0] * 47)],  # rank 3 of 50
    [1.0] * 50,
    [-1.0] * 50,
)


@table("polynomial", 12)
def polynomials(seed: int, number: int) -> KnownPoint:
    """Six spectra, and random quartics of every index in five variables."""
    if number < len(SPECTRA):
        return quadratic(SPECTRA[number], seed=100 * seed + number)
    return random_polynomial(5, seed=100 * seed + number - 6, index=number - 6)


@table("axis_saddle", 300)
def axis_saddles(seed: int, number: int) -> KnownPoint:
    """Σᵢ (dᵢxᵢ²/2 + xᵢ⁴/4), one dᵢ negative.

    A probe along a fixed direction, or along one axis, misses most of them.  Bounded below: the lowest
    value is −d²/4, at xᵢ = ±√|dᵢ| on the negative axis.
    """
    rng = draws(seed, number)
    d = 10.0 ** rng.uniform(-1.0, 1.0, (2, 3, 5, 8, 13, 21)[number % 6])
    d[rng.integers(d.size)] = -(10.0 ** rng.uniform(-2.0, 0.0))
    point = quadratic(d, rotate=False, quartic=6.0)
    why = "the Hessian at the origin is diagonal, with one negative entry"
    return changed(point, f"axis_aligned_{number}", why=why)


def bulk(shape: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Eigenvalues from 0.01 to 1; an "edge" has most of a random Gram matrix's near its lower one."""
    if shape == "flat":
        return 1.0 - 0.05 * rng.random(size)
    if shape == "uniform":
        return 0.02 + 0.98 * rng.random(size)
    if shape == "decades":
        return 10.0 ** rng.uniform(-2.0, 0.0, size)
    values = np.linalg.eigvalsh(np.cov(rng.standard_normal((size, 2 * size))))
    return np.maximum(values / values.max(), 0.01)


@table("certificate", product((10, 40, 120, 300, 400), range(4)))
def certificates(seed: int, size: int, number: int) -> list[KnownPoint]:
    """Minima, and saddles that differ from them by one small eigenvalue or by several equal ones.

    ±ε with ε log-uniform in [1e-3, 0.1] of ‖H‖; ε in [1e-6, 1e-4]; up to n/4 eigenvalues −μ; a maximum.
    Half of them have coordinate axes as eigenvectors, so that the small eigenvalue sits on one variable.
    """
    rng = draws(seed, size, number)
    values = bulk(SHAPES[number], size, rng)
    seen, tiny = 10.0 ** rng.uniform(-3.0, -1.0), 10.0 ** rng.uniform(-6.0, -4.0)
    copies = int(rng.integers(2, max(size // 4, 3)))
    lowest = {"negative": [-seen], "positive": [seen], "tiny_negative": [-tiny]}
    lowest["repeated"] = [-(10.0 ** rng.uniform(-1.5, 0.0))] * copies
    spectra = {name: np.r_[few, values[len(few) :]] for name, few in lowest.items()} | {"maximum": -values}
    points = []
    for name, spectrum in spectra.items():
        spectrum = rng.permutation(spectrum)
        center = rng.standard_normal(size) * rng.integers(0, 2)
        quartic = float(rng.integers(0, 2)) if spectrum.max() > 0 else 0.0
        facts = {"rotate": bool(number % 2), "quartic": quartic, "seed": int(rng.integers(2**31))}
        point = quadratic(spectrum, center=center, **facts)
        decisive = np.min(np.abs(spectrum))
        if point.label == "saddle":  # the largest of either sign decide
            decisive = min(-spectrum.min(), spectrum.max())
        gap = float(decisive / np.max(np.abs(spectrum)))
        decidable = size <= DENSE or point.label != "saddle" or gap >= SMALLEST_SEEN
        points.append(changed(point, f"{name}_{SHAPES[number]}_n{size}", gap=gap, decidable=decidable))
    return points
