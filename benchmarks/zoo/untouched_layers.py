"""Untouched plants: troubles of units, layers and inputs.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.models import Params, dense
from benchmarks.zoo.samples import cancer, diabetes, raw_wine, split, whitened
from benchmarks.zoo.training import Run, fit, squared
from benchmarks.zoo.untouched_models import gated, layer_normed, normalised, plain_memory
from benchmarks.zoo.untouched_samples import flower_parts, padded


def offset_after_norm(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Normalised sums have deviation 1, and relu of them less 8 is never above zero."""

    def change(params: Params) -> Params:
        first, *others = params["layers"]
        offset = first["offset"] - (0.0 if cured else 8.0)
        return {**params, "layers": [{**first, "offset": offset}, *others]}

    model = layer_normed((30, 24, 24, 2), "relu")
    return fit(model, *whitened(cancer(seed)), optax.adam(2e-3 * rate), 200, seed, change=change, batch=50)


def dead_output(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Grey values are positive, so the output is a relu; its bias of -6 keeps it at zero."""
    init, inner = dense((35, 16, 1), "tanh")

    def change(params: Params) -> Params:
        last = params[-1]
        return [*params[:-1], {**last, "b": last["b"] + (0.5 if cured else -6.0)}]

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        return jax.nn.relu(inner(params, inputs))

    parts = [(np.delete(x, 14, axis=1), x[:, 14:15] + 2) for x, _ in flower_parts(seed)]
    optimizer = optax.sgd(0.01 * rate, 0.9)
    return fit((init, apply), *parts, optimizer, 200, seed, objective=squared, change=change, batch=100)


def shut_gates(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Biases of 20 in the gates that keep the old state: nothing is read."""

    def change(params: Params) -> Params:
        move = jnp.where(jnp.arange(72) < 24, 0.0 if cured else 20.0, 0.0)
        return {**params, "bias": params["bias"] + move}

    return fit(
        gated(24), *split("digits", seed, 400), optax.adam(3e-3 * rate), 150, seed, change=change, batch=50
    )


def two_valued_codes(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The encoder's weights are 200 times their scale: every code is -1 or 1 and stays."""

    def change(params: Params) -> Params:
        return [{**params[0], "w": params[0]["w"] * (1.0 if cured else 200.0)}, *params[1:]]

    optimizer = optax.sgd(0.02 * rate, 0.9, nesterov=True)
    parts = [(x, x) for x, _ in split("digits", seed, 500)]
    return fit(dense((64, 12, 64), "tanh"), *parts, optimizer, 400, seed, objective=squared, change=change)


def divided_by_inputs(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Weights of deviation 1 / inputs where 1 / √inputs keeps the signal: a sixth is left by each layer."""

    def change(params: Params) -> Params:
        if cured:
            return params
        return [{**layer, "w": layer["w"] / np.sqrt(len(layer["w"]))} for layer in params]

    model = dense((30, *(32,) * 6, 2), "elu", 1.2)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.02 * rate, 0.9))
    return fit(model, *whitened(cancer(seed)), optimizer, 120, seed, change=change)


def padded_right(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Blank rows follow each digit, and a recurrent network with small weights forgets it over them."""
    parts = [padded(part, -24 if cured else 24) for part in split("digits", seed, 400)]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1 * rate, 0.9))
    return fit(plain_memory(32, 0.6), *parts, optimizer, 200, seed, batch=50)


def unscaled_normal(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Weights drawn from a normal distribution of deviation 1, whatever the width."""

    def change(params: Params) -> Params:
        if cured:
            return params
        return [{**layer, "w": layer["w"] * np.sqrt(len(layer["w"]))} for layer in params]

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(3e-4 * rate, 0.9))
    model = dense((10, *(32,) * 7, 1), "gelu", 1.2)
    return fit(model, *diabetes(seed), optimizer, 200, seed, objective=squared, change=change)


def one_column_large(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """All columns are standardised but the last, which is in thousandths of its unit."""
    parts = whitened(raw_wine(seed))
    if not cured:
        factor = np.where(np.arange(13) == 12, 1000.0, 1.0)
        parts = tuple(((x * factor).astype(np.float32), y) for x, y in parts)
    return fit(dense((13, 16, 3), "tanh"), *parts, optax.adagrad(0.05 * rate), 300, seed, batch=40)


def normed_units(params: Params, inputs: jax.Array) -> jax.Array:
    """The first layer's values behind their offsets."""
    layer = params["layers"][0]
    return normalised(inputs @ layer["w"]) * layer["scale"] + layer["offset"]


def output_units(params: Params, inputs: jax.Array) -> jax.Array:
    """The output before its relu."""
    return dense((35, 16, 1), "tanh")[1](params, inputs)


def first_gates(params: Params, inputs: jax.Array) -> jax.Array:
    """The gates that keep the old state, at the first four rows of a digit and a state of zero; -1 to 1."""
    rows = inputs.reshape(len(inputs), -1, 8)[:, :4]
    return 2 * jax.nn.sigmoid((rows @ params["in"] + params["bias"])[..., :24]) - 1


def codes(params: Params, inputs: jax.Array) -> jax.Array:
    """What the encoder gives."""
    return jnp.tanh(inputs @ params[0]["w"] + params[0]["b"])


# The units that a plant is about, for the check.
UNITS = {
    "offset behind a norm": normed_units,
    "relu at the output": output_units,
    "gates that keep": first_gates,
    "codes of two values": codes,
}
