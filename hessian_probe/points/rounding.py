"""How much of a loss, gradient or product is rounding: measured by moving the parameters by one.

Parameters a rounding away are the same parameters; what loss, gradient and product change between
the two is the accuracy with which they are known.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, accumulator, add_scaled, cast, dot, norm
from hessian_probe.operators.hessian import HessianOperator

# A zero eigenvalue is computed as up to BAND_ROUNDING * eps * sqrt(min(n, 100)) * ||H||, and as up to
# BAND_NOISE times the measured change of a product.  With these no zero mode of `make truth`
# (Lennard-Jones, linear networks, degenerate points) gives a wrong label in float64 or float32.
BAND_ROUNDING = 8.0
BAND_NOISE = 8.0
# Where the loss computes in less than single precision, rounding is coarse enough to be measured in full,
# and what is not (constants rounded once) is below BAND_REDUCED * eps * ||H||.  With these, 180
# networks in bfloat16, float16 and TensorFloat-32 products, λ_min/‖H‖ from −0.5 to 0.2, were given no
# wrong label; the larger ones (215 variables) were decided from 0.02 ‖H‖ (TF32) and 0.1 ‖H‖ (bfloat16).
BAND_REDUCED = 2.0
SINGLE = float(np.finfo(np.float32).eps)
# The gradient at the float nearest a critical point is up to eps/2 * ||H|| * ||x||.
GRADIENT_ROUNDING = 4.0
GRADIENT_NOISE = 4.0
VALUE_ROUNDING = 4.0
# A slope changes along one direction by up to this many times what a few draws show.
SLOPE_NOISE = 4.0
# Draws of the rounding.  An entry of the gradient above EXCESS times its own change in all of them is a
# slope: by chance that happens once in EXCESS³ entries.  Entries below FLOOR_SHARE of what the tolerance
# allows each are left out.
DRAWS = 3
EXCESS = 1e3
FLOOR_SHARE = 1e-6


class Neighbour(NamedTuple):
    """The operator one rounding away, and what differs there (the most, of a few draws)."""

    operator: HessianOperator
    value_noise: float
    gradient_noise: float
    changes: tuple[Vector, ...]


def neighbour(op: HessianOperator, rng: np.random.Generator) -> Neighbour:
    """Evaluate loss and gradient one rounding away.

    Every variable moves by eps times the larger of its own size and its leaf's root mean square.

    Args:
        op: operator at the parameters.
        rng: source of the signs of the moves.

    Returns:
        The operator there, with the changes of loss and gradient.
    """
    eps = op.eps
    others = []
    for _ in range(DRAWS):
        signs = tuple(rng.integers(0, 2, leaf.shape, np.int8) * np.int8(2) - np.int8(1) for leaf in op.x)
        others.append(op.at(_moved(cast(op.x, op.layout.work_dtypes), signs, eps)))
    changes = tuple(add_scaled(o.gradient_vector, -1.0, op.gradient_vector) for o in others)
    value_noise = VALUE_ROUNDING * eps * abs(op.value) + max(abs(o.value - op.value) for o in others)
    return Neighbour(others[0], value_noise, max(float(norm(c)) for c in changes), changes)


def slope_noise(op: HessianOperator, near: Neighbour, direction: Vector) -> float:
    """Accuracy of the slope along a unit direction."""
    if op.eps <= SINGLE:
        return near.gradient_noise  # at least; what reduced precision does is too coarse for that
    along = max(abs(float(dot(direction, change))) for change in near.changes)
    return min(SLOPE_NOISE * along, near.gradient_noise)


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


def hides_slope(gradient: Vector, changes: tuple[Vector, ...], tolerance: float) -> bool:
    """Whether some entry of a gradient, small as a whole, is far above its own rounding."""
    # Rounding in a stiff variable makes the tolerance wide; a slope along a soft one hides in it.
    size = sum(leaf.size for leaf in gradient)
    floor = max(FLOOR_SHARE * tolerance / math.sqrt(size), float(np.finfo(np.float32).tiny))
    return float(_largest_excess(gradient, changes, floor)) > EXCESS


@jax.jit
def _moved(x: Vector, signs: Any, eps: float) -> Vector:
    def leaf(value: jax.Array, sign: jax.Array) -> jax.Array:
        size = jnp.sqrt(jnp.mean(jnp.square(value))) if value.size else jnp.zeros((), value.dtype)
        step = jnp.asarray(eps).astype(value.dtype) * sign.astype(value.dtype)
        return value + step * jnp.maximum(jnp.abs(value), size)

    return tuple(leaf(value, sign) for value, sign in zip(x, signs, strict=True))


class ProductNoise:
    """Largest change of a product ‖H'v − Hv‖ (unit v) between the operator and its neighbour."""

    def __init__(self, near: Neighbour) -> None:
        self.near = near
        self.largest = 0.0

    def measure(self, v: Vector, product: Vector) -> None:
        """Compare a known product with the neighbour's."""
        other = self.near.operator.apply(v)
        self.largest = max(self.largest, float(norm(add_scaled(other, -1.0, product))))

    def rayleigh(self, v: Vector, value: float) -> tuple[float, float]:
        """Multiply a Ritz vector at the neighbour.

        Returns:
            Its Rayleigh quotient there, and the residual ‖H'v − λv‖; the change of the quotient
            enters the noise.
        """
        product = self.near.operator.apply(v)
        quotient = float(dot(v, product))
        self.largest = max(self.largest, abs(quotient - value))
        return quotient, float(norm(add_scaled(product, -value, v)))

    def band(self, op: HessianOperator, top: float, asymmetry: float = 0.0) -> float:
        """Half-width of the zero band for an operator of norm `top`."""
        eps = op.eps
        roundings = BAND_ROUNDING * math.sqrt(min(op.size, 100)) if eps <= SINGLE else BAND_REDUCED
        rounding = roundings * eps * top
        rounding += op.objective.route.error(eps) * top
        return rounding + BAND_NOISE * max(self.largest, asymmetry)


def gradient_tolerance(op: HessianOperator, near: Neighbour, top: float) -> float:
    """Gradient norm below which the gradient is zero to rounding, in loss / params."""
    eps = op.eps
    length = float(norm(cast(op.x, op.layout.work_dtypes)))
    return GRADIENT_ROUNDING * eps * top * length + GRADIENT_NOISE * near.gradient_noise
