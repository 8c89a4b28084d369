"""Why a point cannot be classified at all: nothing finite, or nothing that can be repeated."""

from __future__ import annotations

import math

import jax.numpy as jnp

from hessian_probe.arrays import cast, first_nonfinite, norm
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.rounding import Rounding
from hessian_probe.results import number

# A product that changes by more than this share of ‖H‖ between two evaluations a rounding apart
# cannot carry a verdict: the loss is random, its data change, or it is not smooth here.
UNSTABLE = 0.05
# Moving the parameters by one rounding changes the gradient by about eps ‖H‖ ‖x‖; this many are allowed.
GRADIENT_ROUNDINGS = 1e3
RANDOMNESS = (
    "when the parameters move by one rounding: randomness in the loss (a dropout key, data that change "
    "between passes), a kink, or too little precision; fix the key and the data, or use float64"
)


def nonfinite(op: HessianOperator) -> str:
    """Name what is not finite at the parameters themselves."""
    where = first_nonfinite(op.layout, op.x)
    if where:
        return f"{where} holds a NaN or an infinity"
    if not math.isfinite(op.value):
        return f"the loss is {op.value} at these parameters"
    where = first_nonfinite(op.layout, op.gradient_vector)
    return f"the gradient with respect to {where} is not finite" if where else ""


def no_product(extremes: ExtremeEigenpairs) -> str:
    """Say why there is not a single product."""
    if extremes.status == "interrupted":
        return "interrupted before the first product"
    return "a Hessian-vector product is not finite here, though loss and gradient are: no second derivative"


def not_repeatable(op: HessianOperator, extremes: ExtremeEigenpairs, rounding: Rounding) -> str:
    """Name the likely cause where gradients or products cannot be repeated."""
    moved = GRADIENT_ROUNDINGS * op.eps * float(norm(cast(op.x, op.layout.work_dtypes)))
    expected = moved * (extremes.top + rounding.product)
    if rounding.gradient > UNSTABLE * float(norm(op.gradient_vector)) + expected:
        return f"the gradient changes by {number(rounding.gradient, 2)} {RANDOMNESS}"
    worst = max(rounding.product, extremes.asymmetry)
    if worst <= UNSTABLE * extremes.top or worst <= float(jnp.finfo(op.dtype).tiny):
        return ""
    if extremes.top <= extremes.band and 0 < rounding.gradient <= moved * rounding.product:
        return ""  # no curvature here, and a little one rounding away: a smooth loss of higher order
    share = number(worst / extremes.top if extremes.top else math.inf, 2)
    if extremes.asymmetry > rounding.product:
        return (
            f"products are not symmetric (by {share} of ‖H‖): the gradient is not that of one loss; "
            "a custom derivative, or a loss whose randomness depends on the parameters"
        )
    return f"products change by {share} of ‖H‖ {RANDOMNESS}"
