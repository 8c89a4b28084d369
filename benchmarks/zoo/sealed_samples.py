"""Data and losses of the sealed plants."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from scipy.ndimage import gaussian_filter
from sklearn import datasets

from benchmarks.zoo.models import Params
from benchmarks.zoo.samples import data, diabetes, parted, raw_wine, split, whitened
from benchmarks.zoo.training import squared
from benchmarks.zoo.untouched_samples import flower, squares


def next_row(seed: int, train: int = 600, test: int = 300) -> Any:
    """The last row of a square of the flower's photograph from the five above it."""
    cut = squares(flower(), seed, train + test)
    return tuple((part[:, :30], part[:, 30:]) for part in (cut[:train], cut[train:]))


def holes(seed: int, train: int = 800, test: int = 300) -> Any:
    """Squares of the flower's photograph with four of 64 pixels blank, and those four."""
    cut = squares(flower(), seed, train + test, 8)
    hidden = np.ravel_multi_index(np.indices((2, 2)).reshape(2, -1) + 2, (8, 8))
    inputs = np.where(np.isin(np.arange(64), hidden), 0.0, cut).astype(np.float32)
    return (inputs[:train], cut[:train, hidden]), (inputs[train:], cut[train:][:, hidden])


def blurred(seed: int, train: int = 824, test: int = 200) -> Any:
    """Places, -1 to 1, in the flower's photograph, and its grey values there behind a blur of 8 pixels."""
    image = gaussian_filter(flower(), 8.0)
    places = np.random.default_rng([seed, 65]).random((train + test, 2))
    grey = image[tuple((places * image.shape).astype(int).T)]
    grey = ((grey - image.mean()) / image.std()).astype(np.float32)[:, None]
    return parted(2 * places - 1, grey, seed, train, test)


@functools.cache
def colours(name: str) -> np.ndarray:
    """A photograph that scikit-learn ships, by its three colours, of mean 0 and deviation 1 in all."""
    image = np.asarray(datasets.load_sample_image(name), np.float64)
    return ((image - image.mean()) / image.std()).astype(np.float32)


def mosaic(seed: int, train: int = 800, test: int = 300) -> Any:
    """Green and blue at a red pixel of a sensor, from the one colour of each of 5 × 5 pixels (Bayer 1976)."""
    image = colours("china.jpg")
    rows, columns = np.indices(image.shape[:2]) % 2
    seen = np.take_along_axis(image, (rows + columns)[..., None], axis=2)[..., 0]
    rng = np.random.default_rng([seed, 61])
    tops, lefts = (2 * rng.integers(0, size // 2 - 3, train + test) for size in seen.shape)
    places = list(zip(tops, lefts, strict=True))
    inputs = np.stack([seen[i : i + 5, j : j + 5].ravel() for i, j in places])
    targets = np.stack([image[i + 2, j + 2, 1:] for i, j in places])
    return (inputs[:train], targets[:train]), (inputs[train:], targets[train:])


def palette(seed: int, train: int = 1000, test: int = 300) -> Any:
    """Pixels of the flower by which of 512 colours they are nearest to, one column each; their grey values.

    Columns of colours that training does not have are left out, and so are test pixels of them.
    """
    image = datasets.load_sample_image("flower.jpg").reshape(-1, 3)
    chosen = np.random.default_rng([seed, 62]).choice(len(image), 3 * (train + test), replace=False)
    kinds = (image[chosen] // 32).astype(np.int64) @ np.array([64, 8, 1])
    grey = image[chosen].mean(axis=1)
    grey = ((grey - grey.mean()) / grey.std()).astype(np.float32)[:, None]
    have = np.unique(kinds[:train])
    later = train + np.flatnonzero(np.isin(kinds[train:], have))[:test]
    return tuple(
        ((kinds[part, None] == have).astype(np.float32), grey[part]) for part in (np.arange(train), later)
    )


def gaps(seed: int, share: float, code: float) -> Any:
    """Wine, standardised, where a share of all cells is missing and has a code instead."""
    rng = np.random.default_rng([seed, 63])
    parts = whitened(raw_wine(seed))
    return tuple((np.where(rng.random(x.shape) < share, code, x).astype(np.float32), y) for x, y in parts)


def pairs(seed: int, count: int = 700, test: int = 150) -> Any:
    """Pairs of digits in both orders, and whether the first is the greater one; no equal digits."""
    inputs, labels = data("digits")
    rng = np.random.default_rng([seed, 64])
    chosen = rng.permutation(len(inputs))
    parts = []
    for rows, size in ((chosen[:1200], count), (chosen[1200:], test)):
        first, second = rng.choice(rows, 4 * size), rng.choice(rows, 4 * size)
        keep = np.flatnonzero(labels[first] != labels[second])[:size]
        left, right = first[keep], second[keep]
        left, right = np.concatenate([left, right]), np.concatenate([right, left])
        order = rng.permutation(2 * size)
        left, right = left[order], right[order]
        greater = (labels[left] > labels[right]).astype(np.float32)[:, None]
        parts.append((np.concatenate([inputs[left], inputs[right]], axis=1), greater))
    return tuple(parts)


def signed_parity(seed: int, train: int = 500) -> Any:
    """Digits less their mean, and 1 for odd ones, -1 for even ones."""
    (x, y), (other, label) = split("digits", seed, train)
    mean = x.mean(0)
    return tuple(
        ((a - mean).astype(np.float32), (2 * (b % 2) - 1).astype(np.float32)[:, None])
        for a, b in ((x, y), (other, label))
    )


def binned(seed: int, train: int, bins: int) -> Any:
    """Diabetes with each column cut into bins of equally many patients, one column for each bin."""
    parts = diabetes(seed, train)
    edges = np.quantile(parts[0][0], np.linspace(0, 1, bins + 1)[1:-1], axis=0)

    def spread(part: Any) -> Any:
        kinds = (part[0][:, None] >= edges).sum(axis=1)
        return (kinds[..., None] == np.arange(bins)).reshape(len(kinds), -1).astype(np.float32), part[1]

    return tuple(spread(part) for part in parts)


@functools.cache
def huber(apply: Any) -> Any:
    """Mean Huber error: quadratic below 0.5 of a deviation, linear above."""

    def loss(params: Params, batch: Any) -> Any:
        return jnp.mean(optax.huber_loss(apply(params, batch[0]), batch[1], delta=0.5))

    return loss


@functools.cache
def ridged(decay: float) -> Any:
    """Half the mean squared error with a quadratic penalty."""

    @functools.cache
    def objective(apply: Any) -> Any:
        def loss(params: Params, batch: Any) -> Any:
            return squared(apply)(params, batch) + 0.5 * decay * optax.tree.norm(params, squared=True)

        return loss

    return objective
