"""Why a point cannot be classified: nothing finite or repeatable, or a derivative that is not the loss's."""

from __future__ import annotations

import math

import jax.numpy as jnp

from hessian_probe.arrays import first_nonfinite, generator, norm
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.line_check import derivative_check
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.thresholds import GRADIENT_JUMP, UNREPEATABLE

# Codes of what is wrong with a derivative.
FAULTS = ("gradient_nonfinite", "derivative_not_of_loss", "loss_jumps")


def nonfinite(op: HessianOperator) -> Reason | None:
    """Name what is not finite at the parameters themselves."""
    where = first_nonfinite(op.layout, op.x)
    if where:
        return Reason("params_nonfinite", where=where)
    if not math.isfinite(op.value):
        return Reason("loss_nonfinite", value=op.value)
    found = op.objective.nonfinite_gradient(op.x, op.gradient_vector)
    return Reason("gradient_nonfinite", found=found) if found else None


def derivative_fault(op: HessianOperator) -> Reason | None:
    """Say so if the gradient of a finite loss is not finite, or not that of the loss.

    Returns:
        The reason, one of FAULTS, or None.

    Cost:
        A gradient; ROUNDING_DRAWS more and up to 72 losses where the program has operations whose derivative
        need not be that of their value.
    """
    found = nonfinite(op)
    if found is not None:
        return found if found.code == "gradient_nonfinite" else None
    if not op.objective.facts.blind:
        return None
    rng = generator()
    rounding = Rounding.measured(op, rng)
    false = derivative_check(op, rounding, rng) if rounding.finite else None
    return None if false is None else false.reason


def no_product(extremes: ExtremeEigenpairs) -> Reason:
    """Say why there is not a single product."""
    if extremes.status == "interrupted":
        return Reason("interrupted", when="before the first Hessian-vector product")
    return Reason("product_nonfinite")


def not_repeatable(op: HessianOperator, extremes: ExtremeEigenpairs, rounding: Rounding) -> Reason | None:
    """Name the likely cause where gradients or products cannot be repeated."""
    moved = GRADIENT_JUMP * op.eps * float(norm(op.x_vector))
    expected = moved * (extremes.top + rounding.product)
    if rounding.gradient > UNREPEATABLE * float(norm(op.gradient_vector)) + expected:
        return Reason("gradient_not_repeatable", change=rounding.gradient)
    worst = max(rounding.product, extremes.asymmetry)
    if worst <= UNREPEATABLE * extremes.top or worst <= float(jnp.finfo(op.dtype).tiny):
        return None
    if extremes.top <= extremes.band and 0 < rounding.gradient <= moved * rounding.product:
        return None  # no curvature here, and a little one rounding away: a smooth loss of higher order
    share = worst / extremes.top if extremes.top else math.inf
    if extremes.asymmetry > rounding.product:
        return Reason("product_not_symmetric", share=share)
    return Reason("product_not_repeatable", share=share)
