"""What the loss does on a sphere around a point: its lowest and highest values, its peaks, its slopes.

Directions are found, not only drawn: the gradients seen on the sphere make a bundle whose shortest convex
combination points down; directions along which no kink is crossed are split off; and from the lowest, the
highest and the most peaked direction a search goes on along the sphere.  What is stated holds for the
directions that were looked at.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, dot, norm, random_normal, row, scale
from hessian_probe.operators.hessian import HessianOperator, flatten_rows, unflatten_rows
from hessian_probe.points.kinks.hull import shortest

# Random directions on each sphere; with each its opposite.
DRAWN = 3
# The bundle grows until its shortest combination is below STATIONARY of the longest gradient, or by
# BUNDLE gradients.  A kink in k directions at once needs about k of them.
BUNDLE = 24
STATIONARY = 0.1
# Share of a random direction that is mixed into one that was found, to leave kinks it may lie in.
BESIDE = 0.03
# Gradients that differ by more than this share of the longest do so by a kink and not by curvature.
KINK_SHARE = 0.1
# Turns of the search along the sphere, each with trial steps of these shares of the radius.
TURNS = 5
TRIALS = 0.25 ** np.arange(8)
# A change counts beyond this many roundings of the loss, or of the slope.
ROUNDINGS = 8.0


class Sample(NamedTuple):
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
        shortest: norm of the shortest convex combination of the gradients.
        steepest: norm of the longest gradient.
        moved: whether any sample differs from the point at all.
    """

    distance: float
    low: Sample
    high: Sample
    peak: tuple[Sample, Sample]
    shortest: float
    steepest: float
    moved: bool

    @property
    def stationary(self) -> float:
        """The shortest combination over the longest gradient."""
        return self.shortest / self.steepest if self.steepest > 0 else 0.0

    @property
    def bend(self) -> float:
        """Half the sum of the changes at both ends of the peak direction."""
        return 0.5 * (self.peak[0].change + self.peak[1].change)

    @property
    def tilt(self) -> float:
        """Half their difference."""
        return 0.5 * abs(self.peak[0].change - self.peak[1].change)

    @property
    def curvature(self) -> float:
        """(f(x+hd) + f(x−hd) − 2f(x)) / h² along the peak direction."""
        return 2 * self.bend / self.distance**2


class Surroundings:
    """Looks at the loss around a point.

    Args:
        op: operator at the point; only values and gradients are used.
        value_noise: accuracy of the loss.
        slope_noise: accuracy of a slope.
        rng: source of directions.
    """

    def __init__(
        self, op: HessianOperator, value_noise: float, slope_noise: float, rng: np.random.Generator
    ) -> None:
        self.op, self.rng = op, rng
        self.value_noise, self.slope_noise = value_noise, slope_noise
        self.value = op.value
        self._x = cast(op.x, op.layout.work_dtypes)
        self._samples: list[Sample] = []
        self._pairs: list[tuple[Sample, Sample]] = []

    def look(self, distance: float, directions: list[Vector]) -> Sphere | None:
        """Explore one sphere, from given directions and random ones; None if the loss is not finite."""
        self._samples, self._pairs, self._distance = [], [], distance
        drawn = [random_normal(self.rng, self.op.layout, self.op.active) for _ in range(DRAWN)]
        try:
            for direction in (*drawn, *directions):
                self._both(direction)
            shortest_length = self._bundle()
            across = self._across_kinks()
            for direction in (*directions, *drawn[:1]):
                flat = _flat(direction)
                self._both(self._vector(flat - (across @ flat) @ across))
            low = self._search(min(self._samples, key=_change), 1.0)
            high = self._search(max(self._samples, key=_change), -1.0)
            self._both(low.direction)
            peak = self._sharpen(min(self._pairs, key=_sum))
        except FloatingPointError:
            return None
        steepest = max(float(norm(s.gradient)) for s in self._samples)
        moved = steepest > 0 or any(s.change != 0 for s in self._samples)
        return Sphere(distance, low, high, peak, shortest_length, steepest, moved)

    def _both(self, direction: Vector) -> None:
        """Sample a direction and its opposite."""
        length = float(norm(direction))
        if length > 0:
            unit = scale(1 / length, direction)
            self._pairs.append((self._sample(unit), self._sample(scale(-1.0, unit))))

    def _sample(self, direction: Vector) -> Sample:
        there = self.op.at(add_scaled(self._x, self._distance, direction))
        gradient, change = there.gradient_vector, there.value - self.value
        slope = float(dot(gradient, direction))
        if not (math.isfinite(change) and math.isfinite(float(norm(gradient)))):
            raise FloatingPointError
        sample = Sample(direction, self._visible(change, slope), slope, gradient)
        self._samples.append(sample)
        return sample

    def _visible(self, change: float, slope: float) -> float:
        """Change of the loss; by the slope, as of a parabola, where losses are too coarse; else zero."""
        if not abs(change) <= ROUNDINGS * self.value_noise:
            return change
        return 0.5 * slope * self._distance if abs(slope) > ROUNDINGS * self.slope_noise else 0.0

    def _bundle(self) -> float:
        """Add the gradient seen along minus the shortest combination until that is short."""
        # A direction that was found may lie in a kink, where the derivative is a convention; a draw does not.
        gradients = np.stack([_flat(sample.gradient) for sample in self._samples[: 2 * DRAWN]])
        while True:
            weights, length = shortest(gradients @ gradients.T)
            longest = float(np.max(np.linalg.norm(gradients, axis=1)))
            if not length > 0:
                return length
            found = self._sample(_unit(self._vector(-weights @ gradients)))
            if length <= STATIONARY * longest or len(gradients) >= BUNDLE:
                self._pairs.append((found, self._sample(scale(-1.0, found.direction))))
                return length
            if found.change < -0.5 * self._distance * length:
                return length  # it does go down there
            draw = random_normal(self.rng, self.op.layout, self.op.active)
            beside = add_scaled(found.direction, BESIDE / float(norm(draw)), draw)
            gradients = np.vstack([gradients, _flat(self._sample(_unit(beside)).gradient)])

    def _vector(self, flat: np.ndarray) -> Vector:
        return row(unflatten_rows(self.op.layout, flat[None]), 0)

    def _across_kinks(self) -> np.ndarray:
        """Orthonormal rows that span the jumps of the gradient."""
        # V and U spaces: C. Lemaréchal, F. Oustry and C. Sagastizábal, Trans. AMS 352, 2000,
        # doi:10.1090/S0002-9947-99-02243-6.
        gradients = np.stack([_flat(sample.gradient) for sample in self._samples[:BUNDLE]])
        jumps = gradients[1:] - gradients[0]
        _, sizes, rows = np.linalg.svd(jumps, full_matrices=False)
        return rows[sizes > KINK_SHARE * np.max(np.linalg.norm(gradients, axis=1))]

    def _search(self, best: Sample, sign: float) -> Sample:
        """Go along the sphere to lower (`sign` +1) or higher (−1) values, also along a kink."""
        gradients = _flat(best.gradient)[None]
        for _ in range(TURNS):
            weights, _ = shortest(gradients @ gradients.T)
            turn = _tangential(self._vector(-sign * weights @ gradients), best.direction)
            if turn is None:
                break
            steps = self._distance * TRIALS
            start = add_scaled(self._x, self._distance, best.direction)
            values, slopes = self.op.objective.line(cast(start, self.op.layout.dtypes), turn, steps)
            changes = np.where(np.isfinite(values), sign * (values - self.value), np.inf)
            if np.all(np.abs(changes) <= ROUNDINGS * self.value_noise):
                changes = self._distance * sign * np.where(np.isfinite(slopes), np.cumsum(slopes), 0.0)
            index = int(np.argmin(changes))
            turned = add_scaled(best.direction, float(TRIALS[index]), turn)
            tried = self._sample(_unit(turned))
            if sign * tried.change < sign * best.change:
                best, gradients = tried, _flat(tried.gradient)[None]
            else:
                gradients = np.vstack([gradients, _flat(tried.gradient)])
        return best

    def _sharpen(self, best: tuple[Sample, Sample]) -> tuple[Sample, Sample]:
        """Go along the sphere to directions in which both sides are lower."""
        step = 0.5
        for _ in range(TURNS):
            turn = _tangential(add_scaled(best[1].gradient, -1.0, best[0].gradient), best[0].direction)
            if turn is None:
                break
            self._both(add_scaled(best[0].direction, step, turn))
            if _sum(self._pairs[-1]) < _sum(best):
                best = self._pairs[-1]
            else:
                step *= 0.25
        return best


def _change(sample: Sample) -> float:
    return sample.change


def _sum(pair: tuple[Sample, Sample]) -> float:
    return pair[0].change + pair[1].change


def _unit(vector: Vector) -> Vector:
    return scale(1 / norm(vector), vector)


def _tangential(force: Vector, direction: Vector) -> Vector | None:
    """Unit vector along the part of a force that is orthogonal to a unit direction."""
    length = float(norm(force))
    if not length > 0:
        return None
    force = scale(1 / length, force)
    rest = add_scaled(force, -float(dot(force, direction)), direction)
    eps = float(jnp.finfo(rest[0].dtype).eps)
    return _unit(rest) if float(norm(rest)) > 1e3 * eps else None


def _flat(vector: Vector) -> np.ndarray:
    """A vector as a flat float64 array on the host, where bundles are worked on."""
    return flatten_rows(tuple(leaf[None] for leaf in vector))[0]
