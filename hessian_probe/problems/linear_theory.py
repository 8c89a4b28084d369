"""What is proved about the second order of deep linear networks at their critical points.

Source: Achour, Malgouyres & Gerchinovitz, "The loss landscape of deep linear neural networks: a
second-order analysis" (2024), arXiv:2107.13289.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def _product(weights: Iterable[Matrix], size: int) -> Matrix:
    product = np.eye(size)
    for weight in weights:
        product = weight @ product
    return product


def is_tightened(weights: Sequence[Matrix], r: int) -> bool:
    """Decide whether a critical point that fits the top r directions is second-order flat.

    Args:
        weights: W₁ … W_H.
        r: Rank of their product.

    Returns:
        True if for every pair of layers i > j one of W_H⋯W_{i+1}, W_{i−1}⋯W_{j+1}, W_{j−1}⋯W₁ has
        rank r (an empty product is an identity).
    """
    depth = len(weights)
    for j, i in combinations(range(depth), 2):
        blocks = (
            _product(weights[i + 1 :], weights[i].shape[0]),
            _product(weights[j + 1 : i], weights[j].shape[0]),
            _product(weights[:j], weights[0].shape[1]),
        )
        if all(np.linalg.matrix_rank(block) != r for block in blocks):
            return False
    return True


def index_depth_2(widths: Sequence[int], subset: Sequence[int], s: Matrix) -> tuple[int, int]:
    """Count negative and zero eigenvalues of a two-layer network, free hidden units zero.

    Args:
        widths: d₀, p, d₂.
        subset: Fitted directions S.
        s: Singular values, one for each of the min(d₀, d₂) = d directions (zeros included).

    Returns:
        n₋ = #{i ∈ S, j ∉ S: sⱼ > sᵢ} + (p − r)(d − r) and n₀ = r² + (p − r)(d₀ + d₂ − 2(d − r)),
        counted with d replaced by the number of directions that have a singular value.
    """
    d_in, p, d_out = widths
    r, d = len(subset), s.size
    swaps = sum(1 for i in subset for j in range(d) if j not in subset and s[j] > s[i])
    return swaps + (p - r) * (d - r), r**2 + (p - r) * (d_in + d_out - 2 * (d - r))
