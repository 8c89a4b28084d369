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
    """A range within [-1, 1] that outputs keep to, as behind a tanh, a sigmoid or a softmax.

    It is seen, not proved: at parameters far out, and ten times farther.

    Args:
        apply: `apply(params, inputs)`.
        params: parameters; only shapes count.
        inputs: shape (n, …).

    Returns:
        (0, 1) or (-1, 1); (-inf, inf) where there is no such range.
    """
    rng = np.random.default_rng(0)

    def leaf(x: Any) -> Any:
        return rng.standard_normal(x.shape) if float_leaf(x) else x

    far = jax.tree.map(leaf, params)
    found = []
    for factor in FAR:
        at = jax.tree.map(
            lambda x, f, factor=factor: jnp.asarray(factor * f, x.dtype) if float_leaf(x) else x, params, far
        )
        out = np.asarray(jax.jit(apply)(at, jnp.asarray(inputs)), np.float64)
        if not np.all(np.isfinite(out)):
            return -math.inf, math.inf
        found.append(out)
    near, last = (float(np.abs(out).max()) for out in found)
    if not (0 < near <= 1 + ROUNDING and last <= 1 + ROUNDING and abs(last - near) <= SAME * near):
        return -math.inf, math.inf
    return (0.0 if min(out.min() for out in found) >= 0 else -1.0), 1.0
