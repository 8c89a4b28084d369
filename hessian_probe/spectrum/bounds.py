"""What a Lanczos run from a random start has not seen, with a probability.

Before a run the bound of Kuczyński and Woźniakowski says how many products are needed; after it the
products themselves say more (`growth.Growth`).
"""

from __future__ import annotations

import math


def missed_fraction(size: int, num_steps: int, confidence: float) -> float:
    """Bound the relative error of the extreme Ritz value of a positive semi-definite matrix.

    With probability at least `confidence` over a start drawn uniformly from the sphere,
    λ₁ ≤ θ₁ / (1 − ε) after k steps, with ε = (ln(1.648 √n / (1 − confidence)) / (2k − 1))².
    Applied to λ_max·I − H it bounds how far below the lowest Ritz value an eigenvalue of H may hide,
    as a share of λ_max − λ_min.  Both of these are unknown after a run; `Growth` needs neither.

    The constant follows from two facts.  Where θ₁ ≤ (1 − ε) λ₁, the weight w of the start on the
    first eigenvector is at most 1/cosh((2k − 1) artanh √ε) ≤ 2 exp(−(2k − 1) √ε), by the polynomial
    T_{2k−1}(√(1 − x))/√(1 − x); and P(|w| ≤ t) ≤ t √(2n/π).  Their product has 1.596 for 1.648.

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
    """Products after which `missed_fraction` is at most `fraction`.

    With as many products and no restart, `growth.Growth` certifies that nothing lies below a value x
    for which (λ_min − x) / (λ_max − x) is `fraction`: Chebyshev's polynomial of degree k on the
    spectrum reaches cosh(2k artanh √fraction) at x.

    Args:
        size: n, the matrix is n by n.
        fraction: relative error allowed; `negative_tol` where the lowest eigenvalue is near zero.
        confidence: probability in (0, 1).

    Returns:
        k, at most n.
    """
    if fraction <= 0:
        return size
    log = math.log(1.648 * math.sqrt(size) / (1.0 - confidence))
    return min(size, math.ceil(0.5 * (log / math.sqrt(min(fraction, 1.0)) + 1)))


def log_inverse_weight(size: int, confidence: float) -> float:
    """Return ln(1/w), where a random unit vector has a larger weight than w on a given direction.

    P(|⟨b, u⟩| ≤ w) ≤ w √(2n/π) for b uniform on the sphere of dimension n, since the density of a
    coordinate is at most Γ(n/2) / (√π Γ((n − 1)/2)) < √(n/(2π)) (n ≥ 3; for n ≤ 2 by its integral).
    """
    return math.log(math.sqrt(2.0 * size / math.pi) / (1.0 - confidence))
