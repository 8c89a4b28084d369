"""Data that scikit-learn ships, split by a seed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from sklearn import datasets


@functools.cache
def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, standardised (digits: between 0 and 1), and targets; float32."""
    if name == "digits":
        inputs, labels = datasets.load_digits(return_X_y=True)
        return (inputs / 16).astype(np.float32), labels.astype(np.int32)
    assert name == "wine"
    inputs, labels = datasets.load_wine(return_X_y=True)
    return ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32), labels.astype(np.int32)


def split(name: str, seed: int, train: int, test: int = 300) -> tuple[Any, Any]:
    """Disjoint random training and test parts."""
    inputs, targets = data(name)
    order = np.random.default_rng([seed, 1]).permutation(len(inputs))
    first, second = order[:train], order[train : train + test]
    return (inputs[first], targets[first]), (inputs[second], targets[second])


def mislabelled(part: Any, seed: int, share: float, classes: int) -> Any:
    """A part with some labels drawn at random: its best loss is not zero, and curvature stays."""
    rng = np.random.default_rng([seed, 9])
    labels, chosen = part[1].copy(), rng.random(len(part[1])) < share
    labels[chosen] = rng.integers(0, classes, chosen.sum())
    return part[0], labels.astype(np.int32)


def cancer(seed: int, train: int = 400) -> tuple[Any, Any]:
    """Breast cancer data in their own units: inputs from 0.001 to 4,000."""
    inputs, labels = datasets.load_breast_cancer(return_X_y=True)
    chosen = np.random.default_rng([seed, 1]).permutation(len(inputs))
    parts = (chosen[:train], chosen[train:])
    return tuple((inputs[i].astype(np.float32), labels[i].astype(np.int32)) for i in parts)


def whitened(parts: Any) -> Any:
    """Training and test part with the inputs standardised by the training part."""
    mean, deviation = parts[0][0].mean(0), parts[0][0].std(0)
    return tuple((((x - mean) / deviation).astype(np.float32), y) for x, y in parts)


def parted(inputs: np.ndarray, targets: np.ndarray, seed: int, train: int, test: int) -> Any:
    """Disjoint random training and test parts of arrays."""
    chosen = np.random.default_rng([seed, 1]).permutation(len(inputs))
    parts = (chosen[:train], chosen[train : train + test])
    return tuple((inputs[i].astype(np.float32), targets[i]) for i in parts)


def iris(seed: int) -> Any:
    """Iris, standardised; 100 and 50 samples."""
    inputs, labels = datasets.load_iris(return_X_y=True)
    return whitened(parted(inputs, labels.astype(np.int32), seed, 100, 50))


def raw_wine(seed: int) -> Any:
    """Wine in its own units: inputs from 0.1 to 1,700; 120 and 58 samples."""
    inputs, labels = datasets.load_wine(return_X_y=True)
    return parted(inputs, labels.astype(np.int32), seed, 120, 58)


def diabetes(seed: int, train: int = 300, *, raw: bool = False) -> Any:
    """Diabetes: ten inputs (raw: in their own units, 20 to 300), and the progression, standardised."""
    inputs, target = datasets.load_diabetes(return_X_y=True, scaled=not raw)
    target = ((target - target.mean()) / target.std()).astype(np.float32)[:, None]
    parts = parted(inputs, target, seed, train, 142)
    return parts if raw else whitened(parts)


@functools.cache
def photo() -> np.ndarray:
    """Grey values of the photograph of a temple that scikit-learn ships, from 0 to 1."""
    return np.asarray(datasets.load_sample_image("china.jpg").mean(axis=2) / 255)


def patches(seed: int, train: int = 600, test: int = 300) -> np.ndarray:
    """Random 5 × 5 patches of the photograph, (train + test, 25), of mean 0 and deviation 1 in all."""
    rng = np.random.default_rng([seed, 15])
    tops, lefts = (rng.integers(0, size - 5, train + test) for size in photo().shape)
    cut = np.stack([photo()[i : i + 5, j : j + 5].ravel() for i, j in zip(tops, lefts, strict=True)])
    return ((cut - cut.mean()) / cut.std()).astype(np.float32)


def centre(seed: int, train: int = 600) -> Any:
    """The middle pixel of a patch from the 24 around it."""
    cut = patches(seed, train)
    inputs, target = np.delete(cut, 12, axis=1), cut[:, 12:13]
    return (inputs[:train], target[:train]), (inputs[train:], target[train:])


def contrast(seed: int, train: int = 600) -> Any:
    """The logarithm of a patch's own deviation, standardised, from its 25 pixels."""
    cut = patches(seed, train)
    target = np.log(cut.std(axis=1, keepdims=True) + 1e-2)
    target = ((target - target.mean()) / target.std()).astype(np.float32)
    return (cut[:train], target[:train]), (cut[train:], target[train:])
