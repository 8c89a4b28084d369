"""Data, networks and losses of the further plants about layers and data."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets
from sklearn.preprocessing import PolynomialFeatures

from benchmarks.zoo.models import Params, gaussian
from benchmarks.zoo.samples import diabetes, parted, split, whitened
from benchmarks.zoo.unseen_data_models import picture


def proline(seed: int) -> Any:
    """Wine: its proline, in hundreds, from the twelve other measures, each between 0 and 1."""
    table = datasets.load_wine(return_X_y=True)[0]
    low, high = table.min(0), table.max(0)
    inputs = ((table - low) / (high - low))[:, :-1]
    return parted(inputs, (table[:, -1:] / 100).astype(np.float32), seed, 120, 58)


def levels(seed: int, train: int, test: int = 300) -> Any:
    """Digits as 64 whole numbers each: which of 17 grey values a pixel has, and where it is."""
    parts = split("digits", seed, train, test)
    return tuple((np.rint(16 * x).astype(np.int32) + 17 * np.arange(64, dtype=np.int32), y) for x, y in parts)


def survey(seed: int, *, degrees: bool, train: int = 400, test: int = 200) -> Any:
    """Places in the temple's photograph as latitude and longitude, or standardised, and how bright it is."""
    grey = picture("china.jpg").mean(axis=2)[:420, :640].reshape(21, 20, 32, 20).mean(axis=(1, 3))
    grey = ((grey - grey.mean()) / grey.std()).astype(np.float32).reshape(-1, 1)
    places = np.indices((21, 32)).reshape(2, -1).T
    if degrees:
        inputs = np.array([39.8822, 116.4066]) + places * np.array([-5e-5, 6e-5])
    else:
        inputs = (places - places.mean(0)) / places.std(0)
    return parted(inputs, grey, seed, train, test)


def middle_kind(seed: int) -> Any:
    """Iris, standardised, and whether the flower is of the kind between the two others."""
    table, labels = datasets.load_iris(return_X_y=True)
    return whitened(parted(table, (labels == 1).astype(np.float32)[:, None], seed, 100, 50))


def powered(seed: int, degree: int, train: int = 150) -> Any:
    """Diabetes with all products of its columns up to a degree, standardised."""
    first, second = diabetes(seed, train)
    maker = PolynomialFeatures(degree, include_bias=False)
    parts = (maker.fit_transform(first[0]), first[1]), (maker.transform(second[0]), second[1])
    return whitened(parts)


def sorted_wine(seed: int, *, shuffled: bool) -> Any:
    """Wine as the file has it, class by class: the test is its last rows, or random ones; one-hot targets."""
    table, labels = datasets.load_wine(return_X_y=True)
    rng = np.random.default_rng([seed, 90])
    rows = rng.permutation(178) if shuffled else np.arange(178)
    first, second = rng.permutation(rows[:128])[:115], rng.permutation(rows[128:])[:45]
    targets = np.eye(3, dtype=np.float32)[labels]
    return whitened(tuple((table[i].astype(np.float32), targets[i]) for i in (first, second)))


@functools.cache
def embedded(width: int, deviation: float, scale: float, classes: int = 10) -> tuple[Any, Any]:
    """A vector for each token, their sum times a scale, tanh, and a linear layer."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 91])
        return {
            "table": jnp.asarray(deviation * rng.standard_normal((17 * 64, width)), jnp.float32),
            "out": {"w": gaussian(rng, width, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        hidden = jnp.tanh(scale * params["table"][inputs].sum(axis=1))
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def deep_graph(width: int, depth: int, *, scaled: bool, classes: int = 10) -> tuple[Any, Any]:
    """Graph convolutions over the sixteen squares of a digit; each adds up its neighbours, or scales them."""
    row, column = np.divmod(np.arange(16), 4)
    near = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) <= 1
    links = near.astype(np.float32)
    if scaled:
        size = links.sum(axis=0)
        links = links / np.sqrt(size[:, None] * size)

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 92])
        sizes = [4] + [width] * depth
        layers = [
            {"w": gaussian(rng, a, b, gain=1.4), "b": jnp.zeros(b, jnp.float32)}
            for a, b in itertools.pairwise(sizes)
        ]
        out = {"w": gaussian(rng, 16 * width, classes), "b": jnp.zeros(classes, jnp.float32)}
        return {"layers": layers, "out": out}

    def apply(params: Params, inputs: Any) -> Any:
        squares = inputs.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
        hidden = squares.reshape(-1, 16, 4)
        for layer in params["layers"]:
            hidden = jax.nn.relu(jnp.einsum("ij,njc->nic", links, hidden @ layer["w"]) + layer["b"])
        return hidden.reshape(len(hidden), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def random_features(count: int, spread: float, inputs: int = 64, classes: int = 10) -> tuple[Any, Any]:
    """Cosines of fixed random sums of the inputs (Rahimi & Recht 2007), and a linear layer."""
    rng = np.random.default_rng(93)
    sums = (spread * rng.standard_normal((inputs, count))).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 94])
        return {"w": gaussian(rng, count, classes, gain=0.1), "b": jnp.zeros(classes, jnp.float32)}

    def apply(params: Params, inputs: Any) -> Any:
        return np.sqrt(2) * jnp.cos(inputs @ sums + phases) @ params["w"] + params["b"]

    return init, apply


@functools.cache
def squared_hinge(apply: Any) -> Any:
    """Squared distance of each class's score from its side of the margin, and a quadratic penalty."""

    def loss(params: Params, batch: Any) -> Any:
        scores = apply(params, batch[0])
        sides = 2 * jax.nn.one_hot(batch[1], scores.shape[-1]) - 1
        short = jax.nn.relu(1 - sides * scores)
        return jnp.mean(jnp.sum(short**2, axis=-1)) + 1e-2 * jnp.sum(params["w"] ** 2)

    return loss


@functools.cache
def averaged(apply: Any) -> Any:
    """Squared error, in the mean over samples and outputs."""

    def loss(params: Params, batch: Any) -> Any:
        return jnp.mean((apply(params, batch[0]) - batch[1]) ** 2)

    return loss
