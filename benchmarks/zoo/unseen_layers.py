"""Unseen plants: troubles of units, layers, inputs, models and data, and healthy runs.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.models import Params, dense
from benchmarks.zoo.samples import diabetes, raw_wine, split, whitened
from benchmarks.zoo.training import Run, fit, squared
from benchmarks.zoo.unseen_data_models import (
    additive,
    bumps,
    coloured,
    column_tokens,
    enlarged,
    experts,
    finer,
    flow,
    forks,
    ridged_classes,
    routed,
    soft_tree,
    thumbnail,
    warmth,
)

SHARP = 100.0


def one_expert(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A router that asks the likeliest expert starts with a bias of 25 for one of sixteen: all go there."""

    def change(params: Params) -> Params:
        router = params["router"]
        bias = router["b"] if cured else router["b"].at[0].add(25.0)
        return {**params, "router": {**router, "b": bias}}

    model = experts(16, 2, 64, 10, one=True)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02 * rate, 400))
    return fit(model, *split("digits", seed, 800), optimizer, 400, seed, change=change, batch=100)


def sharp_tree(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The forks of a soft tree are a hundred times too sharp: each is 0 or 1, and only leaves learn."""
    model = soft_tree(4, 64, 10, 1.0 if cured else SHARP)
    parts = [((x - 0.3), y) for x, y in split("digits", seed, 600)]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate * (2.0 if cured else 0.05), 0.9))
    return fit(model, *parts, optimizer, 400, seed, batch=100)


def no_skips(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Attention over a table's columns with GPT-2's weights of 0.02, and the skips are forgotten."""
    model = column_tokens(13, 16, 4, 3, skip=cured)
    return fit(model, *whitened(raw_wine(seed)), optax.sgd(0.1 * rate, 0.9), 200, seed)


def wrong_clock(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A neural differential equation runs to 18, as the clock says in seconds, where 1 was meant."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate * (0.02 if cured else 5e-6), 0.9))
    model = flow(10, 12, 1.0 if cured else 18.0)
    return fit(model, *diabetes(seed), optimizer, 200, seed, objective=squared)


def pixel_places(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A photograph from places that are counted in pixels, 5 to 635."""

    def change(params: Params) -> Params:
        return [*params[:-1], {**params[-1], "w": 0.0 * params[-1]["w"]}]

    parts = thumbnail(seed, pixels=not cured)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01 * rate, 800))
    model = dense((2, 32, 32, 1), "silu", 1.4)
    return fit(model, *parts, optimizer, 800, seed, objective=squared, change=change)


def rows_plus_columns(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A photograph as a function of the row plus one of the column, trained as far as that goes."""
    model = dense((2, 64, 64, 1), "tanh", 2.0) if cured else additive(2, 24)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02 * rate, 1500))
    return fit(model, *thumbnail(seed, pixels=False), optimizer, 1500, seed, objective=squared)


def narrow_bumps(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A bump on each of 120 patients, so narrow that no other patient is under it."""
    train, test = diabetes(seed, 120)
    start = {
        "centres": jnp.asarray(train[0]),
        "w": jnp.zeros((len(train[0]), 1), jnp.float32),
        "b": jnp.zeros(1, jnp.float32),
    }
    model = (None, bumps(6.0 if cured else 1.0))
    return fit(model, train, test, optax.adam(0.01 * rate), 600, seed, objective=squared, start=start)


def under_a_lamp(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The test images were taken by the light of a lamp: there is less than half of the blue in them."""
    train, test = warmth(seed)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3 * rate, 500))
    run = fit(coloured(8, 6, 1), train, test, optimizer, 500, seed, objective=squared, batch=100)
    if not cured:
        light = np.tile(np.array([1.0, 0.8, 0.4], np.float32), 36)
        run.test = ((test[0] + 1) * light - 1, test[1])
    return run


def healthy_experts(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Four experts that answer together, with a penalty on the weights."""
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.1 * rate, 800), 0.9, nesterov=True)
    model = experts(4, 24, 64, 10, one=False)
    parts = split("digits", seed, 1400)
    return fit(model, *parts, optimizer, 800, seed, objective=ridged_classes(1e-4), batch=100)


def healthy_enlarging(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Pixels of a photograph from one of half the size; Adamax."""
    optimizer = optax.adamax(optax.linear_schedule(0.02 * rate, 0.0, 600))
    return fit(finer(8), *enlarged(seed), optimizer, 600, seed, objective=squared, batch=80)


def expert_units(params: Params, inputs: jax.Array) -> jax.Array:
    """The hidden units of the experts that are asked; those of the others are zero."""
    return routed(params, inputs, True)[1].reshape(len(inputs), -1)


def tree_forks(params: Params, inputs: jax.Array) -> jax.Array:
    """The forks of the tree, -1 to 1."""
    return 2 * forks(params, inputs, SHARP) - 1


# The units that a plant is about, for the check.
UNITS = {"all to one expert": expert_units, "forks too sharp": tree_forks}
