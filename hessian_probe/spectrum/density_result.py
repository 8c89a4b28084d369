"""The density of a spectrum with its errors; result of `spectral_density`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import gammaincinv

from hessian_probe.arrays import Float
from hessian_probe.results import number, result, signed
from hessian_probe.spectrum.result import SpectralSum
from hessian_probe.spectrum.thresholds import QUADRATURE_ERROR

LEAVES = ("grid", "density", "standard_error", "outliers", "outlier_residuals", "nodes", "weights")


@result(leaves=LEAVES)
class SpectralDensity:
    """Share of the spectrum per unit of eigenvalue, smoothed, with the outliers taken out.

    Attributes:
        grid: shape (m,), ascending: eigenvalues, in loss / params² for a Hessian.
        density: shape (m,): share of the spectrum per unit of eigenvalue, of all eigenvalues but the
            outliers, each smoothed to a Gaussian of width `resolution`.  It integrates to 1 − k/n.  (Of
            variables that the loss does not read, `zero_mass` and the sums say something, the density not.)
        standard_error: shape (m,): standard error of each entry, from the random probes; 0 where exact.
        outliers: shape (k,), ascending: eigenvalues resolved one by one, copies included.
        outlier_residuals: shape (k,): ‖Av − λv‖ of each.
        negative_mass: share of eigenvalues below −zero_band, in [0, 1], outliers included.
        zero_mass: share within ±zero_band.
        positive_mass: share above zero_band.
        negative_interval: interval for negative_mass, with probability `confidence`.
        zero_interval: the same for zero_mass.
        positive_interval: the same for positive_mass.
        confidence: that probability; for Gaussian probes it holds for any spectrum.
        zero_band: curvature of at most this magnitude counts as zero.
        resolution: standard deviation of the smoothing; it follows from the steps of each probe.
        num_probes: random probes used; 0 where exact.
        num_steps: products of each.
        num_hvps: products spent.
        status: "converged" (the asked accuracy is met), "max_hvps", "interrupted" or "nonfinite".
        method: "exact" (the whole spectrum) or "lanczos_quadrature".
        size: number of variables n.
        nodes: shape (q,): nodes of the pooled quadrature of all eigenvalues but the outliers.
        weights: shape (q,): their weights, of sum 1.
        dimension: number of those eigenvalues.
        evidence: sentences on what is missing; empty where nothing is.
        variables: which leaves were varied, and which were left out and why.
    """

    grid: Float[np.ndarray, " m"]
    density: Float[np.ndarray, " m"]
    standard_error: Float[np.ndarray, " m"]
    outliers: Float[np.ndarray, " k"]
    outlier_residuals: Float[np.ndarray, " k"]
    negative_mass: float
    zero_mass: float
    positive_mass: float
    negative_interval: tuple[float, float]
    zero_interval: tuple[float, float]
    positive_interval: tuple[float, float]
    confidence: float
    zero_band: float
    resolution: float
    num_probes: int
    num_steps: int
    num_hvps: int
    status: str
    method: str
    size: int
    nodes: Float[np.ndarray, " q"]
    weights: Float[np.ndarray, " q"]
    dimension: int
    evidence: tuple[str, ...] = ()
    variables: str = ""

    def interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return an interval for each entry of the smoothed density: two arrays of shape (m,).

        An entry is a weighted sum of squares of Gaussians; with mean μ and variance s² it is close to a
        multiple of χ² with 2μ²/s² degrees of freedom (F. E. Satterthwaite, Biometrics Bulletin 2, 1946).

        Returns:
            Lower and upper ends.
        """
        mean, error = np.asarray(self.density, np.float64), np.asarray(self.standard_error, np.float64)
        half = np.square(mean / np.where(error > 0, error, np.inf))  # of the degrees of freedom
        known = half == 0  # exact, or so small that only the error says something
        safe, tail = np.where(known, 1.0, half), 0.5 * (1 - confidence)
        low, high = (safe / np.maximum(gammaincinv(safe, q), 1e-300) for q in (1 - tail, tail))
        floor = 3 * np.where(mean > error, 0.0, error)
        return np.where(known, mean, mean * low) - floor, np.where(known, mean, mean * high) + floor

    def sum_of(self, function: Callable[[np.ndarray], np.ndarray], kind: str = "sum") -> SpectralSum:
        """Estimate Σ f(λ) over all eigenvalues, from the products already spent.

        Args:
            function: f, of an array of eigenvalues, elementwise and smooth at the resolution.
            kind: name of the sum, for printing.

        Returns:
            SpectralSum; its error is that of the random probes, without that of the quadrature.
        """
        weights, values = np.asarray(self.weights), np.asarray(function(np.asarray(self.nodes)), np.float64)
        mean = float(weights @ values)
        spread = max(float(weights @ np.square(values)) - mean**2, 0.0)
        probes = max(self.num_probes, 1) * max(self.dimension, 1)
        error = 0.0 if self.method == "exact" else self.dimension * math.sqrt(2 * spread / (probes + 2))
        unread = self.size - self.dimension - len(self.outliers)
        total = self.dimension * mean + float(np.sum(function(np.asarray(self.outliers))))
        total += unread * float(function(np.zeros(1))[0]) if unread else 0.0
        return SpectralSum(
            kind=kind,
            value=total,
            standard_error=error,
            num_samples=probes,
            num_hvps=self.num_hvps,
            status=self.status,
            method=self.method,
            size=self.size,
            variables=self.variables,
        )

    def log_determinant(self, shift: float = 0.0) -> SpectralSum:
        """Estimate ln det(A + shift·I).

        Returns:
            SpectralSum, at no further product.

        Raises:
            ValueError: a node of A + shift·I is not positive; the message says which shift is enough.
        """
        lowest = float(min(np.min(part, initial=math.inf) for part in (self.nodes, self.outliers)))
        if not lowest + shift > 0:
            raise ValueError(
                f"shift={shift}: A + shift·I has an eigenvalue near {number(lowest + shift)}; expected all "
                f"positive: give a shift above {number(-lowest)}"
            )
        return self.sum_of(lambda values: np.log(values + shift), "log_determinant")

    def effective_dimension(self, shift: float) -> SpectralSum:
        """Estimate Σ λ/(λ + shift): the number of directions with curvature above the shift, softly counted.

        Returns:
            SpectralSum, at no further product.

        Raises:
            ValueError: shift is not positive, or an eigenvalue is at or below −shift.
        """
        lowest = float(min(np.min(part, initial=math.inf) for part in (self.nodes, self.outliers)))
        if not shift > max(0.0, -lowest):
            raise ValueError(f"shift={shift}; expected above {number(max(0.0, -lowest))}")
        return self.sum_of(lambda values: values / (values + shift), "effective_dimension")

    def _share(self, mass: float, interval: tuple[float, float]) -> str:
        text = f"{number(100 * mass, 3)} %"
        if self.method != "exact":
            text += f" ({number(100 * interval[0], 3)} to {number(100 * interval[1], 3)})"
        return text

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        masses = (
            ("negative", self.negative_mass, self.negative_interval),
            ("zero", self.zero_mass, self.zero_interval),
            ("positive", self.positive_mass, self.positive_interval),
        )
        rows: list[tuple[str, str]] = [(name, self._share(mass, span)) for name, mass, span in masses]
        rows.append(("zero band", f"± {number(self.zero_band, 2)}"))
        if len(self.grid):
            rows.append(("bulk", f"{signed(self.grid[0], 3)} to {signed(self.grid[-1], 3)}"))
        shown = [signed(value) for value in self.outliers]
        if len(shown) > 6:
            shown = [*shown[:3], "…", *shown[-3:]]
        rows.append(("outliers", f"{len(self.outliers)}" + (f": {', '.join(shown)}" if shown else "")))
        rows.append(("resolution", number(self.resolution, 2)))
        probes = f", {self.num_probes} probes of {self.num_steps} steps" * (self.method != "exact")
        rows.append(("cost", f"{self.num_hvps} HVPs, {self.method.replace('_', ' ')}{probes}"))
        return f"SpectralDensity: {self.status.upper()}", rows + [("note", text) for text in self.evidence]


def smoothed(
    grid: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Means over weighted nodes of a Gaussian of this width around each grid point, and of its square."""
    mean, square = np.zeros(len(grid)), np.zeros(len(grid))
    for at, value in enumerate(grid):
        bump = np.exp(-0.5 * np.square((value - nodes) / width)) / (width * math.sqrt(2 * math.pi))
        mean[at], square[at] = weights @ bump, weights @ np.square(bump)
    return mean, square


def density_of(
    nodes: np.ndarray, weights: np.ndarray, dimension: int, size: int, probes: int, width: float, steps: int
) -> dict[str, Any]:
    """Grid, density and standard error of weighted nodes that stand for `dimension` of `size` eigenvalues.

    The weight of a Gaussian probe on an eigenvector is χ², so that a mean ḡ over m probes of a function g of
    d eigenvalues has the variance 2(mean g² − ḡ²)/(md).

    Returns:
        The three fields of `SpectralDensity`, by name.
    """
    points = 2 * steps + 17
    low, high = float(np.min(nodes)), float(np.max(nodes))
    grid = np.linspace(low - 4 * width, high + 4 * width, points)
    mean, square = smoothed(grid, nodes, weights, width)
    error = np.zeros(points)
    if probes:
        spread = np.maximum(square - np.square(mean), 0.0)
        error = np.hypot(np.sqrt(2 * spread / (probes * dimension + 2)), QUADRATURE_ERROR / width)
    share = dimension / size
    return {"grid": grid, "density": share * mean, "standard_error": share * error}
