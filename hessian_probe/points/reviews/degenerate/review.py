"""From a degenerate verdict to a minimum, a maximum or a non-strict saddle, where that can be shown."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, row, unflatten_rows
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import DENSE_SIZE, ExtremeEigenpairs
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.points.reviews.degenerate.local_form import LocalForm, find_local_form
from hessian_probe.points.reviews.degenerate.lyapunov_schmidt import ReducedLoss
from hessian_probe.points.second_order import Verdict
from hessian_probe.spectrum.dense import dense_eigh

# A descent is straight where it leaves the flat space by at most this share of its length.
STRAIGHT = 1e-3
# Up to this number of variables all are taken as flat where no curvature was found; only a fall and a rise of
# the loss itself, both, are claims then.
ALL_FLAT = 2048


class Descent(NamedTuple):
    """A move to a lower loss, found where second order shows none.

    Attributes:
        move: displacement from the point.
        straight: whether the loss falls along it from the start.
    """

    move: Vector
    straight: bool


def review_degenerate(
    op: HessianOperator, extremes: ExtremeEigenpairs, verdict: Verdict, budget: int, rng: np.random.Generator
) -> tuple[Verdict, Descent | None]:
    """Decide a critical point where second order is silent.

    Args:
        op: operator at a point whose gradient is zero to rounding.
        extremes: what is known of its spectrum.
        verdict: the degenerate verdict by second order.
        budget: products that may be spent.
        rng: source of randomness.

    Returns:
        The verdict, never strict and never certified, and a move to a lower loss if one was found.

    Cost:
        n products if the spectrum is not known yet; evaluations: see `find_local_form`.
    """
    spectrum = extremes.spectrum
    if spectrum is None:
        variables = int(np.sum([np.prod(s) for on, s in zip(op.active, op.layout.shapes, strict=True) if on]))
        if (
            max(abs(e.value) for e in (extremes.low, extremes.high) if e is not None) <= extremes.band
            and op.size <= ALL_FLAT
        ):
            # No curvature at all: every direction is flat.
            spectrum = np.zeros(op.size), np.eye(op.size)
            return _all_flat(op, spectrum, extremes, verdict, budget, rng)
        if variables > DENSE_SIZE or variables < op.size or budget < op.size:
            return verdict.with_reasons(_need(op, variables)), None
        spectrum = dense_eigh(op)
    values = spectrum[0]
    up, down = bool(np.any(values > extremes.band)), bool(np.any(values < -extremes.band))
    if (up and down) or not np.any(np.abs(values) <= extremes.band):
        return verdict, None  # not what the extreme eigenpairs showed: rounding
    if up or down:
        sign = 1.0 if up else -1.0
        reduced = ReducedLoss(op, spectrum, extremes.band, sign, rng)
        return _one_sign(op, reduced, find_local_form(reduced, parameter_scale(op), budget), verdict)
    return _all_flat(op, spectrum, extremes, verdict, budget, rng)


def _need(op: HessianOperator, variables: int) -> Reason:
    if variables > DENSE_SIZE or variables < op.size:
        return Reason("higher_order_size", limit=DENSE_SIZE)
    return Reason("higher_order_budget", products=op.size)


def _one_sign(
    op: HessianOperator, reduced: ReducedLoss, found: LocalForm, verdict: Verdict
) -> tuple[Verdict, Descent | None]:
    """All curvature beyond the zero band has the sign of a minimum (`reduced.sign` +1) or a maximum."""
    evidence = (*verdict.evidence, found.reason)
    if found.kind == "falls":
        lower = _lower(op, reduced, found) if reduced.sign > 0 else None
        return Verdict("saddle", False, False, None, evidence), lower
    if found.kind in ("rises", "flat"):
        label = "minimum" if reduced.sign > 0 else "maximum"
        return Verdict(label, False, False, None, evidence), None
    return verdict._replace(evidence=evidence), None


def _all_flat(
    op: HessianOperator,
    spectrum: tuple[np.ndarray, np.ndarray],
    extremes: ExtremeEigenpairs,
    verdict: Verdict,
    budget: int,
    rng: np.random.Generator,
) -> tuple[Verdict, Descent | None]:
    """No curvature at all: f and −f are both explored."""
    below, above = (ReducedLoss(op, spectrum, extremes.band, sign, rng) for sign in (1.0, -1.0))
    found = find_local_form(below, parameter_scale(op), budget)
    if found.kind == "rises":
        return _one_sign(op, below, found, verdict)
    if found.kind == "flat":
        return verdict.with_reasons(Reason("neither_side", reason=found.reason)), None
    opposite = find_local_form(above, parameter_scale(op), budget)
    evidence = (*verdict.evidence, found.reason, opposite.reason)
    if opposite.kind == "rises":
        return Verdict("maximum", False, False, None, evidence), _lower(op, above, opposite)
    if found.kind == "falls" and opposite.kind == "falls":
        return Verdict("saddle", False, False, None, evidence), _lower(op, below, found)
    return verdict._replace(evidence=evidence), None


def _lower(op: HessianOperator, reduced: ReducedLoss, found: LocalForm) -> Descent | None:
    if found.lower is None:
        return None
    flat = reduced.moves(found.lower.z, found.lower.y)
    move = row(unflatten_rows(op.layout, flat), 0)
    bent = float(np.linalg.norm(found.lower.y)) > STRAIGHT * float(np.linalg.norm(found.lower.z))
    return Descent(move, not bent)
