"""Tests that the loss is flat along a null space that the caller gives."""

from __future__ import annotations

import numpy as np
import scipy.optimize

from hessian_probe.arrays import Vector, add_scaled, cast, dot, flatten, norm, unflatten
from hessian_probe.operators.restricted import RestrictedHessian
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.thresholds import (
    COMBINATIONS,
    DRAWN_ROUNDINGS,
    FLAT_BANDS,
    FLOW,
    FLOW_ERROR,
    FLOW_STEPS,
    LINE_SHARES,
    RELAXED,
)


def check_symmetry(
    op: RestrictedHessian, extremes: ExtremeEigenpairs, rounding: Rounding, rng: np.random.Generator
) -> Reason | None:
    """Say which of the directions left out is not flat, and by what; None where all are.

    At the parameters slope and product must vanish within their noise (but for the part of a product
    that a gradient that is not zero makes along a curved orbit).  Further out the loss must stay as it
    is: along a generator's flow; along a vector as a straight line, or, where the whole spectrum is
    known, with all other directions relaxed.

    Returns:
        The reason, or None.

    Cost:
        One product and about ten evaluations for each direction; some 600 evaluations for a vector whose
        straight line is not flat (n more for every distance).
    """
    rows = op.null.directions(op.x)
    for index, flat in enumerate(rows):
        direction = unflatten(op.layout, flat)
        problem = _here(op, index, direction, extremes, rounding)
        if problem is None and not op.null.fixed:
            problem = _along_flow(op, index, rounding, extremes)
        elif problem is None:
            moved = _change_along_line(op, direction, extremes, rounding)
            if moved is not None:
                problem = Reason("null_space_line", name=op.null.name(index), **moved)
        if problem is not None:
            return problem
    for _ in range(COMBINATIONS if op.null.fixed and len(rows) > 1 else 0):
        flat = rng.standard_normal(len(rows)) @ rows
        flat /= np.linalg.norm(flat)
        moved = _change_along_line(op, unflatten(op.layout, flat), extremes, rounding)
        if moved is not None:
            return Reason("null_space_combination", **moved)
    return None


def _here(
    op: RestrictedHessian, index: int, direction: Vector, extremes: ExtremeEigenpairs, rounding: Rounding
) -> Reason | None:
    """Test slope and product at the parameters."""
    slope, length = abs(float(dot(op.gradient_vector, direction))), float(norm(op.gradient_vector))
    along = max(abs(float(dot(direction, change))) for change in rounding.changes)
    allowed = DRAWN_ROUNDINGS * (along + op.eps * length) + rounding.gradient_tolerance(extremes.top)
    if slope > allowed:
        return Reason("null_space_slope", name=op.null.name(index), slope=slope, allowed=allowed)
    bend = 0.0
    if not op.null.fixed and length > 0:
        # H G = −(∂G)ᵀ g along an orbit; the size of ∂G is measured along g.
        step = 1e-3 * parameter_scale(op) / length
        there = add_scaled(op.x_vector, step, op.gradient_vector)
        change = add_scaled(op.null.generator(index, there), -1.0, op.null.generator(index, op.x))
        bend = 4.0 * float(norm(change)) / step / max(float(norm(op.null.generator(index, op.x))), 1e-300)
    product = float(norm(op.multiply_whole(direction)))
    if product > FLAT_BANDS * extremes.band + bend:
        return Reason("null_space_product", name=op.null.name(index), product=product, band=extremes.band)
    return None


def _along_flow(
    op: RestrictedHessian, index: int, rounding: Rounding, extremes: ExtremeEigenpairs
) -> Reason | None:
    """Follow the generator's flow by the classical Runge–Kutta method."""
    x, length = op.x_vector, FLOW * parameter_scale(op)
    step = length / FLOW_STEPS / max(float(norm(op.null.generator(index, op.x))), 1e-300)
    error, steep = FLOW_ERROR * length, float(norm(op.gradient_vector))
    allowed = DRAWN_ROUNDINGS * rounding.value + error * steep + extremes.top * error**2
    for count in range(FLOW_STEPS):
        first = op.null.generator(index, x)
        second = op.null.generator(index, add_scaled(x, 0.5 * step, first))
        third = op.null.generator(index, add_scaled(x, 0.5 * step, second))
        fourth = op.null.generator(index, add_scaled(x, step, third))
        total = add_scaled(add_scaled(first, 2.0, second), 2.0, third)
        x = add_scaled(x, step / 6.0, add_scaled(total, 1.0, fourth))
        moved = abs(op.objective.value(cast(x, op.layout.dtypes)) - op.value)
        if not moved <= allowed:
            done = (count + 1) / FLOW_STEPS * length
            return Reason("null_space_flow", name=op.null.name(index), moved=moved, distance=done)
    return None


def _change_along_line(
    op: RestrictedHessian, direction: Vector, extremes: ExtremeEigenpairs, rounding: Rounding
) -> dict[str, float] | None:
    """Largest change of the loss along a line, and how far it was followed; None where the line is flat."""
    far = parameter_scale(op) * np.array(LINE_SHARES)
    steps = np.concatenate([far, -far])
    values, slopes = op.objective.line(op.x, direction, steps)
    moved, flat = np.abs(values - op.value), FLAT_BANDS * extremes.band
    noise = DRAWN_ROUNDINGS * (rounding.value + op.eps * abs(op.value)) + flat * steps**2
    slope_noise = DRAWN_ROUNDINGS * rounding.gradient + flat * np.abs(steps)
    if np.all(moved <= noise) and np.all(np.abs(slopes) <= slope_noise):
        return None
    found = {"moved": float(np.max(moved)), "distance": float(np.max(far))}
    if extremes.spectrum is None:
        return found
    steps = np.max(far) * np.arange(1, RELAXED + 1) / RELAXED
    noise, sides = noise[0] + flat * steps**2, (steps, -steps)
    return None if all(_flat_relaxed(op, direction, extremes, side, noise) for side in sides) else found


def _flat_relaxed(
    op: RestrictedHessian,
    direction: Vector,
    extremes: ExtremeEigenpairs,
    steps: np.ndarray,
    noise: np.ndarray,
) -> bool:
    """Whether the loss stays as it is along a line with all other directions relaxed."""
    assert extremes.spectrum is not None
    values, vectors = extremes.spectrum
    inside = np.abs(values) > extremes.band
    values, across = values[inside], vectors[:, inside]
    rest = np.zeros(len(values))
    x, line = (flatten(vector).astype(np.float64) for vector in (op.x_vector, direction))

    def there(y: np.ndarray, step: float) -> tuple[float, Vector]:
        moved = unflatten(op.layout, x + step * line + across @ y)
        return op.objective.value_and_gradient(cast(moved, op.layout.dtypes))

    def residual(y: np.ndarray, step: float) -> np.ndarray:
        return np.asarray((across.T @ flatten(there(y, step)[1]).astype(np.float64)) / values)

    for step, allowed in zip(steps, noise, strict=True):
        if len(values):
            rest = scipy.optimize.root(residual, rest, (step,), jac=lambda y, _: np.eye(len(y))).x
        if not abs(there(rest, step)[0] - op.value) <= allowed:
            return False
    return True


def left_out(op: RestrictedHessian) -> Reason:
    """Say what was left out."""
    count = len(op.null_basis[0])
    return Reason("null_space_left_out", count=count, rest=op.size - count)
