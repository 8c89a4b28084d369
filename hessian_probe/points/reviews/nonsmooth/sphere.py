"""What was found of the loss on a sphere around a point."""

from __future__ import annotations

from typing import NamedTuple

from hessian_probe.arrays import Vector


class SphereSample(NamedTuple):
    """The loss at x + h·d: its change from x, its slope outwards, its gradient."""

    direction: Vector
    change: float
    slope: float
    gradient: Vector


class Sphere(NamedTuple):
    """What was found at one distance.

    Attributes:
        distance: h.
        low: lowest sample.
        high: highest sample.
        peak: pair of opposite samples with the lowest sum.
        min_norm: norm of the shortest convex combination of the gradients.
        slope: whether that is a slope: no gradient makes it shorter, and along it the loss falls on one side
            and rises on the other.
        steepest: norm of the longest gradient.
        moved: whether any sample differs from the point at all.
    """

    distance: float
    low: SphereSample
    high: SphereSample
    peak: tuple[SphereSample, SphereSample]
    min_norm: float
    slope: bool
    steepest: float
    moved: bool

    @property
    def stationary(self) -> float:
        """The shortest combination over the longest gradient."""
        return self.min_norm / self.steepest if self.steepest > 0 else 0.0

    @property
    def even_change(self) -> float:
        """Half the sum of the changes at both ends of the peak direction."""
        return 0.5 * (self.peak[0].change + self.peak[1].change)

    @property
    def odd_change(self) -> float:
        """Half their difference."""
        return 0.5 * abs(self.peak[0].change - self.peak[1].change)

    @property
    def curvature(self) -> float:
        """(f(x+hd) + f(x−hd) − 2f(x)) / h² along the peak direction."""
        return 2 * self.even_change / self.distance**2
