"""How much an eigenvector that a Krylov space has not shown must have grown in it by now."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hessian_probe.jobs.state import stored
from hessian_probe.spectrum.bounds import log_inverse_weight


@stored
class Growth(NamedTuple):
    """How much an eigenvector of an eigenvalue x must have grown in a Krylov space by now.

    The j-th basis vector of a Krylov space from b is p_j(H)·b with known polynomials p_j.  If H has an
    eigenvalue x with unit eigenvector u, the basis being orthonormal,

        ⟨b, u⟩² · Σ_j p_j(x)² ≤ 1,

    and outside the Ritz values the sum grows exponentially with the number of products.  A random b
    has |⟨b, u⟩| > w but for a small probability (`log_inverse_weight`); then no eigenvalue lies where
    the sum exceeds 1/w².  The event does not depend on the number of steps, so the statement holds
    however that was chosen, for either end by itself, and without an upper bound of ‖H‖.

    Thick restarts keep the statement: they only divide p by the factors of the Ritz values kept.

    Attributes:
        roots: roots of the polynomial of the vector next to the basis: the Ritz values, and those that
            restarts dropped.
        log_scale: logarithm of its denominator, the product of all remainders' lengths.
        values: Ritz values now, shape (m,), ascending.
        residuals: |coupling| of each Ritz vector to the vector next to the basis, shape (m,).
        steps: products on which this rests.

    Not guaranteed: rounding acts like small random additions to b; that they do not conspire against
    one direction is measured by `benchmarks.coverage`, not proved.

    Source:
        J. L. M. van Dorsselaer, M. E. Hochstenbach and H. A. van der Vorst, SIAM J. Matrix Anal.
        Appl. 22, 2000, doi:10.1137/S0895479800366859 (Lanczos polynomials).  The sum in place of its
        last term is the reciprocal Christoffel number: G. Szegő, Orthogonal Polynomials, 1939, §3.4.
    """

    roots: np.ndarray
    log_scale: float
    values: np.ndarray
    residuals: np.ndarray
    steps: int

    def log_at(self, x: float) -> float:
        """Return ½ ln Σ_j p_j(x)²; `x` lies outside the Ritz values (else 0: nothing is known)."""
        if not self.steps or self.values[0] <= x <= self.values[-1]:
            return 0.0
        with np.errstate(divide="ignore"):
            last = float(np.sum(np.log(np.abs(x - self.roots)))) - self.log_scale
        ratio = self.residuals / (x - self.values)
        return max(last + 0.5 * math.log1p(float(ratio @ ratio)), 0.0)

    def lower(self, size: int, confidence: float) -> float:
        """Value below which no eigenvalue lies, with this confidence, in a space of dimension `size`."""
        return self._bound(log_inverse_weight(size, confidence), -1.0)

    def upper(self, size: int, confidence: float) -> float:
        """Value above which no eigenvalue lies, with this confidence, in a space of dimension `size`."""
        return self._bound(log_inverse_weight(size, confidence), 1.0)

    def _bound(self, needed: float, side: float) -> float:
        """Bisect the distance, on a logarithmic scale: the growth rises with it."""
        if not self.steps:
            return side * math.inf
        edge = float(self.values[-1] if side > 0 else self.values[0])
        unit = max(abs(edge), float(self.values[-1] - self.values[0]), float(np.finfo(np.float64).tiny))
        near, far = -40.0, 1.0
        while self.log_at(edge + side * unit * math.exp(far)) < needed:
            far += 1.0
            if far > 100.0:
                return side * math.inf
        for _ in range(50):
            middle = 0.5 * (near + far)
            if self.log_at(edge + side * unit * math.exp(middle)) < needed:
                near = middle
            else:
                far = middle
        return edge + side * unit * math.exp(far)


@stored
class Run:
    """Record of one Krylov run, from a random vector on, in a basis that may hold others before it.

    Attributes:
        first: column of the projected matrix at which the run began.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self._steps, self._log_scale = 0, 0.0
        self._dropped: np.ndarray | None = np.zeros(0)

    @property
    def followed(self) -> bool:
        """False once a thick restart has mixed this run with what was in the basis before it."""
        return self._dropped is not None

    def add(self, length: float) -> None:
        """Count a product whose remainder was no longer than this."""
        self._steps += 1
        if length > 0:
            self._log_scale += math.log(length)

    def restart(self, dropped: np.ndarray) -> None:
        """Note the Ritz values that a thick restart leaves out."""
        if self.first or self._dropped is None:
            self._dropped = None  # the vectors kept mix this run with what went before: not followed
        else:
            self._dropped = np.concatenate([self._dropped, dropped])

    def growth(self, matrix: np.ndarray, tail: np.ndarray) -> Growth:
        """Say what the run has shown, from the projected matrix and its coupling to the next vector."""
        if self._dropped is None or self._steps == 0:
            return Growth(np.zeros(0), 0.0, np.zeros(0), np.zeros(0), 0)
        values, weights = np.linalg.eigh(matrix[self.first :, self.first :])
        residuals = np.abs(tail[self.first :] @ weights)
        return Growth(
            np.concatenate([self._dropped, values]), self._log_scale, values, residuals, self._steps
        )
