"""Lennard-Jones clusters."""

from __future__ import annotations

from hessian_probe.problems.known_point import KnownPoint


def cluster_points() -> list[KnownPoint]:
    """Placeholder."""
    return []
