"""Sealed plants: troubles of units, layers and inputs.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from benchmarks.zoo.fresh_steps import top
from benchmarks.zoo.models import Params, dense
from benchmarks.zoo.samples import contrast, raw_wine, split, whitened
from benchmarks.zoo.sealed_models import convolved, excited, gated_stack, multiplied, sparse_code, squeezed
from benchmarks.zoo.sealed_samples import gaps
from benchmarks.zoo.training import Run, fit, squared


def high_threshold(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Codes are shrunk to zero below a threshold, and it is above all of them."""
    parts = [(x, x) for x, _ in split("digits", seed, 500)]
    model = sparse_code(24, 0.1 if cured else 5.0)
    return fit(model, *parts, optax.adam(5e-3 * rate), 300, seed, objective=squared, batch=100)


def shut_channels(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Biases of -30 shut the gates of all channels: what they multiply is lost."""

    def change(params: Params) -> Params:
        gate = params["gate"]
        return {**params, "gate": {**gate, "b": gate["b"] - (0.0 if cured else 30.0)}}

    optimizer = optax.nadam(5e-3 * rate)
    return fit(excited(8), *split("digits", seed, 400), optimizer, 200, seed, change=change, batch=100)


def halved_by_gates(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A gate lets half of the signal through, and sixteen of them in a row leave next to nothing."""
    model = gated_stack(13, 16, 16, 3, 1.6 if cured else 1.0)
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.03 * rate, 200), 0.9)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    return fit(model, *whitened(raw_wine(seed)), optimizer, 200, seed)


def products_of_products(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Layers of products square the size of the signal each, and it starts above 1."""
    model = multiplied(25, 16, 3, 1, 1.0 if cured else 2.5)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate * (0.01 if cured else 5e-5), 0.9))
    return fit(model, *contrast(seed), optimizer, 200, seed, objective=squared)


def missing_coded(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Missing values are coded as -999 among standardised ones; the rate is the largest that they stand."""
    train, test = gaps(seed, 0.03, 0.0 if cured else -999.0)
    return fit(dense((13, 3), "gelu", 0.1), train, test, optax.sgd(2 * rate / top(train[0])), 200, seed)


def code_units(params: Params, inputs: jax.Array) -> jax.Array:
    """Sizes of the codes less their thresholds."""
    return jnp.abs(inputs @ params["in"]) - params["threshold"]


def channel_gates(params: Params, inputs: jax.Array) -> jax.Array:
    """The gates of the channels, -1 to 1."""
    return 2 * jax.nn.sigmoid(squeezed(params, convolved(params, inputs))) - 1


# The units that a plant is about, for the check.
UNITS = {"threshold above all codes": code_units, "channels shut": channel_gates}
