"""The quadratic model within a distance: its lowest step, and a bound on what it can fall.

Within a distance ρ of a point with gradient g and Hessian H ⪰ −ν, the quadratic model falls by at most

    ½ gᵀ(H + σ)⁻¹g + ½ σρ²   for every σ > ν                                                    (1)

(weak duality of the trust-region problem).  In the Krylov space of g, the solution of (T + σ)y = −|g|e₁
leaves a residual r, orthogonal to the space, and gᵀ(H + σ)⁻¹g ≤ −|g|y₁ + |r|²/(σ − ν).  The least value of
(1) over σ is the bound; the model's own decrease within the space is at most the true one, and both meet
when the space has seen what matters.

Source: trust regions: A. R. Conn, N. I. M. Gould and P. L. Toint, Trust-Region Methods, 2000, chapters 5
and 7.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.optimize

from hessian_probe.arrays import host_norm


class TrustRegion:
    """The quadratic model in an eigenbasis.

    Args:
        values: eigenvalues, or Ritz values.
        parts: components of the gradient along their vectors.
        tail: coupling of every Ritz vector to what is outside the space; zeros for a whole spectrum.
    """

    def __init__(self, values: np.ndarray, parts: np.ndarray, tail: np.ndarray) -> None:
        self.values, self.parts, self.tail = values, parts, tail
        self.top = float(np.max(np.abs(values), initial=0.0))

    def step(self, radius: float) -> tuple[np.ndarray, float]:
        """Return the step within a radius that lowers the model the most, and the decrease.

        Where the gradient has no component along negative curvature, none is added: that decrease is
        looked for along the eigenvector itself.
        """
        floor = max(0.0, -float(np.min(self.values))) + 1e-15 * self.top
        above = self.values + floor

        def along(sigma: float) -> np.ndarray:
            return np.nan_to_num(-self.parts / (above + sigma))

        def beyond(sigma: float) -> float:  # nearly linear, so that few steps find its zero
            return 1.0 / radius - 1.0 / host_norm(along(sigma))

        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            sigma = 0.0
            if host_norm(along(0.0)) > radius:
                most = 2.0 * host_norm(self.parts) / radius
                sigma = scipy.optimize.brentq(beyond, 0.0, most, xtol=1e-300, rtol=1e-12)
            step = along(sigma)
            decrease = -float(step @ self.parts + 0.5 * self.values @ step**2)
        return step, decrease

    def bound(self, radius: float, band: float) -> float:
        """Return the least bound (1); curvature above −`band` is taken as zero."""
        floor = max(0.0, -float(np.min(self.values)) - band)
        if not np.any(self.parts):
            return 0.5 * floor * radius**2
        widest = self.top + host_norm(self.parts) / radius
        extra = np.concatenate([[0.0], widest * np.logspace(-16, 0, 65)])
        shifted = np.maximum(self.values, -floor) + (floor + extra)[:, None]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            y = self.parts / shifted
            rest = np.square(y @ self.tail)
            outside = np.where(rest > 0, 0.5 * rest / extra, 0.0)
            bounds = 0.5 * y @ self.parts + outside + 0.5 * (floor + extra) * radius**2
        return float(
            np.min(bounds, where=np.all(shifted > 0, axis=1) & np.isfinite(bounds), initial=math.inf)
        )
