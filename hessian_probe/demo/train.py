"""Plain gradient descent on the whole data set, compiled, with the loss of every step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Steps in one compiled call; between calls there is progress, and Ctrl-C is heard.
CHUNK = 250

Loss = Callable[[Any, Any], jax.Array]
Accuracy = Callable[[Any], float]


class Training(NamedTuple):
    """A stretch of training.

    Attributes:
        params: where it ended.
        losses: shape (steps + 1,): the loss before each step and at the end.
        accuracies: share of samples that are right, by number of steps taken.
    """

    params: Any
    losses: np.ndarray
    accuracies: dict[int, float]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _steps(loss: Loss, params: Any, data: Any, rate: float, count: int) -> tuple[Any, jax.Array]:
    def step(at: Any, _: None) -> tuple[Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(at, data)
        return jax.tree.map(lambda leaf, slope: leaf - rate * slope, at, gradient), value

    return jax.lax.scan(step, params, None, length=count)


def descend(
    loss: Loss,
    params: Any,
    data: Any,
    *,
    rate: float,
    num_steps: int,
    accuracy: Accuracy,
    progress: Callable[[str], None],
    stalled: Callable[[np.ndarray], bool] | None = None,
) -> Training:
    """Train by plain gradient descent.

    Args:
        loss: `loss(params, data)`.
        params: start.
        data: the one batch.
        rate: learning rate.
        num_steps: steps, a multiple of `CHUNK`.
        accuracy: share of samples that are right at given parameters.
        progress: called with a line of text after every chunk.
        stalled: told the losses so far after every chunk; True ends the training.

    Returns:
        The stretch of training.
    """
    losses, accuracies = np.zeros(0), {0: accuracy(params)}
    while len(losses) < num_steps:
        params, values = _steps(loss, params, data, rate, CHUNK)
        losses = np.append(losses, np.asarray(values, np.float64))
        accuracies[len(losses)] = accuracy(params)
        progress(f"step {len(losses)}: loss {losses[-1]:.4f}")
        if stalled is not None and stalled(losses):
            break
    return Training(params, np.append(losses, float(_value(loss, params, data))), accuracies)


@functools.partial(jax.jit, static_argnums=0)
def _value(loss: Loss, params: Any, data: Any) -> jax.Array:
    return loss(params, data)


@functools.partial(jax.jit, static_argnums=(0, 5))
def random_steps(loss: Loss, params: Any, data: Any, length: float, key: jax.Array, count: int) -> jax.Array:
    """Evaluate the loss one step away in random directions, as a control.

    Args:
        loss: `loss(params, data)`.
        params: where the steps start.
        data: the one batch.
        length: length of each step, in params.
        key: random key.
        count: number of directions, each uniform on the sphere.

    Returns:
        Losses, shape (count,).
    """

    def one(key: jax.Array) -> jax.Array:
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        moves = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        size = jnp.sqrt(sum(jnp.sum(move**2) for move in moves))
        moved = [leaf + length / size * move for leaf, move in zip(leaves, moves, strict=True)]
        return loss(jax.tree.unflatten(structure, moved), data)

    return jax.vmap(one)(jax.random.split(key, count))
