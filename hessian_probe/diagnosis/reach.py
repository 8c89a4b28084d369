"""What outputs of a model can be, whatever its parameters: directions that they follow, a range they keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis.trial import float_leaf

# Samples at which the rank of the model's slope is taken, and the share of its largest singular value below
# which one is rounding of float32.
FEW = 8
RANK = 1e-4
# Factors on random parameters, far enough that outputs without a bound leave [-1, 1] and grow; how much the
# largest output may differ between them where it does not.
FAR = (10.0, 100.0)
SAME = 0.1
# Draws after which outputs of which none was negative are taken to be never so.
DRAWS = 12
ROUNDING = 1e-5


def width(apply: Callable[..., Any], params: Any, inputs: np.ndarray) -> float:
    """Directions of the inputs that outputs follow: the width of the narrowest layer.

    Args:
        apply: `apply(params, inputs)`.
        params: parameters, drawn at random.
        inputs: shape (n, …).

    Returns:
        The number; infinite where the model cannot take one sample, or inputs are no floats.
    """
    if inputs.dtype.kind != "f":
        return math.inf

    def one(x: jax.Array) -> jax.Array:
        return jnp.ravel(apply(params, x[None]))

    some = jnp.asarray(inputs[:: max(1, len(inputs) // FEW)][:FEW])
    try:
        slopes = np.asarray(jax.jit(jax.vmap(jax.jacrev(one)))(some), np.float64)
    except Exception:  # a model that cannot take one sample
        return math.inf
    flat = np.nan_to_num(slopes.reshape(*slopes.shape[:2], -1))
    found = np.linalg.svd(flat, compute_uv=False)
    return int(np.max(np.sum(found > RANK * found[:, :1], axis=1)))


def limits(apply: Callable[..., Any], params: Any, inputs: np.ndarray) -> tuple[float, float]:
    """A range that outputs keep to: within [-1, 1] behind a tanh, a sigmoid or a softmax; never below zero.

    It is seen, not proved: at parameters far out, and ten times farther; that nothing is negative, at several
    small and large ones.

    Args:
        apply: `apply(params, inputs)`.
        params: parameters; only shapes count.
        inputs: shape (n, …).

    Returns:
        (0, 1), (-1, 1) or (0, inf); (-inf, inf) where there is no such range.
    """
    rng, some, outputs_of = np.random.default_rng(0), jnp.asarray(inputs), jax.jit(apply)

    def drawn() -> Any:
        return jax.tree.map(lambda x: rng.standard_normal(x.shape) if float_leaf(x) else x, params)

    def outputs(at: Any, factor: float) -> np.ndarray:
        scaled = jax.tree.map(
            lambda x, f: jnp.asarray(factor * f, x.dtype) if float_leaf(x) else x, params, at
        )
        return np.asarray(outputs_of(scaled, some), np.float64)

    at = drawn()
    found = [outputs(at, factor) for factor in FAR]
    if not all(np.all(np.isfinite(out)) for out in found):
        return -math.inf, math.inf
    near, last = (float(np.abs(out).max()) for out in found)
    low = min(float(out.min()) for out in found)
    if 0 < near <= 1 + ROUNDING and last <= 1 + ROUNDING and abs(last - near) <= SAME * near:
        return (0.0 if low >= 0 else -1.0), 1.0
    sizes = np.geomspace(1 / FAR[0], FAR[0], DRAWS)
    never = low >= 0 and all(np.all(outputs(drawn(), size) >= 0) for size in sizes)
    return (0.0 if never else -math.inf), math.inf
