"""A user's data as weighted batches that can be read again.

A list, or any other re-iterable that is not a pytree container, is a sequence of batches; an array,
tuple, dict or registered pytree is one batch; `None` is no data at all.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from hessian_probe.arrays import Layout, PyTree, hashable
from hessian_probe.operators.thresholds import MOST_BATCHES, SAME_DATA, SLOW_DATA

FINITE = "pass a finite part, for instance list(itertools.islice(data, 100))"
_ENDLESS = "data gave {count:,} batches and goes on: a sampler without end? " + FINITE


class Batches:
    """Batches with explicit weights, where the leading axis does not count the samples.

    Args:
        batches: a re-iterable of batches (pytrees of arrays).
        weights: one positive weight per batch, for instance its number of tokens; or a function that gives
            the weight of a batch, for instance what its mask counts.  The loss is to be the mean over that.

    Raises:
        TypeError: `batches` can be iterated only once.
        ValueError: a weight is not positive and finite, or there are more than MOST_BATCHES batches.

    Examples:
        >>> data = Batches([np.ones((2, 3)), np.ones((2, 3))], weights=[3, 1])
        >>> Data(data).weights
        (0.75, 0.25)
        >>> padded = [{"x": np.ones(4), "mask": np.array(mask)} for mask in ([1, 1, 1, 0], [1, 0, 0, 0])]
        >>> Data(Batches(padded, lambda batch: batch["mask"].sum())).weights
        (0.75, 0.25)
    """

    def __init__(self, batches: Iterable[PyTree], weights: Sequence[float] | Callable[[PyTree], Any]) -> None:
        _refuse_one_shot(batches)
        self.batches = batches
        if callable(weights):
            weights = [weights(batch) for batch in islice(batches, MOST_BATCHES + 1)]
            if len(weights) > MOST_BATCHES:
                raise ValueError(_ENDLESS.format(count=MOST_BATCHES))
        self.weights = tuple(float(w) for w in weights)
        for index, weight in enumerate(self.weights):
            if not (np.isfinite(weight) and weight > 0):
                raise ValueError(f"weights[{index}] is {weight}; a positive finite number is needed")

    def __iter__(self) -> Iterator[PyTree]:
        return iter(self.batches)


class Batch(NamedTuple):
    """One batch, split for compiled functions: static part, array leaves, weight."""

    layout: Layout | None
    arrays: tuple[Any, ...]
    weight: float


class DataChangedError(ValueError):
    """The data was not the same on two passes, so no single loss is being probed."""


class _Every:
    """Every `step`-th item of a re-iterable from `start` on."""

    def __init__(self, source: Iterable[Any], start: int, step: int) -> None:
        self.source, self.start, self.step = source, start, step

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.source), self.start, None, self.step)


def _refuse_one_shot(data: Any) -> None:
    if iter(data) is data:
        raise TypeError(
            f"data is a {type(data).__name__}, which can be read only once; the loss is evaluated "
            "many times: pass a list of batches, list(data), or an object that can be iterated again"
        )


def _is_sequence(data: Any) -> bool:
    if isinstance(data, (list, Batches)):
        return True
    is_leaf = jax.tree_util.all_leaves([data])
    is_array = hasattr(data, "shape") and hasattr(data, "dtype")
    return is_leaf and not is_array and not isinstance(data, (str, bytes)) and hasattr(data, "__iter__")


def _split_batch(tree: PyTree) -> tuple[Layout, tuple[Any, ...]]:
    """Split a batch into array leaves (all passed as arguments) and static leaves."""
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    kinds, arrays, statics = [], [], []
    for leaf in leaves:
        if isinstance(leaf, str) or callable(leaf):
            kinds.append("static")
            statics.append(hashable(leaf))
        else:
            kinds.append("array")
            foreign = not hasattr(leaf, "shape") or type(leaf).__module__.startswith("torch")
            arrays.append(np.asarray(leaf) if foreign else leaf)
    return Layout(treedef, tuple(kinds), (), (), (), tuple(statics)), tuple(arrays)


def _count(arrays: tuple[Any, ...], index: int, opening: list[tuple[int, ...]]) -> float:
    """Samples in a batch, by its leading axis; arrays may disagree where all have the shapes of batch 0."""
    counts = [np.shape(leaf)[0] for leaf in arrays if np.ndim(leaf) > 0]
    if not counts:
        raise ValueError(
            f"batch {index} of data has no array with a leading axis, so its samples cannot be counted; "
            "pass data=Batches(batches, weights=[...])"
        )
    if counts[0] == 0:
        raise ValueError(f"batch {index} of data holds no samples (leading axis 0)")
    shapes = list(map(np.shape, arrays))
    axes = [{shape[0] for shape in each if shape} for each in (opening, shapes)]
    if max(map(len, axes)) > 1 and opening != shapes:
        raise ValueError(
            f"batch 0 of data has arrays with leading axes of {sorted(axes[0])}, batch {index} of "
            f"{sorted(axes[1])}, so samples cannot be counted; say what each batch weighs, for instance "
            "its number of samples: data=Batches(batches, weights=[...])"
        )
    return float(counts[0])


class Data:
    """The data of an objective: iterate to get `Batch` records whose weights sum to one."""

    def __init__(self, data: Any) -> None:
        self.source = data
        self.is_sequence = data is not None and _is_sequence(data)
        self._single: Batch | None = None
        self._signature: tuple[float, ...] | None = None
        self._total, self._count = 1.0, 1
        if self.is_sequence:
            _refuse_one_shot(data)
            return
        self._single = Batch(None, (), 1.0) if data is None else Batch(*_split_batch(data), 1.0)
        if data is not None and not self._single.arrays:
            raise ValueError(f"data ({type(data).__name__}) holds no array; pass arrays or data=None")
        if any(np.ndim(leaf) > 0 and np.shape(leaf)[0] == 0 for leaf in self._single.arrays):
            raise ValueError("data holds no samples (an array with leading axis 0)")

    @property
    def count(self) -> int:
        """Number of batches."""
        self._look()
        return self._count

    @property
    def total(self) -> float:
        """Weight of all batches together: the number of samples, unless weights were given."""
        self._look()
        return self._total

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of the samples in each batch."""
        return tuple(batch.weight for batch in self)

    def part(self, start: int, step: int) -> Data:
        """Every `step`-th batch from `start` on."""
        if isinstance(self.source, list):
            return Data(self.source[start::step])
        if isinstance(self.source, Batches):
            return Data(Batches(_Every(self.source, start, step), self.source.weights[start::step]))
        return Data(_Every(self.source, start, step))

    def _look(self) -> None:
        if self._single is None and self._signature is None:
            self._signature = self._first_pass()

    def __iter__(self) -> Iterator[Batch]:
        if self._single is not None:
            yield self._single
            return
        self._look()
        sums: list[float] = []
        for batch in self._raw():
            sums += self._sums(batch)
            yield batch._replace(weight=batch.weight / self._total)
        self._compare(sums)

    def _raw(self) -> Iterator[Batch]:
        weights = self.source.weights if isinstance(self.source, Batches) else None
        first: tuple[Any, tuple[Any, ...]] | None = None
        opening: list[tuple[int, ...]] = []
        index = -1
        for index, tree in enumerate(self.source):
            layout, arrays = _split_batch(tree)
            tails = tuple(np.shape(leaf)[1:] for leaf in arrays)
            if first is None:
                first, opening = (layout.treedef, tails), list(map(np.shape, arrays))
            elif first != (layout.treedef, tails):
                raise ValueError(
                    f"data is a sequence of batches, but batch {index} has another structure or other "
                    f"trailing shapes than batch 0 ({tails} against {first[1]}); if data is one batch, "
                    "pass it as a tuple or dict"
                )
            if weights is not None and index >= len(weights):
                raise ValueError(f"data has more batches than its {len(weights)} weights")
            weight = _count(arrays, index, opening) if weights is None else weights[index]
            yield Batch(layout, arrays, weight)
        if weights is not None and index + 1 != len(weights):
            raise ValueError(f"data has {index + 1} batches but {len(weights)} weights")

    def _first_pass(self) -> tuple[float, ...]:
        sums: list[float] = []
        self._total, self._count = 0.0, 0
        warn_at: float | None = time.monotonic() + SLOW_DATA
        size = getattr(self.source, "cardinality", None)  # of tf.data; −1 is without end
        if callable(size) and int(size()) == -1:
            raise ValueError(f"data has no end (its cardinality is infinite); {FINITE}")
        for batch in self._raw():
            if self._count == MOST_BATCHES:
                raise ValueError(_ENDLESS.format(count=self._count))
            if warn_at is not None and time.monotonic() > warn_at:
                warn_at = None
                warnings.warn(
                    f"data gave {self._count:,} batches in {SLOW_DATA:g} seconds, and goes on; it is read "
                    "once before anything is computed, and again for every evaluation: a part of it may do",
                    stacklevel=2,
                )
            self._total += batch.weight
            self._count += 1
            sums += self._sums(batch)
        if not sums:
            raise ValueError("data is empty: it yields no batch")
        return tuple(sums)

    def _sums(self, batch: Batch) -> list[float]:
        """A batch's weight and the sums of its entries; a list is kept by us and needs no such sums."""
        if isinstance(self.source, list):
            return [batch.weight]
        return [batch.weight] + [
            float(np.sum(np.abs(leaf), dtype=np.float64))
            for leaf in batch.arrays
            if isinstance(leaf.dtype, np.dtype) and leaf.dtype.kind in "fiub"
        ]

    def _compare(self, sums: list[float]) -> None:
        expected = self._signature or ()
        if not sums:
            raise DataChangedError(
                "data ran dry: it gave batches on the first pass and none on a later one; pass list(data)"
            )
        if len(sums) != len(expected):
            raise DataChangedError(
                f"data changed between passes: another number of batches ({len(sums)} records "
                f"against {len(expected)}); pass a fixed list of batches"
            )
        width = float(np.sum(expected)), float(np.sum(sums))
        if not np.all(np.isfinite(width)):  # the loss will show it, and say so
            return
        moved = isinstance(self.source, list) and not np.array_equal(np.sort(sums), np.sort(expected))
        if moved or not np.isclose(*width, rtol=SAME_DATA):
            raise DataChangedError(
                "data changed between passes: its entries sum to "
                f"{width[1]:.8g} after {width[0]:.8g}; switch off augmentation and dropping of "
                "samples, or pass a fixed list of batches"
            )
