"""What the loss does on a sphere around a point: its lowest and highest values, its peaks, its slopes.

Directions are found, not only drawn: the gradients seen on the sphere make a bundle whose shortest convex
combination points down; directions along which no kink is crossed are split off; and from the lowest and the
highest direction a search goes on along the sphere.  What is stated holds for the
directions that were sampled.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import lsq_linear

from hessian_probe.arrays import Vector, add_scaled, dot, flatten, norm, random_normal, scale, unflatten
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.thresholds import (
    BUNDLE,
    CURVED,
    DRAWN_DIRECTIONS,
    FIRM,
    KINK_SHARE,
    MIXED_PAIRS,
    MIXED_SHARE,
    SAMPLE_ROUNDINGS,
    SETTLED,
    SLOPE_BEYOND,
    STATIONARY,
    STEEP,
    TURN_TRIALS,
    TURNS,
)


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


class SphereSampling:
    """Samples values and gradients around a point; `top` is ‖H‖, as far as the second derivative shows it."""

    def __init__(self, op: HessianOperator, rounding: Rounding, top: float, rng: np.random.Generator) -> None:
        self.op, self.rounding, self.top, self.rng, self.value = op, rounding, top, rng, op.value
        self._samples: list[SphereSample] = []
        self._pairs: list[tuple[SphereSample, SphereSample]] = []

    def look(self, distance: float, directions: list[Vector]) -> Sphere | None:
        """Explore one sphere, from given directions and random ones; None if the loss is not finite."""
        self._samples, self._pairs, self._distance = [], [], distance
        drawn = [random_normal(self.rng, self.op.layout, self.op.active) for _ in range(DRAWN_DIRECTIONS)]
        try:
            for direction in (*drawn, *directions):
                self._both(direction)
            gradients, min_norm, slope = self._bundle()
            across = _span(gradients, CURVED * distance * self.top)
            for direction in (*directions, drawn[0]):
                flat = flatten(direction)  # but for the directions across the kinks
                self._both(unflatten(self.op.layout, flat - (across @ flat) @ across))
            low = self._search(min(self._samples, key=lambda sample: sample.change), 1.0)
            high = self._search(max(self._samples, key=lambda sample: sample.change), -1.0)
            self._both(low.direction)
            peak = min(self._pairs, key=lambda pair: pair[0].change + pair[1].change)
        except FloatingPointError:
            return None
        steepest = max(float(norm(s.gradient)) for s in self._samples)
        moved = steepest > 0 or any(s.change != 0 for s in self._samples)
        return Sphere(distance, low, high, peak, min_norm, slope, steepest, moved)

    def _both(self, direction: Vector) -> None:
        """Sample a direction and its opposite."""
        length = float(norm(direction))
        if length > 0:
            unit = scale(1 / length, direction)
            self._pairs.append((self._sample(unit), self._sample(scale(-1.0, unit))))

    def _sample(self, direction: Vector) -> SphereSample:
        there = self.op.moved(direction, self._distance)
        gradient, change = there.gradient_vector, there.value - self.value
        slope = float(dot(gradient, direction))
        if not (math.isfinite(change) and math.isfinite(float(norm(gradient)))):
            raise FloatingPointError
        sample = SphereSample(direction, self._visible(change, slope), slope, gradient)
        self._samples.append(sample)
        return sample

    def _visible(self, change: float, slope: float) -> float:
        """Change of the loss; by the slope, as of a parabola, where losses are too coarse; else zero."""
        coarse, by_slope = SAMPLE_ROUNDINGS * self.rounding.value, 0.5 * slope * self._distance
        if not abs(change) <= coarse:
            return change
        # A slope that the losses would show and do not is not theirs (rounding with a made-up derivative).
        measured = abs(slope) > SAMPLE_ROUNDINGS * self.rounding.gradient
        return by_slope if measured and abs(by_slope) <= SLOPE_BEYOND * coarse else 0.0

    def _bundle(self) -> tuple[np.ndarray, float, bool]:
        """Gradients by row, until their shortest combination is short or stays; its norm; is it a slope."""
        # A direction that was found may lie in a kink, where the derivative is a convention; a draw does not.
        gradients = np.stack([flatten(sample.gradient) for sample in self._samples[: 2 * DRAWN_DIRECTIONS]])
        while True:
            weights, length = min_norm_point(gradients @ gradients.T)
            longest = float(np.max(np.linalg.norm(gradients, axis=1)))
            if not length > 0:
                return gradients, length, False
            best, steep = weights @ gradients, length > STATIONARY * longest
            down = unflatten(self.op.layout, -best)
            for share, count in ((MIXED_SHARE, 1), (1.0, MIXED_PAIRS)):  # then: is it so in all directions?
                newest = self._gradients(down, share, count)
                stays = bool(np.all(newest @ best >= (1 - SETTLED) * length**2))
                if not (stays and steep):
                    break
            if stays or not steep or len(gradients) >= BUNDLE:
                self._both(down)
                fall, rise = (sample.change for sample in self._pairs[-1])
                least = STEEP * self._distance * length
                slope = stays and steep and fall < -least and rise > least
                return gradients, length, slope
            gradients = np.vstack([gradients, newest])

    def _gradients(self, direction: Vector, share: float, count: int) -> np.ndarray:
        """Gradients along ± a direction, with a share of random ones mixed in; by row."""
        rows = []
        for sign in (1.0, -1.0) * count:
            draw = random_normal(self.rng, self.op.layout, self.op.active)
            mixed = add_scaled(scale(sign, _unit(direction)), share / float(norm(draw)), draw)
            rows.append(flatten(self._sample(_unit(mixed)).gradient))
        return np.stack(rows)

    def _search(self, best: SphereSample, sign: float) -> SphereSample:
        """Go along the sphere to lower (`sign` +1) or higher (−1) values, also along a kink."""
        gradients = flatten(best.gradient)[None]
        for _ in range(TURNS):
            weights, _ = min_norm_point(gradients @ gradients.T)
            turn = _tangential(unflatten(self.op.layout, -sign * weights @ gradients), best.direction)
            if turn is None:
                break
            trials = 0.25 ** np.arange(TURN_TRIALS)
            start = self.op.moved(best.direction, self._distance).x
            values, slopes = self.op.objective.line(start, turn, self._distance * trials)
            changes = np.where(np.isfinite(values), sign * (values - self.value), np.inf)
            if np.all(np.abs(changes) <= SAMPLE_ROUNDINGS * self.rounding.value):
                changes = self._distance * sign * np.where(np.isfinite(slopes), np.cumsum(slopes), 0.0)
            index = int(np.argmin(changes))
            turned = add_scaled(best.direction, float(trials[index]), turn)
            tried = self._sample(_unit(turned))
            if sign * tried.change < sign * best.change:
                best, gradients = tried, flatten(tried.gradient)[None]
            else:
                gradients = np.vstack([gradients, flatten(tried.gradient)])
        return best


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


def _span(gradients: np.ndarray, curved: float) -> np.ndarray:
    """Orthonormal rows that span the jumps of the gradient: the V space; orthogonal to it is the U space."""
    # C. Lemaréchal, F. Oustry and C. Sagastizábal, Trans. AMS 352, 2000, doi:10.1090/S0002-9947-99-02243-6.
    _, sizes, rows = np.linalg.svd(gradients[1:] - gradients[0], full_matrices=False)
    longest = float(np.max(np.linalg.norm(gradients, axis=1), initial=0.0))
    return rows[sizes > max(KINK_SHARE * longest, curved)]


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
