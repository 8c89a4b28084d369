"""Untouched plants: troubles of the surface, the model and the data.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.fresh_steps import top
from benchmarks.zoo.models import Params, dense, gaussian
from benchmarks.zoo.samples import diabetes, split
from benchmarks.zoo.training import Run, fit, squared
from benchmarks.zoo.untouched_healthy import healthy_petals
from benchmarks.zoo.untouched_models import linear_coder, pixel_set
from benchmarks.zoo.untouched_samples import (
    counts,
    flower_parts,
    linnerud,
    pixels,
    rowwise,
    temple_squares,
)


@functools.cache
def products(inputs: int, rank: int, scale: float) -> tuple[Any, Any]:
    """A factorisation machine (Rendle 2010): a linear model and products of inputs through factors."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 41])
        factors = scale * rng.standard_normal((inputs, rank))
        return {
            "bias": jnp.zeros(1, jnp.float32),
            "linear": gaussian(rng, inputs, 1, gain=0.1),
            "factors": jnp.asarray(factors, jnp.float32),
        }

    def apply(params: Params, inputs: Any) -> Any:
        pairs = (inputs @ params["factors"]) ** 2 - inputs**2 @ params["factors"] ** 2
        return inputs @ params["linear"] + params["bias"] + 0.5 * pairs.sum(axis=1, keepdims=True)

    return init, apply


def factors_of_zero(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """All factors of a factorisation machine start at zero, where their gradient is zero for any data."""

    def contrast(x: Any) -> Any:
        rough = x.std(axis=1, keepdims=True)
        inputs = 2 * (x - x.mean(axis=1, keepdims=True))[:, ::3]
        return inputs, ((rough - rough.mean()) / rough.std()).astype(np.float32)

    parts = [contrast(x) for x, _ in flower_parts(seed)]
    model = products(12, 6, 0.1 if cured else 0.0)
    return fit(model, *parts, optax.sgd(0.03 * rate, 0.9), 1000, seed, objective=squared)


@functools.cache
def table(rows: int, columns: int, rank: int, scale: float) -> tuple[Any, Any]:
    """Rows of a table as products of a row's and the columns' factors; inputs are numbers of rows."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 42])
        shapes = {"row": (rows, rank), "column": (rank, columns)}
        return {k: jnp.asarray(scale * rng.standard_normal(v), jnp.float32) for k, v in shapes.items()}

    def apply(params: Params, inputs: Any) -> Any:
        return params["row"][inputs] @ params["column"]

    return init, apply


def empty_table(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Both factors of a table start at zero."""
    (images, _), _ = split("digits", seed, 80)
    train = (np.arange(80, dtype=np.int32), images - images.mean(0))
    optimizer = optax.sgd(0.5 * rate, 0.9)
    return fit(table(80, 64, 6, 0.3 if cured else 0.0), train, None, optimizer, 200, seed, objective=squared)


def powers(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The profile of a photograph by powers of the height, at the largest rate that they stand."""
    train, test = rowwise(seed)

    def spread(part: Any) -> Any:
        x = part[0] ** np.arange(1, 9)
        return (x.astype(np.float32), part[1])

    parts = [spread(part) for part in (train, test)]
    if cured:
        mean = parts[0][0].mean(0)
        values, vectors = np.linalg.eigh(np.cov(parts[0][0].astype(np.float64).T))
        parts = [(((x - mean) @ vectors / np.sqrt(values)).astype(np.float32), y) for x, y in parts]
    optimizer = optax.sgd(rate / top(parts[0][0]))
    return fit(dense((8, 1), "gelu", 0.1), *parts, optimizer, 300, seed, objective=squared)


def bumps(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A photograph by 100 bumps that overlap: neighbours are nearly alike."""
    axis = np.linspace(-1, 1, 10)
    centres = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    def spread(part: Any) -> Any:
        distance = ((part[0][:, None] - centres) ** 2).sum(-1)
        return (np.exp(-distance / (2 * 0.3**2)).astype(np.float32), part[1])

    parts = [spread(part) for part in pixels(seed, 600)]
    if cured:
        values, vectors = np.linalg.eigh(parts[0][0].astype(np.float64).T @ parts[0][0] / 600)
        keep = values > 1e-6 * values[-1]
        parts = [((x @ vectors[:, keep] / np.sqrt(values[keep])).astype(np.float32), y) for x, y in parts]
    optimizer = optax.sgd(rate / top(parts[0][0]))
    return fit(dense((parts[0][0].shape[1], 1), "gelu", 0.1), *parts, optimizer, 200, seed, objective=squared)


def bag_of_pixels(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The model averages over the pixels of a digit without knowing where they are."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1 * rate, 800))
    return fit(pixel_set(8, cured), *split("digits", seed, 200), optimizer, 800, seed)


def two_components(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A linear autoencoder with two codes for 64 pixels, trained to its least loss."""
    parts = [((x - 0.3), (x - 0.3)) for x, _ in split("digits", seed, 500)]
    model = linear_coder(24 if cured else 2)
    return fit(model, *parts, optax.adam(1e-2 * rate), 600, seed, objective=squared)


def counted(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Poisson regression of chin-ups at its one minimum, by Newton's method in float64."""
    inputs, chins = linnerud()
    chosen = np.random.default_rng([seed, 43]).permutation(20)[:16]
    train = (inputs[chosen], chins[chosen])
    rows = np.concatenate([train[0], np.ones((16, 1))], axis=1).astype(np.float64)
    weights = np.append(np.zeros(3), np.log(train[1].mean()))[:, None]
    history = []
    for _ in range(12):
        mean = np.exp(rows @ weights)
        history.append(float(np.mean(mean - train[1] * np.log(mean))))
        weights += np.linalg.solve(rows.T @ (mean * rows), rows.T @ (train[1] - mean))
    start = [{"w": jnp.asarray(weights[:3], jnp.float32), "b": jnp.asarray(weights[3], jnp.float32)}]
    run = fit(dense((3, 1), "gelu"), train, None, optax.sgd(0.0), 1, seed, objective=counts, start=start)
    run.history = {"loss": np.asarray(history)}
    run.apply = run.optimizer = run.opt_state = None
    return run


def high_frequencies(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A photograph by waves far finer than the distance of its pixels (Tancik et al. 2020, fig. 3)."""
    waves = np.random.default_rng([seed, 44]).standard_normal((2, 64)) * (1.0 if cured else 40.0)

    def spread(part: Any) -> Any:
        angles = part[0] @ waves
        return (np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32), part[1])

    parts = [spread(part) for part in pixels(seed, 300)]
    return fit(
        dense((128, 32, 1), "relu", 1.4), *parts, optax.adam(3e-3 * rate), 300, seed, objective=squared
    )


def idle_columns(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Eighty patients with their 10 columns, and 150 columns of pure chance."""
    train, test = diabetes(seed, 80)
    if not cured:
        rng = np.random.default_rng([seed, 45])
        train, test = (
            (np.concatenate([x, rng.standard_normal((len(x), 150))], axis=1).astype(np.float32), y)
            for x, y in (train, test)
        )
    optimizer = optax.adam(1e-2 * rate)
    return fit(
        dense((train[0].shape[1], 1), "gelu", 0.1), train, test, optimizer, 300, seed, objective=squared
    )


def other_photograph(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Trained on a flower out of focus, tested on a temple in the sun."""
    run = healthy_petals(seed, rate=rate)
    if not cured:
        cut = temple_squares(seed)
        run.test = (cut, cut)
    return run
