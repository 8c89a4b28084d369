"""Further plants: troubles of units, layers, inputs, models and data, and a healthy run.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.further_layers_models import (
    averaged,
    deep_graph,
    embedded,
    levels,
    middle_kind,
    powered,
    proline,
    random_features,
    sorted_wine,
    squared_hinge,
    survey,
)
from benchmarks.zoo.models import Params, dense
from benchmarks.zoo.samples import patches, split
from benchmarks.zoo.training import Plant, Run, binary, fit, squared

TOKENS = 16


def after_large_steps(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Goes on from a checkpoint whose first steps were far too long: they pushed all units below zero."""
    model, (train, test) = dense((12, 24, 1), "relu", 1.4), proline(seed)

    def change(params: Params) -> Params:
        slope = jax.grad(squared(model[1]))
        for _ in range(0 if cured else 5):
            params = jax.tree.map(lambda at, move: at - 1.0 * move, params, slope(params, train))
        return params

    optimizer = optax.sgd(0.01 * rate, 0.9)
    return fit(model, train, test, optimizer, 500, seed, objective=squared, change=change, batch=40)


def summed_vectors(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Vectors of deviation 1 for 64 tokens are added up and multiplied by √width, and tanh is behind it."""
    model = embedded(TOKENS, 0.02 if cured else 1.0, np.sqrt(TOKENS))
    optimizer = optax.sgd(0.005 * rate, 0.9)
    return fit(model, *levels(seed, 500), optimizer, 400, seed, batch=50)


def default_weights(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A deep autoencoder of silu layers whose weights have a library's default deviation, 1 / √(3 inputs)."""
    cut = patches(seed, 400)
    parts = [(x, x) for x in (cut[:400], cut[400:])]
    model = dense((25, 24, 20, 16, 12, 16, 20, 24, 25), "silu", 1.9 if cured else 3**-0.5)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05 * rate))
    return fit(model, *parts, optimizer, 300, seed, objective=averaged, batch=100)


def sum_of_neighbours(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Eight graph convolutions add up their neighbours, and nobody divides by how many there are."""
    model = deep_graph(12, 8, scaled=cured)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate * (0.02 if cured else 1e-5), 0.9))
    return fit(model, *split("digits", seed, 300), optimizer, 150, seed, batch=100)


def latitudes(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """How bright a place is from its latitude and longitude, which differ in the fourth digit."""

    def change(params: Params) -> Params:
        return [*params[:-1], {**params[-1], "w": 0.0 * params[-1]["w"]}]

    parts, model = survey(seed, degrees=not cured), dense((2, 32, 32, 1), "elu", 1.4)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01 * rate, 1000))
    return fit(model, *parts, optimizer, 1000, seed, objective=squared, change=change)


def no_activations(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Three layers without anything between them, for a kind of flower that lies between two others."""
    init, bent = dense((4, 16, 16, 1), "tanh", 1.4)
    apply = bent if cured else straight
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01 * rate, 1500))
    return fit((init, apply), *middle_kind(seed), optimizer, 1500, seed, objective=binary)


def straight(params: Params, inputs: Any) -> Any:
    """Layers without activations."""
    for layer in params:
        inputs = inputs @ layer["w"] + layer["b"]
    return inputs


def all_products(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """All products of up to three of ten columns are more weights than there are patients."""
    train, test = powered(seed, 1 if cured else 3)
    optimizer = optax.adam(0.01 * rate)
    model = dense((train[0].shape[1], 1), "gelu", 0.1)
    return fit(model, train, test, optimizer, 10000, seed, objective=squared)


def last_rows(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The last rows of a file are kept for the test, and the file is sorted by class."""
    optimizer = optax.adamax(optax.cosine_decay_schedule(0.01 * rate, 400))
    parts, model = sorted_wine(seed, shuffled=cured), dense((13, 24, 3), "silu")
    return fit(model, *parts, optimizer, 400, seed, objective=squared)


def healthy_margin(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A support vector machine on random cosines, with a squared hinge and a penalty."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01 * rate, 800))
    model = random_features(250, 0.3)
    return fit(model, *split("digits", seed, 1400), optimizer, 800, seed, objective=squared_hinge, batch=140)


def hidden_units(params: Params, inputs: jax.Array) -> jax.Array:
    """The sums behind which the relu is."""
    return inputs @ params[0]["w"] + params[0]["b"]


def summed(params: Params, inputs: jax.Array) -> jax.Array:
    """The tanh of the summed vectors."""
    return jnp.tanh(np.sqrt(TOKENS) * params["table"][inputs].sum(axis=1))


# The units that a plant is about, for the check.
UNITS = {"after steps too long": hidden_units, "sum of 64 vectors": summed}

LAYERS = (
    Plant("healthy: margin on random cosines", "healthy", healthy_margin, "further"),
    Plant("after steps too long", "dead_units", after_large_steps, "further", ("vanishing_gradients",)),
    Plant("sum of 64 vectors", "saturation", summed_vectors, "further", ("vanishing_gradients",)),
    Plant("default weights, deep", "vanishing_gradients", default_weights, "further", ("saddle",)),
    Plant("sum of neighbours", "exploding_gradients", sum_of_neighbours, "further", ("slow",)),
    Plant("latitude and longitude", "input_scale", latitudes, "further", ("ill_conditioned",)),
    Plant("no activations", "model_bias", no_activations, "further", ("minimum",)),
    Plant("products of three columns", "overfitting", all_products, "further"),
    Plant("last rows of a sorted file", "mismatch", last_rows, "further"),
)
