"""What a Lanczos run from a random start excludes about eigenvalues that it has not shown.

After a run its `Certificate` bounds them, with a probability, from the products themselves.  Before a run
`steps_for` says how many products that takes, by the bound of Kuczyński and Woźniakowski.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Certificate(NamedTuple):
    """Bounds, with a probability, on eigenvalues outside the Ritz values of a Krylov space.

    The j-th basis vector of a Krylov space from b is p_j(H)·b with known polynomials p_j.  If H has an
    eigenvalue x with unit eigenvector u, the basis being orthonormal,

        ⟨b, u⟩² · Σ_j p_j(x)² ≤ 1,

    and outside the Ritz values the sum grows exponentially with the number of products.  A random b
    has |⟨b, u⟩| > w except with a small probability (`log_inverse_weight`); then no eigenvalue lies where
    the sum exceeds 1/w².  The event does not depend on the number of steps, so the statement holds
    for any rule that ends the run, for either end by itself, and without an upper bound of ‖H‖.

    Thick restarts preserve the statement: they only divide p by the factors of the Ritz values kept.

    Attributes:
        roots: roots of the polynomial of the vector next to the basis: the Ritz values, and those that
            restarts dropped.
        log_scale: logarithm of its denominator, the product of the lengths of all remainders.
        values: Ritz values now, shape (m,), ascending.
        residuals: |coupling| of each Ritz vector to the vector next to the basis, shape (m,).
        steps: products of the run; 0 where nothing is known.

    Not guaranteed: rounding acts like small random additions to b; that these do not accumulate against
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

    def log_growth(self, x: float) -> float:
        """Return ½ ln Σ_j p_j(x)²; 0, which excludes nothing, between the Ritz values."""
        if not self.steps or self.values[0] <= x <= self.values[-1]:
            return 0.0
        with np.errstate(divide="ignore"):
            last = float(np.sum(np.log(np.abs(x - self.roots)))) - self.log_scale
        ratio = self.residuals / (x - self.values)
        return max(last + 0.5 * math.log1p(float(ratio @ ratio)), 0.0)

    def lower_bound(self, size: int, confidence: float) -> float:
        """Value below which no eigenvalue lies, with this confidence, in a space of dimension `size`."""
        return self._bound(log_inverse_weight(size, confidence), -1.0)

    def upper_bound(self, size: int, confidence: float) -> float:
        """Value above which no eigenvalue lies, with this confidence, in a space of dimension `size`."""
        return self._bound(log_inverse_weight(size, confidence), 1.0)

    def _bound(self, needed: float, side: float) -> float:
        """Bisect the distance from the end on a logarithmic scale: the growth increases with it."""
        if not self.steps:
            return side * math.inf
        edge = float(self.values[-1] if side > 0 else self.values[0])
        unit = max(abs(edge), float(self.values[-1] - self.values[0]), float(np.finfo(np.float64).tiny))
        near, far = -40.0, 1.0
        while self.log_growth(edge + side * unit * math.exp(far)) < needed:
            far += 1.0
            if far > 100.0:
                return side * math.inf
        for _ in range(50):
            middle = 0.5 * (near + far)
            if self.log_growth(edge + side * unit * math.exp(middle)) < needed:
                near = middle
            else:
                far = middle
        return edge + side * unit * math.exp(far)


class KrylovRun:
    """Record of one Krylov run from a random vector, in a basis that may contain older runs.

    Attributes:
        first: column of the projected matrix at which the run began.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self._steps, self._log_scale = 0, 0.0
        self._dropped: np.ndarray | None = np.zeros(0)

    @property
    def followed(self) -> bool:
        """False once a thick restart has mixed this run with older vectors of the basis."""
        return self._dropped is not None

    def add(self, length: float) -> None:
        """Count a product, with an upper bound of its remainder's length."""
        self._steps += 1
        if length > 0:
            self._log_scale += math.log(length)

    def restart(self, dropped: np.ndarray) -> None:
        """Record the Ritz values that a thick restart drops."""
        if self.first or self._dropped is None:
            self._dropped = None  # the vectors kept mix this run with older ones: no longer followed
        else:
            self._dropped = np.concatenate([self._dropped, dropped])

    def certificate(self, matrix: np.ndarray, tail: np.ndarray) -> Certificate:
        """Certify what the run has shown, from the projected matrix and its coupling to the next vector."""
        if self._dropped is None or self._steps == 0:
            return Certificate(np.zeros(0), 0.0, np.zeros(0), np.zeros(0), 0)
        values, weights = np.linalg.eigh(matrix[self.first :, self.first :])
        residuals = np.abs(tail[self.first :] @ weights)
        return Certificate(
            np.concatenate([self._dropped, values]), self._log_scale, values, residuals, self._steps
        )


# Before a run --------------------------------------------------------------------------------


def steps_for(size: int, fraction: float, confidence: float) -> int:
    """Return the number of products after which an extreme Ritz value has at most a relative error.

    With probability at least `confidence` over a start drawn uniformly from the sphere, the largest
    eigenvalue of a positive semi-definite matrix is at most θ₁ / (1 − ε) after k steps, with
    ε = (ln(1.648 √n / (1 − confidence)) / (2k − 1))².  Applied to λ_max·I − H it bounds how far below the
    lowest Ritz value an eigenvalue of H may lie, as a share of λ_max − λ_min.  Both are unknown after a run;
    `Certificate` needs neither, and after k steps it excludes eigenvalues below a value x for which
    (λ_min − x) / (λ_max − x) is ε: Chebyshev's polynomial of degree k reaches cosh(2k artanh √ε) there.

    Args:
        size: n, the matrix is n by n.
        fraction: ε, the relative error allowed; `negative_tol` where the lowest eigenvalue is near zero.
        confidence: probability in (0, 1).

    Returns:
        k, at most n; without a restart.

    Source:
        J. Kuczyński and H. Woźniakowski, SIAM J. Matrix Anal. Appl. 13, 1992, theorem 3.2,
        doi:10.1137/0613066.
    """
    if fraction <= 0:
        return size
    log = math.log(1.648 * math.sqrt(size) / (1.0 - confidence))
    return min(size, math.ceil(0.5 * (log / math.sqrt(min(fraction, 1.0)) + 1)))


def log_inverse_weight(size: int, confidence: float) -> float:
    """Return ln(1/w), where a random unit vector has a component above w along a given direction.

    The probability that it has not is 1 − confidence at most:
    P(|⟨b, u⟩| ≤ w) ≤ w √(2n/π) for b uniform on the sphere of dimension n, since the density of a
    coordinate is at most Γ(n/2) / (√π Γ((n − 1)/2)) < √(n/(2π)) (n ≥ 3; for n ≤ 2 by its integral).
    """
    return math.log(math.sqrt(2.0 * size / math.pi) / (1.0 - confidence))
