"""The Newton step of the local quadratic model, or the reason why none is accepted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, flatten, host_norm, norm, row, scale, unflatten
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.thresholds import UNEXPLAINED
from hessian_probe.spectrum.krylov import Krylov


class NewtonStep(NamedTuple):
    """Newton step of the quadratic model.

    Attributes:
        vector: s, or None if there is none.
        unexplained: ‖g + Hs‖ / ‖g‖.
        change: ½ Σ gᵢ²/|λᵢ| over the spectrum seen, what the step changes the loss by at most.
        outcome: "solved", "flat", "beyond" (too long), "costly" (too large a change) or "budget".
        space: Krylov space of the gradient, as far as it was built, or None.
    """

    vector: Vector | None
    unexplained: float
    change: float
    outcome: str
    space: Krylov | None = None


def krylov_step(
    op: HessianOperator,
    band: float,
    goal: float,
    limits: tuple[float, float],
    rng: np.random.Generator,
    budget: int,
    gradient: Vector | None = None,
) -> NewtonStep:
    """Solve H s = −g with the least remainder in the gradient's Krylov space.

    A remainder r = g + Hs bounds what any solution must do: ½ Σ gᵢ²/|λᵢ| ≥ ½ ‖r‖³/‖Hr‖, by Cauchy and
    Schwarz, since r is orthogonal to H times the space.  Where that is too much the search ends.

    Args:
        op: operator.
        band: zero band.
        goal: remainder to reach, relative to the gradient.
        limits: longest step, and largest change of the loss, that would be accepted.
        rng: source of randomness.
        budget: products allowed.
        gradient: what is to vanish in place of the operator's own gradient.

    Returns:
        The step found, with how the search ended.
    """
    gradient = op.gradient_vector if gradient is None else gradient
    length = float(norm(gradient))
    if budget < 1:
        return NewtonStep(None, 1.0, 0.0, "budget")
    krylov = Krylov(op, gradient, rng, budget, op.active)
    y, rest, outcome, least = np.zeros(0), np.ones(1), "budget", 0.0
    while krylov.step():
        matrix = krylov.extended()
        product = host_norm(matrix @ rest)
        if product > 0:
            least = 0.5 * length * (length * float(np.linalg.norm(rest)) ** 3 / product)
        # Singular values within the band are left out.
        target = np.eye(1, len(matrix))[0]
        top = float(np.linalg.norm(matrix, 2))
        y = np.linalg.lstsq(matrix, -target, rcond=band / top if top > 0 else 1.0)[0]
        rest = target + matrix @ y
        if np.linalg.norm(rest) <= goal:
            outcome = "solved"
        elif least > limits[1]:
            outcome = "costly"
        elif length * host_norm(y) > limits[0]:
            outcome = "beyond"
        elif krylov.invariant or krylov.exhausted:
            outcome = "flat"
        if outcome != "budget":
            break
    unexplained = float(np.linalg.norm(rest))
    if krylov.size == 0 or outcome == "costly":
        return NewtonStep(None, unexplained, least, outcome, krylov)
    ritz = krylov.ritz()
    beyond = np.abs(ritz.values) > band
    parts = ritz.weights[0, beyond] ** 2 * (length / np.abs(ritz.values[beyond]))
    change = 0.5 * length * float(np.sum(parts))
    vector = scale(length, row(krylov.vectors(y[:, None]), 0))
    return NewtonStep(vector, unexplained, change, outcome, krylov)


def dense_step(op: HessianOperator, spectrum: tuple[np.ndarray, np.ndarray], band: float) -> NewtonStep:
    """Solve H s = −g by the whole spectrum, eigenvalues within the zero band left out."""
    values, vectors = spectrum
    inside = np.abs(values) > band
    length = float(norm(op.gradient_vector))
    gradient = flatten(op.gradient_vector) / length
    parts = vectors.T @ gradient  # of the unit gradient: squares of tiny or huge ones do not exist
    steps = length / values[inside] * parts[inside]
    rest = float(np.sqrt(max(1.0 - np.sum(parts[inside] ** 2), 0.0)))
    change = 0.5 * length * float(np.sum(np.abs(steps * parts[inside])))
    step = unflatten(op.layout, vectors[:, inside] @ -steps)
    return NewtonStep(step, rest, change, "solved" if rest <= UNEXPLAINED else "flat")


def split_gradient(
    op: HessianOperator, gradient: Vector, spectrum: tuple[np.ndarray, np.ndarray], band: float
) -> tuple[float, float]:
    """Length of a gradient's Newton step outside the zero band, and of the gradient inside it."""
    values, vectors = spectrum
    inside = np.abs(values) > band
    parts = vectors.T @ flatten(gradient)
    return host_norm(parts[inside] / values[inside]), host_norm(parts[~inside])
