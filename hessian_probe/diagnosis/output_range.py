"""What outputs of a model can be, whatever its parameters: directions that they follow, a range they keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.optimizers.trial_runs import float_leaf

# Samples at which the rank of the model's slope is taken, and the share of its largest singular value below
# which one is rounding of float32.
FEW = 8
RANK = 1e-4
# Draws of parameters, from a tenth to ten times a normal deviation, and how many inputs each sees.
DRAWS = 8
FAR = 10.0
MANY = 64
# A range within [-1, 1] is one only if it was nearly filled.
NEARLY = 0.9
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

    It is seen, not proved: at random parameters and their opposites, small and far out, and for inputs ten
    times as large.  A range within [-1, 1] must be nearly reached, and left by none of them.

    Args:
        apply: `apply(params, inputs)`.
        params: parameters; only shapes count.
        inputs: shape (n, …).

    Returns:
        (0, 1), (-1, 1) or (0, inf); (-inf, inf) where there is no such range, or where outputs at such
        parameters cannot be had.
    """
    try:
        low, high = _range(apply, params, inputs)
    except Exception:  # not every function takes any parameters
        return -math.inf, math.inf
    if NEARLY <= max(high, -low) <= 1 + ROUNDING and low >= -1 - ROUNDING:
        return (0.0 if low >= 0 else -1.0), 1.0
    return (0.0 if low >= 0 else -math.inf), math.inf


def _range(apply: Callable[..., Any], params: Any, inputs: np.ndarray) -> tuple[float, float]:
    """Least and greatest output that was seen; infinite where one is not finite."""
    rng = np.random.default_rng(0)
    some = inputs[:: max(1, len(inputs) // MANY)][:MANY]
    larger = some * np.asarray(FAR, some.dtype) if some.dtype.kind == "f" else some
    run = jax.jit(lambda at, x: apply(at, x))
    low, high = math.inf, -math.inf
    for size in np.geomspace(1 / FAR, FAR, DRAWS):
        drawn = jax.tree.map(lambda x: rng.standard_normal(np.shape(x)) if float_leaf(x) else x, params)
        for sign in (1, -1):
            at = jax.tree.map(
                lambda x, f, by=size * sign: jnp.asarray(by * f, x.dtype) if float_leaf(x) else x,
                params,
                drawn,
            )
            for rows in (some, larger):
                out = np.asarray(run(at, jnp.asarray(rows)), np.float64)
                if not np.all(np.isfinite(out)):
                    return -math.inf, math.inf
                low, high = min(low, float(out.min())), max(high, float(out.max()))
    return low, high
