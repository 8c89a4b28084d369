"""Training and test data as samples: one array for each leaf, inputs beside targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.operators.data import Data

INPUTS = ("x", "inputs", "input", "image", "images", "features", "tokens")
TARGETS = ("y", "targets", "target", "label", "labels")


class Samples(NamedTuple):
    """All batches of a data set joined along their leading axis.

    Attributes:
        batch: one pytree of NumPy arrays.
        size: number of samples.
        inputs: the input array, or None where it cannot be told which one it is.
        targets: the target array, or None.
        batch_size: median number of samples in a batch, or None where there was one batch.
    """

    batch: Any
    size: int
    inputs: np.ndarray | None
    targets: np.ndarray | None
    batch_size: int | None

    def take(self, index: Any) -> Any:
        """A batch of some of the samples."""
        return jax.tree.map(lambda leaf: leaf[index], self.batch)

    def part(self, index: Any) -> Samples:
        """Some of the samples."""
        inputs = None if self.inputs is None else self.inputs[index]
        targets = None if self.targets is None else self.targets[index]
        return Samples(self.take(index), len(index), inputs, targets, self.batch_size)

    def with_inputs(self, inputs: np.ndarray) -> Any:
        """The whole batch with other inputs."""
        if not isinstance(self.batch, Mapping):
            return inputs, self.batch[1]
        name = next(name for name in self.batch if str(name).lower() in INPUTS)
        return {**self.batch, name: inputs}


def count_nonfinite(samples: Samples) -> int:
    """Count the numbers that are not finite."""
    return sum(int(np.sum(~_finite(leaf))) for leaf in jax.tree.leaves(samples.batch))


def _finite(leaf: np.ndarray) -> np.ndarray:
    floating = jnp.issubdtype(leaf.dtype, jnp.inexact)
    return np.isfinite(leaf) if floating else np.ones(leaf.shape, bool)


def finite_rows(samples: Samples) -> np.ndarray:
    """Whether all numbers of a sample are finite, shape (size,)."""
    leaves = jax.tree.leaves(samples.batch)
    return np.all([_finite(leaf).reshape(samples.size, -1).all(axis=1) for leaf in leaves], axis=0)


def assign_folds(rows: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Assign rows to parts by chance; exact copies of a row go together, so that none is known by heart.

    Returns:
        The part of every row; and whether it is the first of its copies.
    """
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    as_bytes = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    _, first, copy = np.unique(as_bytes, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[copy]  # copies counted in the order in which they appear
    part = rng.permutation(np.arange(len(first)) % count)[place]
    return part, np.isin(np.arange(len(rows)), first)


def join_batches(source: Any) -> Samples | None:
    """Join the batches of a data set, given as `hp.hessian` takes it.

    Returns:
        The samples; None where leaves do not share a leading axis that counts samples.

    Raises:
        ValueError: there is no batch.
    """
    data = Data(source)
    batches = list(source) if data.is_sequence else [source]
    if not batches:
        raise ValueError("the data are an empty list; pass at least one batch")
    trees = [jax.tree.map(np.asarray, batch) for batch in batches]
    leaves = jax.tree.leaves(trees[0])
    if not leaves or any(leaf.ndim == 0 or leaf.dtype == object for leaf in leaves):
        return None
    counts = [jax.tree.leaves(tree)[0].shape[0] for tree in trees]
    for tree, count in zip(trees, counts, strict=True):
        if any(leaf.shape[0] != count for leaf in jax.tree.leaves(tree)):
            return None
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *trees)
    inputs, targets = _inputs_targets(joined)
    size = int(np.median(counts)) if len(counts) > 1 else None
    return Samples(joined, int(sum(counts)), inputs, targets, size)


def _inputs_targets(batch: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    if isinstance(batch, Mapping):
        names = {str(name).lower(): name for name in batch}
        found = [next((batch[names[n]] for n in wanted if n in names), None) for wanted in (INPUTS, TARGETS)]
        arrays = [leaf if isinstance(leaf, np.ndarray) else None for leaf in found]
        return arrays[0], arrays[1]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        first, second = batch
        if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
            return first, second
    if isinstance(batch, np.ndarray):
        return batch, None
    return None, None
