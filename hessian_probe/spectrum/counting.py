"""How many eigenvalues are negative: proved by interlacing, completed by deflation, or estimated.

A projection of H on orthonormal vectors has at most as many eigenvalues below a value as H has (Cauchy's
interlacing), so every projected matrix proves a lower bound.  One Krylov space shows each eigenvalue
once.  To find the copies, the negative Ritz vectors that have converged are kept, and a fresh random
vector orthogonal to them starts another run, until one of these shows that with the asked probability
nothing negative is left.  Where there are too many for that, quadrature estimates the number.

Source: interlacing: R. A. Horn and C. R. Johnson, Matrix Analysis, 2013, theorem 4.3.28; deflated
restarts: K. Wu and H. Simon, SIAM J. Matrix Anal. Appl. 22, 2000, doi:10.1137/S0895479898334605.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import betainc

from hessian_probe.arrays import Vector, norm, random_normal
from hessian_probe.operators import memory
from hessian_probe.operators.base import search_dimension
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.spectrum.krylov import Krylov, Ritz
from hessian_probe.spectrum.result import IndexEstimate, Multiplicity, multiplicities

# Basis vectors held at most while counting.
MAX_BASIS = 512
# A Ritz pair is kept for deflation once its residual is below this share of the curvature sought.
LOCK = 1e-2
# Products of one quadrature probe, and probes; fewer of either are not worth while.
PROBE_STEPS = (24, 96)
PROBES = (3, 16)
# Where the quadrature looks, as shares of the lowest Ritz value; nearest to zero first.
LEVELS = (1e-3, 1e-2, 0.1, 0.5)


class IndexCount(NamedTuple):
    """What was found.

    Attributes:
        at_least: number of eigenvalues below −band that is proved.
        estimate: interval for the index, or None if the budget did not allow one.
        multiplicities: negative eigenvalues, grouped, where they were found one by one.
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
        self.dimension = search_dimension(op, op.active)
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
            estimate = self._deflate(self.budget // 2)
            if estimate is None:
                estimate = self._quadrature(self.budget - self.spent)
        except KeyboardInterrupt:
            estimate = None
        return IndexCount(int(np.sum(self.seen < -self.band)), estimate, self.multiplicities)

    def _krylov(self, rows: int, start: Vector | None = None) -> Krylov:
        row_bytes = sum(np.prod(shape) for shape in self.op.layout.shapes) * 4
        fits = int(memory.free_bytes() * memory.SHARE / max(row_bytes, 1))
        return Krylov(self.op, start, self.rng, max(min(rows, fits), 8), self.op.active)

    def _deflate(self, budget: int) -> IndexEstimate | None:
        """Find the negative eigenvalues one by one, as far as the budget goes."""
        krylov = self._krylov(MAX_BASIS)
        self.runs, self.num_ended = 1, 0
        while self.spent < budget:
            if (krylov.full and not self._lock(krylov)) or not krylov.step():
                break
            invariant = len(krylov.ended_runs) > self.num_ended
            due = krylov.size <= 24 or krylov.size % max(3, krylov.size // 16) == 0
            if not (invariant or krylov.exhausted or due):
                continue
            ritz = krylov.ritz()
            self._note(ritz)
            if krylov.exhausted or self._nothing_left(krylov, invariant):
                return self._complete(krylov, ritz)
            if invariant:  # what the run found stays in the basis; another has begun
                self.runs, self.num_ended = self.runs + 1, len(krylov.ended_runs)
            elif self._converged(krylov, ritz):
                self._lock(krylov)
        if krylov.size:
            self._group(krylov.ritz(), False)
        return None

    def _group(self, ritz: Ritz, complete: bool) -> None:
        """Note the negative eigenvalues that have been found, with their copies."""
        found = (ritz.values < -self.band) & (ritz.residuals <= LOCK * self.allowed)
        radii = np.maximum(ritz.residuals[found], self.band)
        self.multiplicities = multiplicities(ritz.values[found], radii, complete)

    def _note(self, ritz: Ritz) -> None:
        if np.sum(ritz.values < -self.band) >= np.sum(self.seen < -self.band):
            self.seen = ritz.values

    def _nothing_left(self, krylov: Krylov, invariant: bool) -> bool:
        """Whether the run has shown that, with its share of the confidence, nothing else is negative."""
        certificate = krylov.ended_runs[-1] if invariant else krylov.certificate()
        # Over all runs the doubts add up to 1 − confidence at most.
        sure = 1.0 - (1.0 - self.confidence) / (self.runs * (self.runs + 1))
        return (
            krylov.coupling <= self.allowed and certificate.lower_bound(self.dimension, sure) >= -self.allowed
        )

    def _converged(self, krylov: Krylov, ritz: Ritz) -> bool:
        """Whether the run has found something, and all of it to the accuracy of LOCK."""
        sought = ritz.values < -self.allowed
        new = np.sum(sought) > np.sum(krylov.settled < -self.allowed)
        return bool(new and np.all(ritz.residuals[sought] <= LOCK * self.allowed))

    def _lock(self, krylov: Krylov) -> bool:
        """Keep the negative Ritz pairs that have converged and start another run, if there are new ones."""
        ritz = krylov.ritz()
        good = (ritz.values < -self.band) & (ritz.residuals <= LOCK * self.allowed)
        if np.sum(good) <= np.sum(krylov.settled < -self.band) or np.sum(good) + 2 >= krylov.max_basis:
            return False
        krylov.restart(np.flatnonzero(good), fresh=True)
        self.runs, self.num_ended = self.runs + 1, len(krylov.ended_runs)
        return True

    def _complete(self, krylov: Krylov, ritz: Ritz) -> IndexEstimate:
        """State the count."""
        # H is, up to the coupling, the kept columns beside the rest, and of the rest nothing lies below
        # −allowed; by Weyl's inequality the eigenvalues of the two differ by no more than the coupling.
        self._group(ritz, krylov.exhausted)
        if krylov.exhausted:
            count = int(np.sum(ritz.values < -self.band))
            return IndexEstimate(count, count, count, -self.band, 1.0, "exact", 0)
        below = -(self.allowed + krylov.coupling)
        low, high = int(np.sum(ritz.values < below)), int(np.sum(krylov.settled < -self.allowed))
        return IndexEstimate(low, low, max(low, high), below, self.confidence, "deflation", self.runs)

    def _quadrature(self, budget: int) -> IndexEstimate | None:
        """Estimate the number from random probes."""
        num = min(max(budget // 64, PROBES[0]), PROBES[1])
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
        # Each level has its share of the doubt, so the one that is reported may be chosen afterwards.
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
        matrix = krylov.extended()
        self._note(krylov.ritz())
        return QuadratureProbe(np.diag(matrix).copy(), np.diag(matrix, -1).copy(), float(norm(start)) ** 2)


# --- How many eigenvalues lie below a value: Gauss quadrature of random probes, with an exact interval.

# A share below this is the rounding of a sum of float64 weights.
ROUNDING = 1e-14


class QuadratureProbe(NamedTuple):
    """One random probe: its Jacobi matrix and its length.

    Attributes:
        diagonal: shape (k,), the coefficients α.
        offdiagonal: shape (k,), the coefficients β, that to the next basis vector last (0 where the
            Krylov space is invariant).
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
            # Extend the Jacobi matrix so that `value` is a node: its weight is all that is not known.
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


def count_interval(
    probes: list[QuadratureProbe], value: float, size: int, confidence: float
) -> tuple[float, int, int, float]:
    """Enclose the number of eigenvalues below a value.

    Args:
        probes: independent Gaussian probes.
        value: the value.
        size: n, dimension of the space in which the probes were drawn.
        confidence: probability in (0, 1) with which the interval holds the number.

    Returns:
        The estimate, the two ends of the interval, and the width (in eigenvalues) that more steps for
        each probe, rather than more probes, would remove.
    """
    bounds = np.array([probe.share_below(value) for probe in probes])
    weights = np.array([probe.weight for probe in probes])
    sure, possible = weights @ bounds / np.sum(weights)
    tail, num = 0.5 * (1.0 - confidence), len(probes)
    low = 0  # where nothing is surely below, which rounding must not hide
    if sure > ROUNDING:
        low = min(_smallest_count(size, lambda count: _at_most(count, size, num, sure) < 1.0 - tail), size)
    high = _smallest_count(size, lambda count: _at_most(count, size, num, possible) <= tail) - 1
    return 0.5 * size * (sure + possible), low, max(high, low), size * (possible - sure)


def _at_most(count: int, size: int, num: int, share: float) -> float:
    """Probability that the pooled share is at most `share` if `count` eigenvalues lie below."""
    if count == 0 or count == size:
        return float(share >= count / size)
    return float(betainc(0.5 * num * count, 0.5 * num * (size - count), share))


def _smallest_count(size: int, test: Callable[[int], bool]) -> int:
    """Smallest count in 0 … size that passes a monotone test, or size + 1."""
    low, high = 0, size + 1
    while low < high:
        middle = (low + high) // 2
        if test(middle):
            high = middle
        else:
            low = middle + 1
    return low
