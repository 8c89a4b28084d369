"""Inputs as standardised rows, and random features of them for models that are richer than linear ones."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist

# Inputs that a baseline sees at most; more are projected at random.
MAX_INPUTS = 1024
# Random features of the richer baseline (Rahimi and Recht 2007: random features for kernel machines): as many
# with a ReLU, and twice as many waves.
FEATURES = 256


class Features:
    """Inputs as rows, standardised as those given first, with a constant; projected where they are wide."""

    def __init__(self, inputs: np.ndarray, rng: np.random.Generator) -> None:
        array = np.asarray(inputs)
        self.tokens = 0
        if array.dtype.kind in "iu" and array.max(initial=0) < 256:  # tokens: one-hot by place
            values = int(array.max(initial=0)) + 1
            self.tokens = values if values * array[0].size <= 4 * MAX_INPUTS else 0
        self.projection: np.ndarray | None = None
        width = self._flat(array[:1]).shape[1]
        if width > MAX_INPUTS:
            self.projection = rng.standard_normal((width, MAX_INPUTS)) / np.sqrt(MAX_INPUTS)
        flat = self._flat(array)
        self.mean, scale = flat.mean(axis=0), flat.std(axis=0)
        self.scale = np.where(scale > 1e-12 * np.max(scale, initial=0.0), scale, np.inf)

    def _flat(self, array: np.ndarray) -> np.ndarray:
        flat = np.asarray(array, np.float64).reshape(len(array), -1)
        if self.tokens:
            flat = np.eye(self.tokens)[np.clip(flat, 0, self.tokens - 1).astype(int)].reshape(len(flat), -1)
        return flat if self.projection is None else flat @ self.projection

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Rows of inputs."""
        rows = (self._flat(np.asarray(inputs)) - self.mean) / self.scale
        return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def standardise(inputs: np.ndarray) -> np.ndarray:
    """Inputs (floats) of mean 0, deviation 1: each column of a table, else all; 0 where nothing varies."""
    array = np.asarray(inputs, np.float64)
    axes = (0,) if array.ndim == 2 else tuple(range(array.ndim))
    mean, scale = array.mean(axis=axes, keepdims=True), array.std(axis=axes, keepdims=True)
    varies = scale > 1e-12 * np.abs(mean)
    return ((array - mean) / np.where(varies, scale, np.inf)).astype(inputs.dtype)


class RandomFeatures:
    """Random ReLU features and waves of rows, beside the rows themselves.

    Waves are those of a Gaussian kernel as wide as the median distance of two rows, and half as wide.  The
    rows given first set that distance and the scale of every feature.
    """

    def __init__(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        width = rows.shape[1]
        self.weights = rng.standard_normal((width, FEATURES)) * np.sqrt(2 / width)
        some = rows[rng.permutation(len(rows))[:200]]
        apart = pdist(some)
        typical = float(np.median(apart[apart > 0])) if np.any(apart > 0) else 1.0
        sizes = np.repeat([1 / typical, 2 / typical], FEATURES)
        self.waves = rng.standard_normal((width, 2 * FEATURES)) * sizes
        self.phase = rng.uniform(0, 2 * np.pi, 2 * FEATURES)
        hidden = self._hidden(rows)
        self.mean, self.scale = hidden.mean(0), hidden.std(0) + 1e-12

    def _hidden(self, rows: np.ndarray) -> np.ndarray:
        waves = np.cos(rows @ self.waves + self.phase)
        return np.concatenate([np.maximum(rows @ self.weights, 0), waves], axis=1)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Features of rows."""
        return np.concatenate([rows, (self._hidden(rows) - self.mean) / self.scale], axis=1)
