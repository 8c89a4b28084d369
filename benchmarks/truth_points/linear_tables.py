"""Which critical points of deep linear networks the truth set holds."""

from __future__ import annotations

from itertools import combinations

from hessian_probe.problems.known_point import KnownPoint
from hessian_probe.problems.linear_networks import deep_linear_point

# widths, subset, carried: depth 3 and 4, every branch of the classification.
_DEEP_CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[int, tuple[int, ...]]], ...] = (
    ((2, 2, 2, 2), (), {}),
    ((3, 3, 3, 3), (), {0: (2,)}),
    ((3, 3, 3, 3), (), {0: (2,), 1: (1,)}),
    ((3, 3, 3, 3), (1,), {}),
    ((3, 3, 3, 3), (1,), {1: (1,)}),
    ((3, 3, 3, 3), (1,), {1: (2,)}),
    ((3, 3, 3, 3), (2,), {}),
    ((3, 3, 3, 3), (1, 2), {}),
    ((3, 3, 3, 3), (1, 2), {2: (3,)}),
    ((3, 3, 3, 3), (1, 3), {}),
    ((3, 3, 3, 3), (1, 2, 3), {}),
    ((5, 4, 2, 3), (1, 2), {}),
    ((5, 4, 2, 3), (2, 3), {}),
    ((5, 4, 2, 3), (1,), {1: (1,)}),
    ((2, 2, 2, 2, 2), (), {}),
    ((3, 3, 3, 3, 3), (1,), {}),
    ((3, 3, 3, 3, 3), (1,), {1: (1,)}),
    ((3, 3, 3, 3, 3), (1,), {1: (1, 4)}),
    ((3, 3, 3, 3, 3), (1,), {1: (2, 3)}),
    ((3, 3, 3, 3, 3), (1, 2), {}),
    ((3, 3, 3, 3, 3), (3,), {}),
    ((4, 3, 2, 3, 3), (1, 2), {}),
    ((4, 3, 2, 3, 3), (1, 3), {}),
)


def linear_network_points() -> list[KnownPoint]:
    """Build critical points of linear networks with two, three and four layers.

    Returns:
        For widths 4-2-3, 3-3-3 and 5-4-3 and singular values 3, 2, 1, all 23 subsets that fit; and
        deeper networks with saddles that second order sees, saddles that it does not see, and
        global minima.
    """
    points = [
        deep_linear_point(widths, subset, (3.0, 2.0, 1.0))
        for widths in ((4, 2, 3), (3, 3, 3), (5, 4, 3))
        for r in range(min(widths) + 1)
        for subset in combinations((1, 2, 3), r)
    ]
    points += [deep_linear_point(widths, subset, carried=carried) for widths, subset, carried in _DEEP_CASES]
    return points
