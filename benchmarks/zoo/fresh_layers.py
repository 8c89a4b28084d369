"""Fresh plants: troubles of units, layers and inputs.  `cured=True` is the same without the trouble."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.fresh_steps import top
from benchmarks.zoo.models import Params, convolutional, dense, pooled, recurrent, residual
from benchmarks.zoo.samples import cancer as raw_cancer
from benchmarks.zoo.samples import diabetes, raw_wine, split, whitened
from benchmarks.zoo.training import Run, fit, squared


def unchanged(params: Params) -> Params:
    """The start as it is drawn."""
    return params


def one_unit_left(seed: int, cured: bool = False) -> Run:
    """Biases of -7 on inputs of deviation 1: 23 of 24 units are zero for all patients."""

    def change(params: Params) -> Params:
        return [{**params[0], "b": jnp.full(24, -7.0, jnp.float32).at[0].set(0.0)}, *params[1:]]

    model, move = dense((10, 24, 1), "relu", 1.4), unchanged if cured else change
    optimizer = optax.sgd(0.05, 0.9, nesterov=True)
    return fit(model, *diabetes(seed), optimizer, 300, seed, objective=squared, change=move)


def negative_weights(seed: int, cured: bool = False) -> Run:
    """Concentrations are positive, and so all products with negative weights are below zero."""

    def change(params: Params) -> Params:
        return [{**params[0], "w": -jnp.abs(params[0]["w"])}, *params[1:]]

    train, test = raw_wine(seed)
    scale = train[0].max(0)
    parts = [((x / scale).astype(np.float32), y) for x, y in (train, test)]
    optimizer = optax.rmsprop(2e-3)
    return fit(
        dense((13, 24, 3), "relu", 1.4),
        *parts,
        optimizer,
        200,
        seed,
        change=unchanged if cured else change,
        batch=40,
    )


def saturated_output(seed: int, cured: bool = False) -> Run:
    """A sigmoid at the output that starts at 1 for all samples, with a squared error.

    Source: M. Nielsen (2015), Neural Networks and Deep Learning, chapter 3: the learning slowdown.
    """
    init, inner = dense((30, 8, 1), "gelu")

    def change(params: Params) -> Params:
        return [*params[:-1], {**params[-1], "b": params[-1]["b"] + 14.0}]

    parts = [(x, y[:, None].astype(np.float32)) for x, y in whitened(raw_cancer(seed))]
    optimizer = optax.sgd(0.5, 0.9, nesterov=True)
    move: Callable[[Params], Params] = unchanged if cured else change
    return fit((init, squashed(inner)), *parts, optimizer, 300, seed, objective=squared, change=move)


def squashed(inner: Callable[[Params, jax.Array], jax.Array]) -> Callable[[Params, jax.Array], jax.Array]:
    """The same model with a sigmoid at its output."""

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(inner(params, inputs))

    return apply


def saturated_memory(seed: int, cured: bool = False) -> Run:
    """Biases of 12 hold every unit of a recurrent network at 1 for every digit: all outputs are alike."""

    def change(params: Params) -> Params:
        return {**params, "bias": params["bias"] + 12.0}

    move = unchanged if cured else change
    train, test = split("digits", seed, 400)
    return fit(recurrent(16, "tanh"), train, test, optax.rmsprop(2e-3), 200, seed, change=move, batch=50)


def vanishing_gelu(seed: int, cured: bool = False) -> Run:
    """Ten layers of weights of deviation 0.5 / √inputs: each lowers the signal to about a quarter."""
    model = dense((13, *(12,) * 9, 3), "gelu", 1.6 if cured else 0.5)
    return fit(model, *whitened(raw_wine(seed)), optax.sgd(0.02, 0.9), 200, seed)


def vanishing_conv(seed: int, cured: bool = False) -> Run:
    """Seven convolutions of tanh with weights at 0.3 of what keeps the signal: 0.3 ** 7 = 0.0002 is left."""
    model = convolutional("tanh", (6,) * 7, 1.2 if cured else 0.3)
    return fit(model, *split("digits", seed, 400), optax.sgd(0.1), 150, seed, batch=100)


def exploding_residual(seed: int, cured: bool = False) -> Run:
    """Twelve blocks that each make the signal several times larger, behind clipped steps."""
    model = residual(12, 12, 2, 30, 0.3 if cured else 3.0)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.02))
    return fit(model, *whitened(raw_cancer(seed)), optimizer, 150, seed)


def exploding_memory(seed: int, cured: bool = False) -> Run:
    """A recurrent relu network with weights at 8 times their scale: gradients of early rows are 8 ** 7 up."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.02 if not cured else 0.1))
    model = recurrent(24, "relu", 1.4 if cured else 10.0)
    return fit(model, *split("digits", seed, 400), optimizer, 200, seed, batch=50)


def raw_diabetes(seed: int, cured: bool = False) -> Run:
    """Blood values of 20 to 300 as they are; the rate is the largest that they stand."""
    parts = diabetes(seed, raw=not cured)
    optimizer = optax.sgd(1.0 / top(parts[0][0]))
    return fit(dense((10, 1), "gelu", 1e-2), *parts, optimizer, 200, seed, objective=squared)


def divided_twice(seed: int, cured: bool = False) -> Run:
    """Pixels between 0 and 1 that are divided by 255 once more."""
    scale = 1.0 if cured else 255.0
    parts = [((x / scale).astype(np.float32), y) for x, y in split("digits", seed, 400)]
    return fit(pooled("gelu", 8, 10), *parts, optax.sgd(0.1, 0.9), 200, seed)
