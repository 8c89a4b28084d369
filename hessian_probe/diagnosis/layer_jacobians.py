"""Derivatives inside a model: of the loss by each layer's output, and of activations by their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.programs.layers import run_model, trace_model


def layer_gradients(loss: Callable[..., Any], params: Any, batch: Any) -> tuple[list[float], bool]:
    """Norms of the loss's gradient by each layer's output, first to last; whether there are loops."""
    program, count = trace_model(loss, params, batch)
    first = jax.eval_shape(lambda p, b: run_model(program, count, p, b).layers, params, batch)
    seen = {}

    def tapped(taps: Any, at: Any, data: Any) -> Any:
        found = run_model(program, count, at, data, taps)
        seen["loops"] = found.loops
        return found.output

    zero = tuple(jnp.zeros(leaf.shape, leaf.dtype) for leaf in first)
    gradients = jax.jit(jax.grad(tapped))(zero, params, batch)
    return [float(jnp.linalg.norm(leaf.ravel())) for leaf in gradients], bool(seen["loops"])


def activation_slopes(
    program: Any, num_params: int, params: Any, batch: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs of layers that come from earlier layers through activations of no known name, and their slopes.

    Returns:
        For each, the values, and the size of their directional derivative along random signs ±1 at every
        layer's output: where only an activation lies between, that is the activation's derivative.
    """
    shapes = jax.eval_shape(lambda p, b: run_model(program, num_params, p, b).layers, params, batch)
    rng = np.random.default_rng(0)
    signs = tuple(jnp.asarray(rng.choice((-1.0, 1.0), s.shape), s.dtype) for s in shapes)
    named: list[bool] = []

    @jax.jit
    def read(taps: Any, at: Any, data: Any) -> tuple[list[jax.Array], list[jax.Array]]:
        def values(taps: Any) -> list[jax.Array]:
            found = run_model(program, num_params, at, data, taps, cut=True).read
            named[:] = [known for _, known in found]
            return [value for value, _ in found]

        return jax.jvp(values, (jax.tree.map(jnp.zeros_like, taps),), (taps,))

    values, changes = read(signs, params, batch)
    return [
        (np.asarray(value, np.float64), np.abs(np.asarray(change, np.float64)))
        for value, change, known in zip(values, changes, named, strict=True)
        if not known
    ]
