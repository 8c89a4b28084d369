"""What a Lanczos run from a random start has not seen, with a probability."""

from __future__ import annotations

import math


def missed_fraction(size: int, num_steps: int, confidence: float) -> float:
    """Bound the relative error of the extreme Ritz value of a positive semi-definite matrix.

    With probability at least `confidence` over a start drawn uniformly from the sphere,
    λ₁ ≤ θ₁ / (1 − ε) after k steps, with ε = (ln(1.648 √n / (1 − confidence)) / (2k − 1))².
    Applied to M·I − H it bounds how far below the lowest Ritz value an eigenvalue of H may hide.

    Args:
        size: n, the matrix is n by n.
        num_steps: k, length of one Krylov space without restart.
        confidence: probability in (0, 1).

    Returns:
        ε, clipped to [0, 1]; 1 says nothing.

    Source:
        J. Kuczyński and H. Woźniakowski, SIAM J. Matrix Anal. Appl. 13, 1992, theorem 3.2,
        doi:10.1137/0613066.
    """
    if num_steps < 1 or size < 1:
        return 1.0
    if num_steps >= size:
        return 0.0
    log = math.log(1.648 * math.sqrt(size) / (1.0 - confidence))
    return min(1.0, (log / (2 * num_steps - 1)) ** 2)


def steps_for(size: int, fraction: float, confidence: float) -> int:
    """Products after which `missed_fraction` is at most `fraction`."""
    if fraction <= 0:
        return size
    log = math.log(1.648 * math.sqrt(size) / (1.0 - confidence))
    return min(size, math.ceil(0.5 * (log / math.sqrt(min(fraction, 1.0)) + 1)))
