"""What recipes of failures share: optimisers, and changes of the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.zoo.layers import Params

cosine = optax.cosine_decay_schedule


def nesterov(rate: Any, momentum: float) -> Any:
    """Gradient descent with Nesterov's momentum."""
    return optax.sgd(rate, momentum, nesterov=True)


def warm_cosine(rate: float, warm: int, steps: int) -> Any:
    """A linear warm-up to a rate, then a cosine."""
    return optax.warmup_cosine_decay_schedule(0.0, rate, warm, steps)


def clipped(norm: float, optimizer: Any) -> Any:
    """An optimiser behind gradients that are clipped to a norm."""
    return optax.chain(optax.clip_by_global_norm(norm), optimizer)


def cut_to(limit: float) -> Any:
    """After each step, weights beyond a limit are set to it."""

    def update(updates: Any, state: Any, params: Params = None) -> Any:
        moves = jax.tree.map(lambda at, move: jnp.clip(at + move, -limit, limit) - at, params, updates)
        return moves, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def same(params: Params) -> Params:
    """The start as it is drawn."""
    return params


def at(by: Callable[[Any], Any], *paths: tuple[Any, ...]) -> Callable[[Params], Params]:
    """A change of the start: of the arrays at paths of keys."""

    def changed(params: Params, path: tuple[Any, ...]) -> Params:
        if not path:
            return by(params)
        key, *rest = path
        params = params.copy()
        params[key] = changed(params[key], tuple(rest))
        return params

    def change(params: Params) -> Params:
        for path in paths:
            params = changed(params, path)
        return params

    return change


def every(by: Callable[[Any], Any]) -> Callable[[Params], Params]:
    """A change of the weights of every layer of a dense network."""
    return lambda params: [{**layer, "w": by(layer["w"])} for layer in params]
