"""Points whose type is known by proof, by closed form or by dense eigenvalues, as tables.

A file holds the tables of one kind, or of kinds that share code; a row is a ``KnownPoint``.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.truth_points import (  # noqa: F401  each registers its tables
    beside,
    flat,
    kinks,
    networks,
    optima,
    orbits,
    plane,
    quadratics,
    sampled,
    scales,
    slopes,
)
from benchmarks.truth_points.table import TABLES
from hessian_probe.problems import KnownPoint

TRUTH_KINDS = (
    "plane", "degenerate", "trap", "lecture", "network", "linear_network", "styblinski_tang",
    "polynomial", "axis_saddle", "cluster", "certificate", "noise", "precision", "flat", "scale", "kink",
    "slope", "plateau", "orbit", "beside", "ill_conditioned", "relu",
)  # fmt: skip
# Kinds that train networks and need scikit-learn; left out unless they are named.
NEED_EXTRAS = frozenset({"plateau"})


def truth_points(kinds: str | Iterable[str] | None = None, *, seed: int = 0) -> list[KnownPoint]:
    """Collect points of known type, table by table.

    Args:
        kinds: one of ``TRUTH_KINDS`` or several; None for all that need no extra.
        seed: draws what is random in them.
    """
    if kinds is None:
        kinds = [kind for kind in TRUTH_KINDS if kind not in NEED_EXTRAS]
    wanted = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    return [point for kind in wanted for table in TABLES[kind] for point in table(seed)]
