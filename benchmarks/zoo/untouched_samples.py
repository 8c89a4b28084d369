"""Data and losses of the untouched plants."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from benchmarks.zoo.models import Params
from benchmarks.zoo.samples import parted, photo


@functools.cache
def flower() -> np.ndarray:
    """Grey values of the photograph of a flower that scikit-learn ships, from 0 to 1."""
    return np.asarray(datasets.load_sample_image("flower.jpg").mean(axis=2) / 255)


def squares(image: np.ndarray, seed: int, count: int, side: int = 6) -> np.ndarray:
    """Random squares of a photograph, (count, side²), in units of the flower's deviation from its mean."""
    rng = np.random.default_rng([seed, 31])
    tops, lefts = (rng.integers(0, size - side, count) for size in image.shape)
    cut = np.stack([image[i : i + side, j : j + side].ravel() for i, j in zip(tops, lefts, strict=True)])
    return ((cut - flower().mean()) / flower().std()).astype(np.float32)


def flower_parts(seed: int, train: int = 600, test: int = 300) -> Any:
    """Squares of the flower as inputs and as targets."""
    cut = squares(flower(), seed, train + test)
    return tuple((part, part) for part in (cut[:train], cut[train:]))


def temple_squares(seed: int, count: int = 300) -> np.ndarray:
    """Squares of the other photograph."""
    return squares(photo(), seed, count)


def pixels(seed: int, train: int, test: int = 300) -> Any:
    """Coordinates from -1 to 1 and grey values, standardised, of the flower at 32 × 32 means of blocks."""
    image = flower()[:416, :640].reshape(32, 13, 32, 20).mean(axis=(1, 3))
    grey = ((image - image.mean()) / image.std()).astype(np.float32).reshape(-1, 1)
    axes = np.linspace(-1, 1, 32)
    places = np.stack(np.meshgrid(axes, axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return parted(places, grey, seed, train, test)


def rowwise(seed: int) -> Any:
    """The height of a row of the flower's photograph, -1 to 1, and its mean grey value, standardised."""
    profile = flower().mean(axis=1)
    grey = ((profile - profile.mean()) / profile.std()).astype(np.float32)[:, None]
    return parted(np.linspace(-1, 1, len(grey))[:, None], grey, seed, 300, 120)


def linnerud() -> Any:
    """Weight, waist and pulse of twenty men, standardised, and how many chin-ups they made."""
    exercise, body = datasets.load_linnerud(return_X_y=True)
    inputs = (body - body.mean(0)) / body.std(0)
    return inputs.astype(np.float32), exercise[:, :1].astype(np.float32)


def bits(part: Any) -> Any:
    """Images of digits and the four binary digits of their labels."""
    return part[0], (part[1][:, None] >> np.arange(4) & 1).astype(np.float32)


def padded(part: Any, blank: int) -> Any:
    """Images of digits followed by blank rows, or led by them where negative."""
    rows = np.zeros((len(part[0]), abs(blank) * 8), np.float32)
    return np.concatenate([part[0], rows] if blank > 0 else [rows, part[0]], axis=1), part[1]


@functools.cache
def binary(apply: Any) -> Any:
    """Mean binary cross-entropy of several labels of 0 or 1."""

    def loss(params: Params, batch: Any) -> Any:
        logits = apply(params, batch[0])
        return jnp.mean(jax.nn.softplus(logits) - batch[1] * logits)

    return loss


@functools.cache
def counts(apply: Any) -> Any:
    """Negative log-likelihood of Poisson counts whose logarithms of means are the outputs."""

    def loss(params: Params, batch: Any) -> Any:
        logs = apply(params, batch[0])
        return jnp.mean(jnp.exp(logs) - batch[1] * logs)

    return loss


@functools.cache
def robust(apply: Any) -> Any:
    """Mean pseudo-Huber error: quadratic below 0.1 of a deviation, linear above (Charbonnier et al. 1997)."""

    def loss(params: Params, batch: Any) -> Any:
        error = (apply(params, batch[0]) - batch[1]) / 0.1
        return 0.1 * jnp.mean(jnp.sqrt(1 + error**2) - 1)

    return loss
