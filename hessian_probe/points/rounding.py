"""Rounding error at a point, measured, with the zero band and the gradient tolerance that follow from it.

Parameters one rounding away are the same parameters; what loss, gradient and product change between
the two is the accuracy with which they are known.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, accumulator, add_scaled, dot, norm
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import Objective
from hessian_probe.points.thresholds import (
    BAND_NOISE,
    BAND_REDUCED,
    BAND_ROUNDING,
    DECREASE_REDUCED,
    DECREASE_ROUNDINGS,
    ENTRY_EXCESS,
    ENTRY_FLOOR,
    GRADIENT_NOISE,
    GRADIENT_ROUNDING,
    ROUNDING_DRAWS,
    SLOPE_NOISE,
    VALUE_ROUNDING,
)
from hessian_probe.spectrum.thresholds import SIGN_MARGIN

SINGLE = float(np.finfo(np.float32).eps)


class Rounding:
    """Rounding error at a point: the largest change of a few draws that move the parameters by one rounding.

    Attributes:
        op: operator at the point.
        perturbed: operator at the parameters of the first draw.
        gradient: error of the gradient (norm), in loss / params.
        changes: changes of the gradient, one for each draw.
        product: largest error ‖H'v − Hv‖ (unit v) among the products compared, in loss / params².
    """

    def __init__(
        self,
        op: HessianOperator,
        perturbed: HessianOperator,
        value: float | None,
        gradient: float,
        changes: tuple[Vector, ...],
    ) -> None:
        self.op, self.perturbed = op, perturbed
        self._value, self.gradient, self.changes = value, gradient, changes
        self.product = 0.0

    @property
    def value(self) -> float:
        """Error of the loss."""
        return _value_rounding(self.op) if self._value is None else self._value

    @classmethod
    def measured(cls, op: HessianOperator, rng: np.random.Generator) -> Rounding:
        """Measure the error of loss and gradient at a point.

        Returns:
            The errors; products are compared later, by `compare_product` and `compare_quotient`.

        Cost:
            ROUNDING_DRAWS evaluations of loss and gradient.
        """
        first, *others = [perturbed_operator(op, rng) for _ in range(ROUNDING_DRAWS)]
        found = [(first.value, first.gradient_vector)]  # of which products are asked, too
        found += [op.objective.value_and_gradient(other.x) for other in others]
        changes = tuple(add_scaled(gradient, -1.0, op.gradient_vector) for _, gradient in found)
        value = _value_rounding(op) + max(abs(value - op.value) for value, _ in found)
        return cls(op, first, value, max(float(norm(c)) for c in changes), changes)

    @classmethod
    def unmeasured(cls, op: HessianOperator) -> Rounding:
        """Return the least error of the loss where none was measured; of gradients nothing is known."""
        return cls(op, op, None, math.inf, ())

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite one rounding away."""
        return math.isfinite(self.gradient) and math.isfinite(self.value)

    def widened(self, changes: list[Vector]) -> Rounding:
        """Return the errors with further changes of the gradient taken into account."""
        gradient = max(self.gradient, *(float(norm(change)) for change in changes))
        wider = Rounding(self.op, self.perturbed, self._value, gradient, (*self.changes, *changes))
        wider.product = self.product
        return wider

    def compare_product(self, v: Vector, product: Vector) -> None:
        """Compare a known product with that of the perturbed operator."""
        other = self.perturbed.apply(v)
        self.product = max(self.product, float(norm(add_scaled(other, -1.0, product))))

    def compare_quotient(self, v: Vector, value: float) -> float:
        """Residual ‖H'v − λv‖ of a Ritz vector, H' perturbed; the change of its quotient is an error."""
        product = self.perturbed.apply(v)
        self.product = max(self.product, abs(float(dot(v, product)) - value))
        return float(norm(add_scaled(product, -value, v)))

    def band(self, top: float, asymmetry: float = 0.0) -> float:
        """Half-width of the zero band, in loss / params², from ‖H‖ and the largest |⟨u,Hv⟩ − ⟨v,Hu⟩|."""
        eps = self.op.eps
        roundings = BAND_ROUNDING * math.sqrt(min(self.op.size, 100)) if eps <= SINGLE else BAND_REDUCED
        rounding = roundings * eps * top + self.op.objective.route.error(eps) * top
        return rounding + BAND_NOISE * max(self.product, asymmetry)

    def margin(self, top: float, asymmetry: float = 0.0) -> float:
        """Curvature beyond which a sign is shown."""
        return SIGN_MARGIN * self.band(top, asymmetry)

    def gradient_tolerance(self, top: float) -> float:
        """Gradient norm below which the gradient is zero to rounding, for an operator of norm `top`."""
        length = float(norm(self.op.x_vector))
        return GRADIENT_ROUNDING * self.op.eps * top * length + GRADIENT_NOISE * self.gradient

    def slope(self, direction: Vector) -> float:
        """Error of the slope along a unit direction."""
        if self.op.eps <= SINGLE:
            return self.gradient  # at least; what reduced precision does is too coarse for that
        along = max(abs(float(dot(direction, change))) for change in self.changes)
        return min(SLOPE_NOISE * along, self.gradient)

    def hides_slope(self, gradient: Vector, tolerance: float) -> bool:
        """Whether some entry of a gradient, small as a whole, is far above its own rounding."""
        # Rounding in a stiff variable makes the tolerance wide; a slope along a soft one hides in it.
        size = sum(leaf.size for leaf in gradient)
        floor = max(ENTRY_FLOOR * tolerance / math.sqrt(size), float(np.finfo(np.float32).tiny))
        return float(_largest_excess(gradient, self.changes, floor)) > ENTRY_EXCESS


def perturbed_operator(op: HessianOperator, rng: np.random.Generator) -> HessianOperator:
    """Move every variable by eps times the larger of its own size and its leaf's root mean square."""
    signs = tuple(rng.integers(0, 2, leaf.shape, np.int8) * np.int8(2) - np.int8(1) for leaf in op.x)
    return op.at(_moved(op.x_vector, signs, op.eps))


def decrease_margin(objective: Objective, value: float) -> float:
    """Smallest decrease from a loss of `value` that is more than rounding, without a measurement."""
    eps = float(jnp.finfo(objective.layout.dtype).eps)
    return max(DECREASE_ROUNDINGS * eps, DECREASE_REDUCED * objective.eps) * abs(value)


def _value_rounding(op: HessianOperator) -> float:
    return VALUE_ROUNDING * op.eps * abs(op.value)


@jax.jit
def _largest_excess(gradient: Vector, changes: tuple[Vector, ...], floor: Any) -> jax.Array:
    """Largest |gᵢ| / (max over draws |Δgᵢ| + floor)."""
    ratios = [jnp.zeros((), accumulator(gradient))]
    for index, leaf in enumerate(gradient):
        if leaf.size:
            noise = jnp.max(jnp.stack([jnp.abs(change[index]) for change in changes]), axis=0)
            ratio = jnp.max(jnp.abs(leaf) / (noise + jnp.asarray(floor).astype(leaf.dtype)))
            ratios.append(ratio.astype(ratios[0].dtype))
    return jnp.max(jnp.stack(ratios))


@jax.jit
def _moved(x: Vector, signs: Any, eps: float) -> Vector:
    def leaf(value: jax.Array, sign: jax.Array) -> jax.Array:
        size = jnp.sqrt(jnp.mean(jnp.square(value))) if value.size else jnp.zeros((), value.dtype)
        step = jnp.asarray(eps).astype(value.dtype) * sign.astype(value.dtype)
        return value + step * jnp.maximum(jnp.abs(value), size)

    return tuple(leaf(value, sign) for value, sign in zip(x, signs, strict=True))
