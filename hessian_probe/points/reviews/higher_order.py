"""Where second order is silent: the lowest points of the loss on small spheres along the flat directions.

At a critical point with H = Σ λᵢ vᵢ vᵢᵀ let N be the span of the flat directions (|λᵢ| within the zero
band) and all other curvature positive.  Let m(r) be the lowest loss at x + z + y with z in N, |z| = r, and y
outside N, near 0.  The loss falls arbitrarily near x exactly where m(r) < f(x) for arbitrarily small r (the
reduction of Lyapunov and Schmidt), and that sees the curved descents that no straight line shows.  m'(r) is
the outward slope at the lowest point, by the envelope theorem.  Slopes are judged, since they show on
smaller spheres than values do.  With a sign of −1 everything is about −f.

A fall that shows as a power of r on a run of spheres, the smallest visible one first, is one at the point
itself.  A rise proves nothing: whether anything near is lower is what the gain says.

Source: M. Golubitsky and D. Schaeffer, Singularities and Groups in Bifurcation Theory I, 1985, chapter
    VII, doi:10.1007/978-1-4612-5034-0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse

from hessian_probe.arrays import flatten, flatten_rows, host_norm, unflatten
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.points.measurements import Measurements
from hessian_probe.points.rounding import SINGLE
from hessian_probe.points.thresholds import (
    ALL_FLAT,
    BENT,
    DENSE_SIZE,
    DRAWN_ROUNDINGS,
    FAR,
    FOLLOWED_EVALUATIONS,
    LEAST_POWER,
    LOWEST_KEPT,
    NUM_SPHERES,
    POWER_SPHERES,
    POWER_TOLERANCE,
    REACH,
    REST_SHARE,
    RESTS,
    ROUNDING_DRAWS,
    SILENT_SPHERES,
    SPHERE_EVALUATIONS,
    SPHERE_STARTS,
    STARTED_SPHERES,
    STRAIGHT_DESCENT,
)
from hessian_probe.points.verdict import Descent, HigherOrder, Verdict
from hessian_probe.spectrum.dense import dense_eigh


class _Lowest(NamedTuple):
    """A lowest point: coordinates on the unit sphere of N and outside N, and what is seen there."""

    unit: np.ndarray
    rest: np.ndarray
    value: float
    outward: float
    noise: float


class SphereDescent:
    """Lowest points on spheres along the flat directions: all, where `spectrum` is None."""

    def __init__(
        self,
        op: HessianOperator,
        spectrum: tuple[np.ndarray, np.ndarray] | None,
        band: float,
        sign: float,
        rng: np.random.Generator,
    ) -> None:
        self.op, self.sign, self.rng = op, sign, rng
        self.flat: Any = scipy.sparse.identity(op.size, format="csr")
        self.stiff, self.curvature = np.zeros((op.size, 0)), np.zeros(0)
        if spectrum is not None:
            values, vectors = spectrum
            flat = np.abs(values) <= band
            self.flat, self.stiff = vectors[:, flat], vectors[:, ~flat]
            self.curvature = sign * values[~flat]
        self.x = flatten(op.x_vector).astype(np.float64)
        self.here = sign * flatten(op.gradient_vector).astype(np.float64)

    def evaluate(self, move: np.ndarray) -> tuple[float, np.ndarray]:
        """Return ±(f − f(x)) and its gradient after a displacement."""
        shapes, dtypes = self.op.layout.shapes, self.op.layout.work_dtypes
        parts = np.split(move, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
        rows = zip(parts, shapes, dtypes, strict=True)  # NumPy arrays: nothing is compiled for them
        leaves: Any = tuple(part.astype(dtype).reshape(1, *shape) for part, shape, dtype in rows)
        values, gradients = self.op.objective.values_and_gradients(self.op.x, leaves)
        gradient = flatten_rows(gradients)[0].astype(np.float64)
        return self.sign * (float(values[0]) - self.op.value), self.sign * gradient

    def move(self, radius: float, unit: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Displacement from the point."""
        return np.asarray(radius * (self.flat @ unit) + self.stiff @ rest)

    def _go_down(
        self, radius: float, unit: np.ndarray, rest: np.ndarray, evaluations: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Go down on a sphere by L-BFGS, the other directions in units of their curvature."""
        size, root = len(unit), np.sqrt(self.curvature)
        scale: list[float] = []

        def along(y: np.ndarray) -> tuple[float, np.ndarray]:
            length = host_norm(y[:size])
            toward = y[:size] / length
            value, gradient = self.evaluate(self.move(radius, toward, y[size:] / root))
            if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
                return 1e300, np.zeros_like(y)
            slope = self.flat.T @ gradient
            slope = radius / length * (slope - (slope @ toward) * toward)
            slopes = np.concatenate([slope, (self.stiff.T @ gradient) / root])
            scale[:] = scale or [host_norm(slopes) or 1.0]
            return value / scale[0], slopes / scale[0]

        options = {"maxfun": evaluations, "ftol": 0.0, "gtol": 0.0}
        start = np.concatenate([unit, rest * root])
        found = scipy.optimize.minimize(along, start, jac=True, method="L-BFGS-B", options=options).x
        return found[:size] / host_norm(found[:size]), found[size:] / root

    def lowest(self, radius: float, unit: np.ndarray, rest: np.ndarray, evaluations: int) -> _Lowest | None:
        """Go down from a start; None where the other directions do not come to rest."""
        if len(unit) > 1 or len(rest):
            unit, rest = self._go_down(radius, unit, rest, evaluations)
        for count in range(RESTS + 1):
            move = self.move(radius, unit, rest)
            value, gradient = self.evaluate(move)
            across = self.stiff.T @ gradient
            if not np.all(np.isfinite(gradient)) or host_norm(rest) > FAR * radius:
                return None
            if count < RESTS:
                rest = rest - across / self.curvature
        outward = float(unit @ (self.flat.T @ gradient))
        noise, across_noise = self._rounding(move, gradient, unit)
        spare = 0.5 * float(np.sum(across**2 / self.curvature))
        if spare > REST_SHARE * abs(outward) * radius and host_norm(across) > across_noise:
            return None
        noise += 2.0 * abs(float(unit @ (self.flat.T @ self.here)))
        # Where the other directions are not quite at rest, moving along them spoils the slope.
        noise += BENT * host_norm(across) * host_norm(rest) / radius
        return _Lowest(unit, rest, value, outward, noise)

    def _rounding(self, move: np.ndarray, gradient: np.ndarray, unit: np.ndarray) -> tuple[float, float]:
        """Measure what one rounding of the parameters changes of the outward slope and across."""
        there = self.x + move
        size = np.maximum(np.abs(there), np.sqrt(np.mean(there**2)))
        outward = across = 0.0
        for _ in range(ROUNDING_DRAWS):
            signs = self.rng.choice([-1.0, 1.0], len(move))
            change = self.evaluate(move + self.op.eps * signs * size)[1] - gradient
            outward = max(outward, abs(float(unit @ (self.flat.T @ change))))
            across = max(across, host_norm(self.stiff.T @ change))
        return DRAWN_ROUNDINGS * outward, DRAWN_ROUNDINGS * across

    def _starts(self) -> list[np.ndarray]:
        dimension = self.flat.shape[1]
        if dimension == 1:
            return [np.array([1.0]), np.array([-1.0])]
        half = self.rng.standard_normal((SPHERE_STARTS // 2, dimension))
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        return [*half, *-half]

    def spheres(self) -> list[tuple[float, _Lowest | None]]:
        """Return the lowest point of each sphere, from the widest inwards."""
        reach = REACH * parameter_scale(self.op)
        followed: list[_Lowest] = []
        spheres = []
        with np.errstate(all="ignore"):
            for index in range(NUM_SPHERES):
                radius = reach * 0.5**index
                # Off the tangent space a valley bends away like the square of the distance.
                starts = [(low.unit, 0.25 * low.rest, FOLLOWED_EVALUATIONS) for low in followed]
                if index < STARTED_SPHERES or not followed:
                    nothing = np.zeros(len(self.curvature))
                    starts += [(unit, nothing, SPHERE_EVALUATIONS) for unit in self._starts()]
                found = [low for start in starts if (low := self.lowest(radius, *start)) is not None]
                found.sort(key=lambda low: low.outward)
                followed = found[:LOWEST_KEPT]
                spheres.append((radius, found[0] if found else None))
                visible = any(low is not None and abs(low.outward) > low.noise for _, low in spheres)
                if not visible and index + 1 == SILENT_SPHERES:
                    break  # an orbit: further in, slopes are smaller still
        return spheres


def higher_order(
    op: HessianOperator,
    spectrum: tuple[np.ndarray, np.ndarray] | None,
    band: float,
    sign: float,
    rng: np.random.Generator,
) -> HigherOrder:
    """Say what ±f does along the flat directions of a critical point, all others at rest.

    `spectrum` has no curvature of the sign −`sign` beyond the band; it is None where there is none at all.

    Returns:
        The finding.

    Cost:
        Some 400 gradients in one flat dimension, at most 1,500 in more.
    """
    descent = SphereDescent(op, spectrum, band, sign, rng)
    spheres = descent.spheres()
    seen = [(radius, low) for radius, low in spheres[::-1] if low is not None]
    visible = [(radius, low) for radius, low in seen if abs(low.outward) > low.noise]
    if not visible:
        far = seen[-1][0] if seen else 0.0
        return HigherOrder("flat", Reason("spheres_flat", far=far), sign)
    run = visible[:POWER_SPHERES]
    near, far = run[0][0], run[-1][0]
    if all(low.outward > 0 for _, low in run):
        return HigherOrder("rises", Reason("spheres_rise", sign=sign, near=near, far=far), sign)
    order, inwards = _order(run), len(run) == POWER_SPHERES and all(low.outward < 0 for _, low in run)
    # A fall may go on beyond the widest sphere on which the other directions come to rest.
    widest, outermost = visible[-1][1], spheres[0][1] is None and visible[-1][1] is seen[-1][1]
    falling = inwards or (outermost and widest.outward < 0)
    lower = _lowest(descent, visible)
    if inwards and order is not None:
        fall = Reason("spheres_fall", sign=sign, order=order, near=near, far=far)
        return HigherOrder("falls", fall, sign, lower)
    kind = "falling" if falling else "unclear"
    return HigherOrder(kind, Reason("spheres_unclear", near=near, far=far), sign, lower)


def _lowest(descent: SphereDescent, spheres: list[tuple[float, _Lowest]]) -> Descent | None:
    """Return the move to the lowest of those points, if that is lower by more than rounding."""
    # What is left of the gradient across N spoils small slopes, but never lowers the loss.
    radius, low = min(spheres, key=lambda each: each[1].value)
    here = descent.op.value
    if low.value >= -DRAWN_ROUNDINGS * descent.op.eps * max(abs(here), abs(here + descent.sign * low.value)):
        return None
    move = unflatten(descent.op.layout, descent.move(radius, low.unit, low.rest))
    return Descent(move, straight=host_norm(low.rest) <= STRAIGHT_DESCENT * radius)


def applies(m: Measurements, verdict: Verdict) -> bool:
    """Whether second order is silent at the parameters themselves, and their precision shows more."""
    silent_here = verdict.label == "degenerate" and verdict.judged is None
    return silent_here and m.problem is None and m.op.eps <= SINGLE


def review(m: Measurements, verdict: Verdict) -> Verdict:
    """Call a point a saddle where the loss falls and rises arbitrarily near, which second order misses."""
    op, extremes = m.here
    spectrum, band = extremes.spectrum, extremes.band
    variables = op.search_dimension(op.active)
    if spectrum is None and extremes.top > band:
        if variables > DENSE_SIZE or variables < op.size or m.left < op.size:
            return verdict
        spectrum = dense_eigh(op)
    if spectrum is None and op.size > ALL_FLAT:
        return verdict
    values = np.zeros(1) if spectrum is None else spectrum[0]
    up, down = bool(np.any(values > band)), bool(np.any(values < -band))
    if (up and down) or not np.any(np.abs(values) <= band):
        return verdict  # not what the extreme eigenpairs showed: rounding
    signs = (1.0,) if up else (-1.0,) if down else (1.0, -1.0)
    found = tuple(higher_order(op, spectrum, band, sign, m.rng) for sign in signs)
    lower = next((each.lower for each in found if each.sign > 0 and each.kind == "falls"), None)
    verdict = verdict.with_reasons(*(each.reason for each in found))
    verdict = verdict._replace(higher_order=found, lower=lower)
    if not all(each.kind == "falls" for each in found):
        return verdict
    return verdict.relabelled("saddle", *verdict.evidence)


def _order(run: list[tuple[float, _Lowest]]) -> float | None:
    """Return the power with which the loss goes along neighbouring spheres, if it is one of three or more."""
    radii = np.array([radius for radius, _ in run])
    slopes = np.array([abs(low.outward) for _, low in run])
    if len(run) < POWER_SPHERES or np.any(np.abs(np.diff(np.log2(radii)) - 1.0) > 1e-6):
        return None
    exponents = np.diff(np.log2(slopes))
    if np.ptp(exponents) > 2 * POWER_TOLERANCE or np.min(exponents) < LEAST_POWER - POWER_TOLERANCE:
        return None
    return float(np.mean(exponents)) + 1.0
