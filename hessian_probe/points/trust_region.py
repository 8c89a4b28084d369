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
        tiny = 1e-15 * self.top
        floor = max(0.0, -float(np.min(self.values))) + tiny

        def along(sigma: float) -> np.ndarray:
            return np.nan_to_num(-self.parts / (self.values + sigma))

        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            low, high = floor, floor + host_norm(self.parts) / radius
            if host_norm(along(low)) <= radius:
                high = low
            for _ in range(100 if high > low > 0 else 0):
                middle = math.sqrt(low * high)
                low, high = (middle, high) if host_norm(along(middle)) > radius else (low, middle)
            step = along(high)
            decrease = -float(step @ self.parts + 0.5 * self.values @ step**2)
        return step, decrease

    def bound(self, radius: float, band: float) -> float:
        """Return the least bound (1); curvature above −`band` is taken as zero."""
        if not np.any(self.parts):
            return 0.5 * max(0.0, -float(np.min(self.values)) - band) * radius**2
        floor, best = max(0.0, -float(np.min(self.values)) - band), math.inf
        widest = self.top + host_norm(self.parts) / radius
        for extra in np.concatenate([[0.0], widest * np.logspace(-16, 0, 65)]):
            shifted = np.maximum(self.values, -floor) + floor + extra
            if not np.all(shifted > 0):
                continue
            y = self.parts / shifted
            rest = float(self.tail @ y) ** 2
            if rest > 0 and extra == 0:
                continue
            outside = 0.5 * rest / extra if rest > 0 else 0.0
            best = min(best, 0.5 * float(y @ self.parts) + outside + 0.5 * (floor + extra) * radius**2)
        return best
