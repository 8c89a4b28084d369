"""How many eigenvalues lie below a value: Gauss quadrature of random probes, with an exact interval.

The weight that a vector z has on the eigenvectors below y is the cumulative spectral function of z at
y.  k Lanczos steps enclose it between two Gauss quadratures (Chebyshev, Markov and Stieltjes), and over
Gaussian z the pooled share of m probes that lies below y has a known distribution: with N of n
eigenvalues below y it is Beta(mN/2, m(n − N)/2).  So the interval has its stated probability for any
spectrum.

Source: G. H. Golub and G. Meurant, Matrices, Moments and Quadrature with Applications, 2010, chapter 6
(prescribed nodes); Chebyshev–Markov–Stieltjes: G. Szegő, Orthogonal Polynomials, 1939, §3.41;
stochastic Lanczos quadrature: S. Ubaru, J. Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38, 2017,
doi:10.1137/16M1104974.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import betainc

# A share below this is the rounding of a sum of float64 weights.
ROUNDING = 1e-14


class Probe(NamedTuple):
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
    probes: list[Probe], value: float, size: int, confidence: float
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
        low = min(_search(size, lambda count: _at_most(count, size, num, sure) < 1.0 - tail), size)
    high = _search(size, lambda count: _at_most(count, size, num, possible) <= tail) - 1
    return 0.5 * size * (sure + possible), low, max(high, low), size * (possible - sure)


def _at_most(count: int, size: int, num: int, share: float) -> float:
    """Probability that the pooled share is at most `share` if `count` eigenvalues lie below."""
    if count == 0 or count == size:
        return float(share >= count / size)
    return float(betainc(0.5 * num * count, 0.5 * num * (size - count), share))


def _search(size: int, test: Callable[[int], bool]) -> int:
    """Smallest count in 0 … size that passes a monotone test, or size + 1."""
    low, high = 0, size + 1
    while low < high:
        middle = (low + high) // 2
        if test(middle):
            high = middle
        else:
            low = middle + 1
    return low
