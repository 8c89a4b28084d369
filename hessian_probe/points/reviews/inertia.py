"""Signs of a badly scaled spectrum: the inertia of D H D, which Sylvester's law says is that of H.

Parameters in units a millionfold apart put small eigenvalues below the rounding of large ones.  With
D = 1/√|diag H| every variable has curvature ±1, and what is left is the conditioning that no units cause.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, flatten, scale, unflatten
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.line_check import line_check, parameter_scale
from hessian_probe.points.measurements import Measurements
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.thresholds import BAND_NOISE, BAND_ROUNDING, NEAR, REGULAR_KEPT, SPREAD, STEP_NOISE
from hessian_probe.points.verdict import Descent, Verdict
from hessian_probe.spectrum.thresholds import SIGN_MARGIN


class Inertia(NamedTuple):
    """Eigenvalues of D H D, ascending (pure numbers), with the band that rounding hides.

    Attributes:
        values: shape (n,).
        band: half-width of the zero band.
        newton: H⁻¹ in these units, shape (n, n).
        steps: H⁻¹ times the gradient and its changes over one rounding, by column, in params.
        low: unit vector along D w, w the lowest eigenvector; the curvature of H along it has that sign.
        curvature: that curvature, in loss / params².
        spread: largest over smallest diagonal entry in magnitude.
    """

    values: np.ndarray
    band: float
    newton: np.ndarray
    steps: np.ndarray
    low: Vector
    curvature: float
    spread: float


def scaled_inertia(op: HessianOperator, rounding: Rounding) -> Inertia | None:
    """Compute the signs of the Hessian's eigenvalues in units that make its diagonal ±1.

    The band comes from the same matrix one rounding away, in the same units: entries are rounded
    relative to their own rows and columns only where the loss computes them so, and this measures it.

    Returns:
        The inertia, or None where a diagonal entry is not known, or the diagonal is well scaled.

    Cost:
        2 n products, and four n by n matrices.

    Source:
        J. J. Sylvester, Philosophical Magazine 4, 1852 (law of inertia); diagonal scaling:
        A. van der Sluis, Numer. Math. 14, 1969, doi:10.1007/BF02165096.
    """
    matrix, other = op.dense(), rounding.perturbed.dense()
    if not (np.all(np.isfinite(matrix)) and np.all(np.isfinite(other))):
        return None
    diagonal, moved = np.abs(np.diag(matrix)), np.abs(np.diag(other) - np.diag(matrix))
    if np.any(diagonal <= BAND_NOISE * moved) or np.any(diagonal == 0):
        return None
    spread = float(np.max(diagonal) / np.min(diagonal))
    if spread < SPREAD:
        return None
    scales = 1 / np.sqrt(diagonal)
    scaled, noise = (scales[:, None] * m * scales for m in (matrix, other - matrix))
    values, vectors = np.linalg.eigh(scaled)
    eigh_error = BAND_ROUNDING * op.eps * np.sqrt(min(op.size, 100)) * float(np.max(np.abs(values)))
    band = eigh_error + BAND_NOISE * float(np.linalg.norm(noise, 2))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gradients = np.stack([flatten(v) for v in (op.gradient_vector, *rounding.changes)])
        newton = scales[:, None] * ((vectors / values) @ vectors.T) * scales
        steps = newton @ gradients.T
    direction = scales * vectors[:, 0]
    length = float(np.linalg.norm(direction))
    low = unflatten(op.layout, direction / length)
    return Inertia(values, band, newton, steps, low, float(values[0]) / length**2, spread)


def applies(m: Measurements, verdict: Verdict) -> bool:
    """Whether second order is silent, the whole spectrum is known and the diagonal is badly scaled."""
    if verdict.label != "degenerate" or m.problem is not None:
        return False
    op, extremes = verdict.judged or m.here
    if extremes.spectrum is None or len(extremes.spectrum[0]) != op.size or m.left < 2 * op.size:
        return False
    values, vectors = extremes.spectrum
    diagonal = np.abs(np.square(vectors) @ values)
    return bool(np.max(diagonal) > SPREAD * np.min(diagonal))


def review(m: Measurements, verdict: Verdict) -> Verdict:
    """Decide by the scaled inertia what the spectrum itself leaves in the zero band."""
    op = (verdict.judged or m.here).operator
    rounding = Rounding.measured(op, m.rng)
    found = scaled_inertia(op, rounding)
    if found is None or not _near(op, found):
        return verdict
    low, high, margin = found.values[0], found.values[-1], SIGN_MARGIN * found.band
    signs = [int(np.sign(value)) if abs(value) > margin else 0 for value in (low, high)]
    label = {(1, 1): "minimum", (-1, -1): "maximum", (-1, 1): "saddle"}.get((signs[0], signs[1]))
    check = line_check(op, found.low, found.curvature, rounding)
    if label is None or not check.confirmed_by:
        return verdict
    evidence = (
        Reason("inertia", spread=found.spread, low=low, high=high, band=found.band),
        Reason("inertia_confirmed", of=check.confirmed_by, measured=check.measured),
    )
    decided = verdict.relabelled(label, *evidence, *verdict.evidence, strict=True)._replace(certified=True)
    if label != "saddle":
        return decided
    return decided._replace(lower=Descent(scale(check.radius, found.low), straight=True))


def _near(op: HessianOperator, found: Inertia) -> bool:
    """Whether the Newton step is short, and is rounding or leads to where the gradient vanishes."""
    if not np.max(np.linalg.norm(found.steps, axis=0)) <= NEAR * parameter_scale(op):
        return False
    size = np.abs(flatten(op.x_vector))
    rounding = STEP_NOISE * (np.max(np.abs(found.steps[:, 1:]), axis=1) + op.eps * size)
    step = found.steps[:, 0]
    if np.all(np.abs(step) <= rounding):
        return True
    there = op.moved(unflatten(op.layout, step), -1.0)
    left = found.newton @ flatten(there.gradient_vector)
    return bool(np.all(np.abs(left) <= REGULAR_KEPT * np.abs(step) + rounding))
