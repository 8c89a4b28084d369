"""The shortest convex combination of some gradients: zero where a point with a kink is stationary."""

from __future__ import annotations

import numpy as np
from scipy.optimize import lsq_linear

# Weight of the condition Σλ = 1 in the least-squares problem: its error is about 1/FIRM².
FIRM = 1e4


def min_norm_point(gram: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimise ‖Σ λᵢ gᵢ‖ over λ ≥ 0, Σ λᵢ = 1.

    A locally Lipschitz function is stationary at x if zero is in the hull of the gradients arbitrarily
    near (Clarke); minus the shortest element is the direction of steepest descent of their maximum.

    Args:
        gram: inner products of the gradients, shape (k, k).

    Returns:
        λ, shape (k,), and the norm of the combination.

    Source:
        J. V. Burke, A. S. Lewis and M. L. Overton, SIAM J. Optim. 15, 2005, doi:10.1137/030601296.
    """
    top = float(np.max(np.diag(gram), initial=0.0))
    if not top > 0:
        return np.full(len(gram), 1 / len(gram)), 0.0
    values, vectors = np.linalg.eigh(gram / top)
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    matrix = np.vstack([root, FIRM * np.ones((1, len(gram)))])
    # Not `nnls`: that of SciPy 1.13 fails to converge where gradients repeat.
    solved = lsq_linear(matrix, np.r_[np.zeros(len(gram)), FIRM], (0.0, np.inf), method="bvls", tol=1e-14)
    weights = np.maximum(solved.x, 0.0)
    weights /= np.sum(weights)
    return weights, float(np.sqrt(max(weights @ gram @ weights, 0.0)))
