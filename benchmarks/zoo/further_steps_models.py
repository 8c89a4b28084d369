"""Models, data and losses of the further plants about steps."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from benchmarks.zoo.models import Params
from benchmarks.zoo.samples import iris, parted, split, whitened


@functools.cache
def likelihood(apply: Any) -> Any:
    """Negative log-likelihood of normal targets; the outputs are the mean and the log of the variance."""

    def loss(params: Params, batch: Any) -> Any:
        mean, log = jnp.split(apply(params, batch[0]), 2, axis=-1)
        return 0.5 * jnp.mean(jnp.sum(log + (batch[1] - mean) ** 2 * jnp.exp(-log), axis=-1))

    return loss


@functools.cache
def absolute(apply: Any) -> Any:
    """Mean absolute error."""
    return lambda params, batch: jnp.mean(jnp.abs(apply(params, batch[0]) - batch[1]))


@functools.cache
def log_cosh(apply: Any) -> Any:
    """Mean logarithm of the hyperbolic cosine of the errors."""

    def loss(params: Params, batch: Any) -> Any:
        error = apply(params, batch[0]) - batch[1]
        return jnp.mean(jnp.logaddexp(error, -error) - jnp.log(2.0))

    return loss


@functools.cache
def mixture(groups: int, equal: bool, width: float = 0.5) -> tuple[Any, Any]:
    """A mixture of normal densities of one width in four dimensions: log densities of the groups."""

    def init(seed: int) -> Params:
        means = np.random.default_rng([seed, 201]).standard_normal((groups, 4))
        means = np.tile(means[:1], (groups, 1)) if equal else means
        return {"means": jnp.asarray(means, jnp.float32), "shares": jnp.zeros(groups, jnp.float32)}

    def apply(params: Params, inputs: Any) -> Any:
        far = jnp.sum((inputs[:, None] - params["means"]) ** 2, axis=-1)
        return jax.nn.log_softmax(params["shares"]) - 0.5 * far / width**2

    return init, apply


@functools.cache
def unlikely(apply: Any) -> Any:
    """Negative log-likelihood of inputs under a mixture, less the constant."""

    def loss(params: Params, batch: Any) -> Any:
        return -jnp.mean(jax.nn.logsumexp(apply(params, batch), axis=-1))

    return loss


def flowers(seed: int) -> Any:
    """Iris, standardised, without the species."""
    return tuple(x for x, _ in iris(seed))


def alcohol(seed: int) -> Any:
    """A wine's alcohol from its twelve other values, standardised."""
    table, _ = datasets.load_wine(return_X_y=True)
    target = ((table[:, :1] - table[:, 0].mean()) / table[:, 0].std()).astype(np.float32)
    return whitened(parted(table[:, 1:], target, seed, 120, 58))


def strokes(seed: int) -> Any:
    """How much ink the lower half of a digit has (mean 1), from that in each row of the upper half."""
    images = datasets.load_digits().images
    ink = images[:, 4:].sum(axis=(1, 2))
    target = ((ink + 1) / (ink + 1).mean()).astype(np.float32)[:, None]
    return whitened(parted(images[:, :4].sum(axis=2), target, seed, 500, 300))


def wide_kernel(seed: int, turned: bool, count: int = 80, width: float = 5.0) -> Any:
    """Digits by a Gaussian kernel to some of them, standardised, and 1 for an even one, -1 for an odd one.

    `turned`: the kernels' values are turned to their principal components, each of deviation 1.
    """
    (x, y), (x_test, y_test) = split("digits", seed, 500)
    far = [((part[:, None] - x[None, :count]) ** 2).sum(-1) for part in (x, x_test)]
    near = [np.exp(-0.5 * part.astype(np.float64) / width**2) for part in far]
    mean, deviation = near[0].mean(0), near[0].std(0)
    near = [(part - mean) / deviation for part in near]
    if turned:
        values, vectors = np.linalg.eigh(near[0].T @ near[0] / len(x))
        near = [part @ vectors / np.sqrt(values) for part in near]
    sides = [(1.0 - 2.0 * (part % 2)).astype(np.float32)[:, None] for part in (y, y_test)]
    return tuple((part.astype(np.float32), side) for part, side in zip(near, sides, strict=True))


@functools.cache
def flower() -> np.ndarray:
    """Colours of the photograph of a flower that scikit-learn ships, every 20th pixel, standardised."""
    image = np.asarray(datasets.load_sample_image("flower.jpg"))[::20, ::20] / 255
    return np.asarray((image - image.mean((0, 1))) / image.std())


def places(seed: int, train: int = 600) -> Any:
    """Colours of pixels of a photograph from waves of their place."""
    image = flower()
    grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in image.shape[:2]), indexing="ij")
    place = np.stack([part.ravel() for part in grid], axis=-1)
    angles = np.concatenate([np.pi * place * factor for factor in (0.5, 1.0, 2.0)], axis=1)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) * np.sqrt(2)
    return parted(waves, image.reshape(-1, 3).astype(np.float32), seed, train, 60)
