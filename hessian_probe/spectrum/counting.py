"""The number of negative eigenvalues: bounded by interlacing, found by deflation, or estimated by quadrature.

A projection of H on orthonormal vectors has at most as many eigenvalues below a value as H (Cauchy's
interlacing), so every projected matrix proves a lower bound.

Deflation: one Krylov space shows each eigenvalue once.  To find the copies, the converged negative Ritz
vectors are locked, and a fresh random vector orthogonal to them starts another run, until the certificate of
a run excludes, with the probability asked for, that a negative eigenvalue is left.

Quadrature, where there are too many for deflation: the weight that a vector z has on the eigenvectors below y
is its cumulative spectral function at y.  k Lanczos steps enclose that between two Gauss quadratures
(Chebyshev, Markov and Stieltjes).  Over Gaussian z the pooled share of m probes below y has a known
distribution: with N of n eigenvalues below y it is Beta(mN/2, m(n − N)/2).  The interval therefore has its
stated probability for any spectrum.

Source: interlacing: R. A. Horn and C. R. Johnson, Matrix Analysis, 2013, theorem 4.3.28; deflated restarts:
K. Wu and H. Simon, SIAM J. Matrix Anal. Appl. 22, 2000, doi:10.1137/S0895479898334605; prescribed nodes:
G. H. Golub and G. Meurant, Matrices, Moments and Quadrature with Applications, 2010, chapter 6;
Chebyshev–Markov–Stieltjes: G. Szegő, Orthogonal Polynomials, 1939, §3.41; stochastic Lanczos quadrature:
S. Ubaru, J. Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38, 2017, doi:10.1137/16M1104974.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import betainc

from hessian_probe.arrays import Vector, norm, random_normal
from hessian_probe.operators import memory
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.spectrum.krylov import Krylov, Ritz
from hessian_probe.spectrum.result import IndexEstimate, Multiplicity, multiplicities
from hessian_probe.spectrum.thresholds import (
    COUNT_BASIS,
    DEFLATION_SHARE,
    LEVELS,
    LOCK,
    LOOKED_AT_EACH,
    LOOKED_AT_EVERY,
    LOOKED_AT_ONE_IN,
    PROBE_STEPS,
    PROBES,
    PRODUCTS_PER_PROBE,
    WEIGHT_ROUNDING,
)


class IndexCount(NamedTuple):
    """The result of a count.

    Attributes:
        at_least: proved lower bound of the number of eigenvalues below −band.
        estimate: interval for that number, or None if the budget did not allow one.
        multiplicities: negative eigenvalues found by deflation, with their copies.
    """

    at_least: int
    estimate: IndexEstimate | None
    multiplicities: tuple[Multiplicity, ...]


class IndexCounter:
    """One count of the negative eigenvalues of an operator.

    Args:
        op: the operator.
        band: zero band; only eigenvalues below −band are counted.
        allowed: curvature that must not be missed, at least `band`, in loss / params².
        confidence: probability in (0, 1) with which the estimate holds.
        budget: products allowed.
        rng: source of random vectors.
    """

    def __init__(
        self,
        op: HessianOperator,
        band: float,
        allowed: float,
        confidence: float,
        budget: int,
        rng: np.random.Generator,
    ) -> None:
        self.op, self.band, self.allowed = op, band, max(allowed, band)
        self.confidence, self.budget, self.rng = confidence, budget, rng
        self.before = op.objective.cost.num_hvps
        self.dimension = op.search_dimension(op.active)
        self.runs = self.num_ended = 0
        self.seen = np.zeros(0)  # eigenvalues of the projected matrix with most of them below −band
        self.multiplicities: tuple[Multiplicity, ...] = ()

    @property
    def spent(self) -> int:
        """Products since the count began."""
        return self.op.objective.cost.num_hvps - self.before

    def run(self) -> IndexCount:
        """Count."""
        try:
            estimate = self._deflate(int(DEFLATION_SHARE * self.budget))
            if estimate is None:
                estimate = self._quadrature(self.budget - self.spent)
        except KeyboardInterrupt:
            estimate = None
        return IndexCount(int(np.sum(self.seen < -self.band)), estimate, self.multiplicities)

    def _krylov(self, rows: int, start: Vector | None = None) -> Krylov:
        fits = memory.vectors_that_fit(self.op.layout.vector_bytes)
        return Krylov(self.op, start, self.rng, max(min(rows, fits), 8), self.op.active)

    def _deflate(self, budget: int) -> IndexEstimate | None:
        """Find the negative eigenvalues one by one, as far as the budget goes."""
        krylov = self._krylov(COUNT_BASIS)
        self.runs, self.num_ended = 1, 0
        while self.spent < budget:
            if (krylov.full and not self._lock(krylov)) or not krylov.step():
                break
            invariant = len(krylov.ended_runs) > self.num_ended
            every = max(LOOKED_AT_EVERY, krylov.size // LOOKED_AT_ONE_IN)
            due = krylov.size <= LOOKED_AT_EACH or krylov.size % every == 0
            if not (invariant or krylov.exhausted or due):
                continue
            ritz = krylov.ritz()
            self._note(ritz)
            if krylov.exhausted or self._nothing_left(krylov, invariant):
                return self._complete(krylov, ritz)
            if invariant:  # what the run found stays in the basis; another run has begun
                self.runs, self.num_ended = self.runs + 1, len(krylov.ended_runs)
            elif self._converged(krylov, ritz):
                self._lock(krylov)
        if krylov.size:
            self._group(krylov.ritz(), False)
        return None

    def _group(self, ritz: Ritz, complete: bool) -> None:
        """Record the negative eigenvalues that have converged, with their copies."""
        found = (ritz.values < -self.band) & (ritz.residuals <= LOCK * self.allowed)
        radii = np.maximum(ritz.residuals[found], self.band)
        self.multiplicities = multiplicities(ritz.values[found], radii, complete)

    def _note(self, ritz: Ritz) -> None:
        if np.sum(ritz.values < -self.band) >= np.sum(self.seen < -self.band):
            self.seen = ritz.values

    def _nothing_left(self, krylov: Krylov, invariant: bool) -> bool:
        """Whether the run's certificate, at its share of the confidence, excludes another one."""
        certificate = krylov.ended_runs[-1] if invariant else krylov.certificate()
        # The error probabilities of all runs sum to at most 1 − confidence.
        sure = 1.0 - (1.0 - self.confidence) / (self.runs * (self.runs + 1))
        return (
            krylov.coupling <= self.allowed and certificate.lower_bound(self.dimension, sure) >= -self.allowed
        )

    def _converged(self, krylov: Krylov, ritz: Ritz) -> bool:
        """Whether the run has found a new negative eigenvalue, and all of them to the accuracy of LOCK."""
        sought = ritz.values < -self.allowed
        new = np.sum(sought) > np.sum(krylov.settled < -self.allowed)
        return bool(new and np.all(ritz.residuals[sought] <= LOCK * self.allowed))

    def _lock(self, krylov: Krylov) -> bool:
        """Lock the negative Ritz pairs that have converged and start another run, if there are new ones."""
        ritz = krylov.ritz()
        good = (ritz.values < -self.band) & (ritz.residuals <= LOCK * self.allowed)
        if np.sum(good) <= np.sum(krylov.settled < -self.band) or np.sum(good) + 2 >= krylov.max_basis:
            return False
        krylov.restart(np.flatnonzero(good), fresh=True)
        self.runs, self.num_ended = self.runs + 1, len(krylov.ended_runs)
        return True

    def _complete(self, krylov: Krylov, ritz: Ritz) -> IndexEstimate:
        """State the count of a deflation that has found everything."""
        # Up to the coupling, H is block diagonal: the locked columns, and a rest without eigenvalues below
        # −allowed.  By Weyl's inequality the eigenvalues of H and of the blocks differ by at most the
        # coupling.
        self._group(ritz, krylov.exhausted)
        if krylov.exhausted:
            count = int(np.sum(ritz.values < -self.band))
            return IndexEstimate(count, count, count, -self.band, 1.0, "exact", 0)
        below = -(self.allowed + krylov.coupling)
        low, high = int(np.sum(ritz.values < below)), int(np.sum(krylov.settled < -self.allowed))
        return IndexEstimate(low, low, max(low, high), below, self.confidence, "deflation", self.runs)

    def _quadrature(self, budget: int) -> IndexEstimate | None:
        """Estimate the number from random probes."""
        num = min(max(budget // PRODUCTS_PER_PROBE, PROBES[0]), PROBES[1])
        steps = min(budget // num, PROBE_STEPS[1], self.dimension - 1)
        if steps < PROBE_STEPS[0]:
            return None
        lowest = abs(min(float(np.min(self.seen, initial=0.0)), 0.0))
        shares = {self.band, self.allowed, *(share * lowest for share in LEVELS)}
        levels = sorted(level for level in shares if level >= self.band)
        probes: list[QuadratureProbe] = []
        while len(probes) < num:
            probe = self._probe(steps)
            if probe is None:
                return None
            probes.append(probe)
        # Each level has its share of the error probability, so the reported one may be chosen afterwards.
        sure = 1.0 - (1.0 - self.confidence) / len(levels)
        best = None
        for level in levels:
            middle, low, high, gap = count_interval(probes, -level, self.dimension, sure)
            low = max(low, int(np.sum(self.seen < -level)))
            high = max(low, high)
            count = min(max(round(middle), low), high)
            found = IndexEstimate(count, low, high, -level, self.confidence, "quadrature", num)
            if gap <= max(1.0, 0.5 * (high - low)):
                return found
            best = best or found
        return best

    def _probe(self, steps: int) -> QuadratureProbe | None:
        start = random_normal(self.rng, self.op.layout, self.op.active)
        krylov = self._krylov(steps, start)
        while not krylov.full and not krylov.ended_runs:
            if not krylov.step():
                return None
        self._note(krylov.ritz())
        return probe_of(krylov, float(norm(start)) ** 2)


# Quadrature ----------------------------------------------------------------------------------


class QuadratureProbe(NamedTuple):
    """One random probe: its Jacobi matrix and its length.

    Attributes:
        diagonal: shape (k,), the coefficients α.
        offdiagonal: shape (k,), the coefficients β; the last one couples to the next basis vector (0 where
            the Krylov space is invariant).
        weight: squared length of the Gaussian vector before it was normalised.
    """

    diagonal: np.ndarray
    offdiagonal: np.ndarray
    weight: float

    def share_below(self, value: float) -> tuple[float, float]:
        """Bounds on the share of the squared length that lies on eigenvectors below `value`."""
        diagonal, off, last = self.diagonal, self.offdiagonal[:-1], float(self.offdiagonal[-1])
        nodes, vectors = eigh_tridiagonal(diagonal, off, lapack_driver="stev")
        if last > 0:
            # Extend the Jacobi matrix so that `value` is a node: only its weight remains uncertain.
            distance = value - nodes
            if np.min(np.abs(distance)) == 0.0:
                distance = distance + np.spacing(abs(value) + np.max(np.abs(nodes)))
            corner = value - last**2 * float(np.sum(vectors[-1] ** 2 / distance))
            wide, beside = np.append(diagonal, corner), np.append(off, last)
            nodes, vectors = eigh_tridiagonal(wide, beside, lapack_driver="stev")
            at = int(np.argmin(np.abs(nodes - value)))
        else:
            at = -1
        shares = vectors[0] ** 2
        index = np.arange(len(nodes))
        sure = float(np.sum(shares[(nodes < value) & (index != at)]))
        doubtful = float(shares[at]) if at >= 0 else 0.0
        return sure, min(sure + doubtful, 1.0)


def probe_of(krylov: Krylov, weight: float) -> QuadratureProbe:
    """Read the quadrature off a run that was never restarted, from a vector of this squared length."""
    matrix = krylov.extended()
    return QuadratureProbe(np.diag(matrix).copy(), np.diag(matrix, -1).copy(), weight)


def count_interval(
    probes: list[QuadratureProbe], value: float, size: int, confidence: float
) -> tuple[float, int, int, float]:
    """Enclose, with this confidence, the number of eigenvalues below a value in a space of dimension `size`.

    Returns:
        The estimate, the two ends of the interval, and the part of its width (in eigenvalues) that more
        steps of each probe, rather than more probes, would remove.
    """
    sure, possible = pooled_share(probes, value)
    return interval_of_share(sure, possible, len(probes), size, confidence)


def pooled_share(probes: list[QuadratureProbe], value: float) -> tuple[float, float]:
    """Bounds on the share of all probes' squared length that lies on eigenvectors below a value."""
    bounds = np.array([probe.share_below(value) for probe in probes])
    weights = np.array([probe.weight for probe in probes])
    sure, possible = weights @ bounds / np.sum(weights)
    return float(sure), float(possible)


def interval_of_share(
    sure: float, possible: float, num: int, size: int, confidence: float
) -> tuple[float, int, int, float]:
    """Enclose a number of eigenvalues whose pooled share of `num` probes lies between two bounds.

    Returns:
        As `count_interval`.
    """
    tail, counts = 0.5 * (1.0 - confidence), range(size + 1)
    low = 0  # where the weight surely below is rounding
    if sure > WEIGHT_ROUNDING:
        low = bisect_left(counts, True, key=lambda count: _at_most(count, size, num, sure) < 1.0 - tail)
    high = bisect_left(counts, True, key=lambda count: _at_most(count, size, num, possible) <= tail) - 1
    low = min(low, size)
    return 0.5 * size * (sure + possible), low, max(high, low), size * (possible - sure)


def _at_most(count: int, size: int, num: int, share: float) -> float:
    """Probability that the pooled share is at most `share` if `count` eigenvalues lie below."""
    if count == 0 or count == size:
        return float(share >= count / size)
    return float(betainc(0.5 * num * count, 0.5 * num * (size - count), share))
