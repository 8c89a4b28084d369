"""Why a point cannot be classified at all: nothing finite, or nothing that can be repeated."""

from __future__ import annotations

import math

import jax.numpy as jnp

from hessian_probe.arrays import cast, first_nonfinite, norm
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.rounding import Rounding

# A product that changes by more than this share of ‖H‖ between two evaluations a rounding apart
# cannot carry a verdict: the loss is random, its data change, or it is not smooth here.
UNSTABLE = 0.05
# Moving the parameters by one rounding changes the gradient by about eps ‖H‖ ‖x‖; this many are allowed.
GRADIENT_ROUNDINGS = 1e3


def nonfinite(op: HessianOperator) -> Reason | None:
    """Name what is not finite at the parameters themselves."""
    where = first_nonfinite(op.layout, op.x)
    if where:
        return Reason("params_nonfinite", where=where)
    if not math.isfinite(op.value):
        return Reason("loss_nonfinite", value=op.value)
    where = first_nonfinite(op.layout, op.gradient_vector)
    return Reason("gradient_nonfinite", where=where) if where else None


def no_product(extremes: ExtremeEigenpairs) -> Reason:
    """Say why there is not a single product."""
    if extremes.status == "interrupted":
        return Reason("interrupted", when="before the first Hessian-vector product")
    return Reason("product_nonfinite")


def not_repeatable(op: HessianOperator, extremes: ExtremeEigenpairs, rounding: Rounding) -> Reason | None:
    """Name the likely cause where gradients or products cannot be repeated."""
    moved = GRADIENT_ROUNDINGS * op.eps * float(norm(cast(op.x, op.layout.work_dtypes)))
    expected = moved * (extremes.top + rounding.product)
    if rounding.gradient > UNSTABLE * float(norm(op.gradient_vector)) + expected:
        return Reason("gradient_not_repeatable", change=rounding.gradient)
    worst = max(rounding.product, extremes.asymmetry)
    if worst <= UNSTABLE * extremes.top or worst <= float(jnp.finfo(op.dtype).tiny):
        return None
    if extremes.top <= extremes.band and 0 < rounding.gradient <= moved * rounding.product:
        return None  # no curvature here, and a little one rounding away: a smooth loss of higher order
    share = worst / extremes.top if extremes.top else math.inf
    if extremes.asymmetry > rounding.product:
        return Reason("product_not_symmetric", share=share)
    return Reason("product_not_repeatable", share=share)
