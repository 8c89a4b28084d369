"""All points whose type is known, in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.truth_points.certificates import certificate_points
from benchmarks.truth_points.clusters import cluster_points
from benchmarks.truth_points.degenerate import degenerate_points, trap_points
from benchmarks.truth_points.flat_forms import flat_form_points, peano_points
from benchmarks.truth_points.flat_valleys import flat_valley_points
from benchmarks.truth_points.kinked import kink_points
from benchmarks.truth_points.linear_tables import linear_network_points
from benchmarks.truth_points.low_precision import precision_points
from benchmarks.truth_points.plane_tables import closed_form_points, styblinski_tang_points
from benchmarks.truth_points.plateaus import plateau_points
from benchmarks.truth_points.sampled import sampled_points
from benchmarks.truth_points.scales import scale_points
from benchmarks.truth_points.slopes import slope_points
from hessian_probe.problems.known_point import KnownPoint
from hessian_probe.problems.networks import lecture_points, zero_mlp_point
from hessian_probe.problems.polynomials import axis_aligned_saddles, quadratic, random_polynomial


def _styblinski_tang() -> list[KnownPoint]:
    points = []
    for n, indices in ((2, None), (10, None), (30, [0, 1, 2, 15, 29, 30])):
        points += styblinski_tang_points(n, indices=indices)
    return points


def _networks() -> list[KnownPoint]:
    return [zero_mlp_point()]


def _polynomials() -> list[KnownPoint]:
    spectra = {
        "one negative in 300": [-5.0, *(0.01 + 0.01 * i for i in range(299))],
        "nearly symmetric ends": [-9.9, *(i / 48.0 for i in range(1, 49)), 10.0],
        "repeated negatives": [-0.3, -0.3, -0.3, -0.2, -0.2, *([1.0] * 45)],
        "rank 3 of 50": [4.0, 2.0, 1.0, *([0.0] * 47)],
        "identity": [1.0] * 50,
        "minus identity": [-1.0] * 50,
    }
    points = [quadratic(values, seed=number) for number, values in enumerate(spectra.values())]
    points += [random_polynomial(5, seed=k, index=k) for k in range(6)]
    return points


def _flat() -> list[KnownPoint]:
    return flat_form_points() + peano_points() + flat_valley_points()


_TABLES: dict[str, Callable[[], list[KnownPoint]]] = {
    "plane": closed_form_points,
    "degenerate": degenerate_points,
    "trap": trap_points,
    "lecture": lecture_points,
    "network": _networks,
    "linear_network": linear_network_points,
    "styblinski_tang": _styblinski_tang,
    "polynomial": _polynomials,
    "axis_saddle": axis_aligned_saddles,
    "cluster": cluster_points,
    "certificate": certificate_points,
    "noise": sampled_points,
    "precision": precision_points,
    "flat": _flat,
    "scale": scale_points,
    "kink": kink_points,
    "slope": slope_points,
    "plateau": plateau_points,
}

TRUTH_KINDS: tuple[str, ...] = tuple(_TABLES)
"""The kinds of points that ``truth_points`` knows."""

NEED_EXTRAS = frozenset({"plateau"})
"""Kinds that need scikit-learn; ``truth_points`` leaves them out unless they are named."""


def truth_points(kinds: str | Iterable[str] | None = None) -> list[KnownPoint]:
    """Collect points of known type.

    Args:
        kinds: One of ``TRUTH_KINDS`` or several; None for all but "plateau", which trains networks
            and needs scikit-learn.

    Returns:
        The points, table by table.

    Raises:
        ValueError: If a kind is unknown.
    """
    if kinds is None:
        kinds = [kind for kind in TRUTH_KINDS if kind not in NEED_EXTRAS]
    wanted = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in wanted if kind not in _TABLES]
    if unknown:
        raise ValueError(f"unknown kinds {unknown}; there are {', '.join(TRUTH_KINDS)}")
    return [point for kind in wanted for point in _TABLES[kind]()]
