"""Which data a probe looks at, and which other data confirms what it found."""

from __future__ import annotations

import itertools
import operator
from typing import Any, NamedTuple

import jax
import numpy as np

from hessian_probe.arrays import PyTree
from hessian_probe.operators.data import Batches, Data

# Batches in one sample: what a probe multiplies with, and as many again to confirm.
BATCHES = 4


class ProbeBatches(NamedTuple):
    """Data to probe on, and data not seen by the probe (None where the probe sees all there is)."""

    probe: Any
    fresh: Any
    what: str


def draw(data: Any, batch: PyTree, turn: int) -> ProbeBatches:
    """Choose the data of the `turn`-th probe.

    One batch as `data` is taken for all the data there is.  Of a sequence of batches, eight neighbours
    are taken, others at each turn: every other one to probe on, the rest to confirm.  Without `data`,
    the training batch is halved.

    Args:
        data: the monitor's data.
        batch: the training step's batch, or None.
        turn: number of probes so far.

    Returns:
        The sample.
    """
    if data is None:
        return ProbeBatches(None, None, "the loss") if batch is None else _halves(batch)
    if not Data(data).is_sequence:
        return ProbeBatches(data, None, "the data")
    weights = data.weights if isinstance(data, Batches) else None
    batches = data if isinstance(data, list) else None
    count = len(weights) if weights is not None else operator.length_hint(data) or sum(1 for _ in data)
    if count == 1:
        return ProbeBatches(data, None, "the one batch of data")
    width = min(2 * BATCHES, count)
    chosen = [(turn * width + offset) % count for offset in range(width)]
    if batches is None:
        wanted = set(chosen)
        kept = {i: item for i, item in enumerate(itertools.islice(data, max(wanted) + 1)) if i in wanted}
    else:
        kept = {i: batches[i] for i in chosen}

    def part(numbers: list[int]) -> Any:
        items = [kept[i] for i in numbers]
        return items if weights is None else Batches(items, [weights[i] for i in numbers])

    return ProbeBatches(part(chosen[::2]), part(chosen[1::2]), f"{(width + 1) // 2} of {count} batches")


def _halves(batch: PyTree) -> ProbeBatches:
    """Halve a batch along the leading axis of its arrays."""
    sizes = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf) > 0}
    if len(sizes) != 1 or min(sizes) < 2:
        return ProbeBatches(batch, None, "the training batch, which cannot be halved to confirm it")
    half = sizes.pop() // 2

    def cut(first: bool) -> PyTree:
        def leaf(x: Any) -> Any:
            if np.ndim(x) == 0:
                return x
            return x[:half] if first else x[half : 2 * half]

        return jax.tree.map(leaf, batch)

    return ProbeBatches(cut(True), cut(False), "half of the training batch")
