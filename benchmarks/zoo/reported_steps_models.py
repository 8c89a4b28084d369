"""Networks, data and losses of the reported plants about steps: a network is an init and an apply."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from benchmarks.zoo.models import Params, gaussian
from benchmarks.zoo.samples import parted, photo, raw_wine, split, whitened
from benchmarks.zoo.training import cross_entropy
from benchmarks.zoo.untouched_models import LAYOUT
from benchmarks.zoo.untouched_samples import squares


@functools.cache
def stacked(inputs: int, hidden: int) -> tuple[Any, Any]:
    """Two dense layers without an activation between them."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 101])
        return [
            {"w": gaussian(rng, a, b), "b": jnp.zeros(b, jnp.float32)}
            for a, b in ((inputs, hidden), (hidden, 1))
        ]

    def apply(params: Params, inputs: Any) -> Any:
        for layer in params:
            inputs = inputs @ layer["w"] + layer["b"]
        return inputs

    return init, apply


@functools.cache
def factors(inputs: int, rank: int, size: float) -> tuple[Any, Any]:
    """A factorisation machine (Rendle 2010): a linear part, and products of pairs of inputs by factors."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 102])
        return {
            "bias": jnp.zeros(1, jnp.float32),
            "linear": jnp.zeros(inputs, jnp.float32),
            "pairs": jnp.asarray(size * rng.standard_normal((inputs, rank)), jnp.float32),
        }

    def apply(params: Params, inputs: Any) -> Any:
        linear = inputs @ params["linear"] + params["bias"]
        sums, own = inputs @ params["pairs"], inputs**2 @ params["pairs"] ** 2
        return (linear + 0.5 * jnp.sum(sums**2 - own, axis=-1))[:, None]

    return init, apply


@functools.cache
def denoiser(channels: int) -> tuple[Any, Any]:
    """Three 3 × 3 convolutions of an 8 × 8 image."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 103])
        sizes = ((1, channels, 1.4), (channels, channels, 1.4), (channels, 1, 0.3))
        return [
            {"w": gaussian(rng, 3, 3, a, b, gain=gain), "b": jnp.zeros(b, jnp.float32)}
            for a, b, gain in sizes
        ]

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, 8, 8, 1)
        for number, layer in enumerate(params):
            hidden = jax.nn.relu(hidden) if number else hidden
            hidden = jax.lax.conv_general_dilated(
                hidden, layer["w"], (1, 1), "SAME", dimension_numbers=LAYOUT
            )
            hidden = hidden + layer["b"]
        return hidden.reshape(len(hidden), -1)

    return init, apply


@functools.cache
def batch_normed(inputs: int, hidden: int, outputs: int) -> tuple[Any, Any]:
    """A dense network whose hidden units are normalised over the batch (Ioffe & Szegedy 2015)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 104])
        return {
            "in": gaussian(rng, inputs, hidden),
            "scale": jnp.ones(hidden, jnp.float32),
            "shift": jnp.zeros(hidden, jnp.float32),
            "out": {"w": gaussian(rng, hidden, outputs, gain=0.5), "b": jnp.zeros(outputs, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        sums = inputs @ params["in"]
        spread = jnp.sqrt(jnp.var(sums, axis=0) + 1e-3)
        normal = (sums - jnp.mean(sums, axis=0)) / spread
        hidden = jax.nn.leaky_relu(params["scale"] * normal + params["shift"], 0.1)
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


def raw_progress(seed: int, scaled: bool) -> Any:
    """Diabetes, inputs standardised, and the progression in its own units (25 to 346) or standardised."""
    inputs, target = datasets.load_diabetes(return_X_y=True)
    target = (target - target.mean()) / target.std() if scaled else target
    return whitened(parted(inputs, target.astype(np.float32)[:, None], seed, 300, 142))


def worse_half(seed: int) -> Any:
    """Diabetes, standardised, and 1 where it progressed more than in most, else -1."""
    inputs, target = datasets.load_diabetes(return_X_y=True)
    sides = np.where(target > np.median(target), 1.0, -1.0).astype(np.float32)[:, None]
    return whitened(parted(inputs, sides, seed, 300, 142))


def largest_radius(seed: int, decorrelated: bool) -> Any:
    """A tumour's worst radius from the 29 other measurements, all standardised; some are nearly alike.

    `decorrelated`: the inputs are turned to their principal components, each of deviation 1.
    """
    table, _ = datasets.load_breast_cancer(return_X_y=True)
    table = (table - table.mean(0)) / table.std(0)
    inputs, target = np.delete(table, 20, axis=1), table[:, 20:21].astype(np.float32)
    if decorrelated:
        values, vectors = np.linalg.eigh(inputs.T @ inputs / len(inputs))
        inputs = inputs @ vectors / np.sqrt(values)
    return parted(inputs, target, seed, 400, 169)


def worst_sizes(seed: int) -> Any:
    """Logarithms of a tumour's worst radius and perimeter, from its mean measurements and their errors."""
    table, _ = datasets.load_breast_cancer(return_X_y=True)
    inputs, sizes = table[:, :20], np.log(table[:, [20, 22]])
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    sizes = (sizes - sizes.mean(0)) / sizes.std(0)
    return parted(inputs, sizes.astype(np.float32), seed, 400, 169)


def centred(seed: int, train: int) -> Any:
    """Digits in units of the pixels' deviation from their means."""
    parts = split("digits", seed, train)
    mean, deviation = parts[0][0].mean(0), parts[0][0].std()
    return tuple(((x - mean) / deviation, y) for x, y in parts)


def even(seed: int) -> Any:
    """Centred digits, and 1 for an even digit, -1 for an odd one."""
    return tuple((x, (1.0 - 2.0 * (y % 2)).astype(np.float32)[:, None]) for x, y in centred(seed, 500))


def first_cultivar(seed: int, smoothing: float) -> Any:
    """Wine, standardised, and whether it is of the first cultivar, with smoothed labels."""
    return tuple(
        (x, ((y == 0) * (1 - smoothing) + smoothing / 2).astype(np.float32)[:, None])
        for x, y in whitened(raw_wine(seed))
    )


def grainy(seed: int, train: int = 400, test: int = 200) -> Any:
    """Squares of a temple's photograph with noise of a fifth of their deviation, and without it."""
    cut = squares(photo(), seed, train + test, 8)
    cut = (cut - cut.mean()) / cut.std()
    noise = 0.2 * np.random.default_rng([seed, 105]).standard_normal(cut.shape)
    seen = (cut + noise).astype(np.float32)
    return (seen[:train], cut[:train]), (seen[train:], cut[train:])


@functools.cache
def averaged_again(size: int) -> Any:
    """Mean cross-entropy, divided by the size of a batch once more."""

    @functools.cache
    def objective(apply: Any) -> Any:
        return lambda params, batch: cross_entropy(apply)(params, batch) / size

    return objective


@functools.cache
def squared_hinge(apply: Any) -> Any:
    """The objective of a support vector machine: mean squared hinge loss, and a small quadratic penalty."""

    def loss(params: Params, batch: Any) -> Any:
        margins = apply(params, batch[0]) * batch[1]
        penalty = sum(jnp.sum(layer["w"] ** 2) for layer in params)
        return jnp.mean(jax.nn.relu(1 - margins) ** 2) + 0.005 * penalty

    return loss
