"""Verdicts in a sentence, for readers who do not know the labels yet."""

from __future__ import annotations

from hessian_probe.escapes.result import Escape
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import number, signed
from hessian_probe.spectrum.result import EigenResult

ADVICE = {
    "saddle": "There is a way down: `hp.escape` takes it.",
    "maximum": "Every direction leads down: `hp.escape` takes one.",
    "minimum": "There is nothing to escape: look at the model or the data.",
    "degenerate": "Second order does not decide; the evidence says what was seen.",
    "not_critical": "The gradient still leads down: go on training.",
    "undetermined": "The evidence says what an answer would take.",
}


def verdict(point: CriticalPoint, *, advice: bool = True) -> str:
    """Say in a sentence what a classification found, and in another what to do about it."""
    low, high = _curvature(point.lowest), _curvature(point.highest)
    between = f"curvature {low} to {high}" if low and high else "no curvature known"
    change = f"{number(point.gain, 2)} within {number(point.reach, 2)} of here"
    found = {
        "saddle": f"A saddle: the loss curves down along one direction ({low}) and up along "
        f"another ({high}).",
        "minimum": f"A minimum: the loss can fall by at most {change} ({between}).",
        "maximum": f"A maximum: the loss can rise by at most {change} ({between}).",
        "degenerate": f"A degenerate point: flat to second order along some direction ({between}).",
        "not_critical": f"Not a critical point: the gradient norm is {number(point.grad_norm, 3)}, and the "
        f"loss can fall by up to {change} ({between}).",
        "undetermined": f"Undetermined ({between}).",
    }
    return f"{found[point.label]} {ADVICE[point.label]}" if advice else found[point.label]


def outcome(move: Escape) -> str:
    """Say in a sentence what an escape brought."""
    if move.status == "escaped":
        return (
            f"Escaped: one step of length {number(move.distance, 3)} took the loss from "
            f"{number(move.loss_before, 5)} to {number(move.loss_after, 5)}."
        )
    said = {
        "nothing_to_escape": "Nothing to escape.",
        "no_decrease": "Not escaped: no step along the direction lowers the loss.",
        "undetermined": "Not escaped: no direction of negative curvature is known.",
    }
    return said[move.status]


def _curvature(end: EigenResult) -> str:
    """The extreme eigenvalue of one end, with its error."""
    if not len(end.eigenvalues):
        return ""
    return f"{signed(end.eigenvalues[0], 3)} ± {number(end.residual_norms[0], 1)}"
