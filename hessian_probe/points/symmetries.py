"""Families of large moves of the parameters that leave the loss unchanged: symmetries, found numerically."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Float, Vector, generator
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.points.rounding import Rounding, perturbed_operator
from hessian_probe.points.thresholds import (
    MOVE,
    NEIGHBOURS,
    SCREEN,
    TRIED_MOVES,
    UNCHANGED_ROUNDINGS,
    VISIBLE_MOVE,
)

Entries = Float[np.ndarray, "..."]
# Slices of a leaf along an axis (None: the leaf is one unit), and the power of the factor that they take.
Units = tuple[int, int | None, int]


class FlatFamily(NamedTuple):
    """Directions along which the loss is constant: what moves, and the number of directions."""

    name: str
    dimension: int


def flat_families(op: HessianOperator, rounding: Rounding) -> tuple[FlatFamily, ...]:
    """Find families of large moves of the parameters that leave the loss unchanged to rounding.

    A symmetry x ↦ exp(tG)x has ⟨∇loss, Gx⟩ = 0 at every x (D. Kunin et al., Neural Mechanics, ICLR 2021,
    arXiv:2012.04728).  One gradient at a random point nearby excludes nearly all candidates; finite moves
    of the parameters, drawn twice, decide on the others.  These are, for each leaf: any change of it, or of
    the entries whose gradient is exactly zero; the same amount added along an axis; a factor for each slice
    along an axis, or one for all.  For two leaves with an axis of equal length, and a vector of that length:
    positive factors c for the units of one and 1/c or c for the others (relu, normalisation); A and A⁻¹
    (linear layers, low rank, queries and keys).  Of families of the same units only the largest is named.

    Not tried: signs and permutations (no directions), moves within groups of units (heads), three matrices
    at once, amounts added to several leaves, leaves more than NEIGHBOURS apart, leaves that the program
    ignores.  A regulariser or a constant in a normalisation ends a symmetry once it exceeds rounding.

    Returns:
        The families.  They can overlap: dimensions do not add up.

    Cost:
        One gradient; two losses for a candidate that changes the loss, at most six for one that does not.
    """
    if not (math.isfinite(op.value) and math.isfinite(rounding.value)):
        return ()
    search = _Candidates(op, rounding)
    for leaf in tuple(search.leaves):
        search.add(leaf)
    for members in search.units():
        search.rescale(*members)
    return tuple(search.found)


class _Candidates:
    """Candidates at a point, and what was found."""

    def __init__(self, op: HessianOperator, rounding: Rounding) -> None:
        self.op, self.rounding, self.rng, self.tries = op, rounding, generator(), TRIED_MOVES
        self.x = [np.atleast_1d(np.asarray(leaf, np.float64)) for leaf in op.x]
        self.leaves = [i for i, on in enumerate(op.active) if on and self.x[i].size]
        self.scale = parameter_scale(op)
        least = self.scale / math.sqrt(op.size)
        near = {i: self.x[i] + self.normal(i, MOVE * max(_rms(self.x[i]), least)) for i in self.leaves}
        gradient = op.objective.value_and_gradient(self.vector(near))[1]
        self.g = {i: np.asarray(gradient[i], np.float64).reshape(near[i].shape) for i in near}
        self.steepness = math.hypot(*map(np.linalg.norm, self.g.values()))
        terms = {i: near[i] * self.g[i] for i in near}
        self.lengths = {i: float(np.linalg.norm(terms[i])) for i in near}
        axes = [(i, axis) for i in near for axis in (*range(near[i].ndim), None)]
        lasts = {(i, axis): _last(terms[i], axis) for i, axis in axes}
        self.sums = {key: last.sum(axis=tuple(range(last.ndim - 1))) for key, last in lasts.items()}
        self.named: set[tuple[int, int | None]] = set()
        self.found: list[FlatFamily] = []

    def vector(self, new: dict[int, Entries]) -> Vector:
        """The parameters with some leaves replaced."""
        rows = enumerate(zip(self.op.x, self.op.layout.dtypes, strict=True))
        return tuple(jnp.asarray(new[i].reshape(x.shape), t) if i in new else x for i, (x, t) in rows)

    def normal(self, leaf: int, size: Any, fixed: int | None = None) -> Entries:
        """Normal entries of a size like a leaf's; along the axis `fixed` they are the same."""
        shape = [1 if axis == fixed else length for axis, length in enumerate(self.x[leaf].shape)]
        return size * self.rng.standard_normal(shape)

    def unchanged(self, move: Callable[..., dict[int, Entries]], *args: Any, seen: bool = False) -> bool:
        """Whether two moves leave the loss unchanged, and (unless `seen`) normal entries do not."""
        loss, here, self.tries = self.op.objective.value, self.op.value, self.tries - 1
        for _ in range(2 if self.tries >= 0 else 0):
            new = move(*args)
            there = self.vector(new)
            value = loss(there)
            error = abs(loss(perturbed_operator(self.op.at(there), self.rng).x) - value)
            allowed = UNCHANGED_ROUNDINGS * (self.rounding.value + error)
            if not abs(value - here) <= allowed:
                return False
            if not seen:
                other = {i: self.x[i] + self.normal(i, _rms(leaf - self.x[i])) for i, leaf in new.items()}
                seen = abs(loss(self.vector(other)) - here) > VISIBLE_MOVE * allowed
        return seen and self.tries >= 0

    def add(self, leaf: int) -> None:
        """Change the whole leaf, or its entries without any gradient, or all along an axis by the same."""
        x, g, name = self.x[leaf], self.g[leaf], self.op.layout.names[leaf]
        still = np.asarray(self.op.gradient_vector[leaf]).reshape(x.shape) == 0
        whole = still.all() or _small(g, self.steepness)
        if whole and self.unchanged(self.added, leaf, seen=True):
            self.leaves.remove(leaf)
            self.found.append(FlatFamily(f"every entry of {name}", x.size))
            return
        if still.any() and not still.all() and self.unchanged(self.added, leaf, still, seen=True):
            self.found.append(FlatFamily(f"{still.sum()} of {x.size} entries of {name}", int(still.sum())))
        for axis, length in enumerate(x.shape if x.size > 1 else ()):
            if _small(g.sum(axis), np.linalg.norm(g)) and self.unchanged(self.added, leaf, 1.0, axis):
                lines = _slices(x.ndim, 1 - axis if x.ndim == 2 else axis)
                self.found.append(FlatFamily(f"the same amount along {lines}{name}", x.size // length))

    def added(self, leaf: int, moved: Any = 1.0, fixed: int | None = None) -> dict[int, Entries]:
        """Add random entries where `moved`."""
        size = MOVE * self.scale / math.sqrt(self.x[leaf].size)
        return {leaf: self.x[leaf] + moved * self.normal(leaf, size, fixed)}

    def units(self) -> Iterator[tuple[Units, ...]]:
        """Units that may take factors together: of a leaf, of two near each other, of a vector near both."""
        axes = {i: [*np.argsort(self.x[i].shape)[::-1].tolist(), None] for i in self.leaves}
        yield from (((i, axis, 1),) for i in axes for axis in axes[i])
        for distance, i in product(range(1, NEIGHBOURS + 1), axes):
            vectors = [v for v in axes if abs(v - i) <= NEIGHBOURS and self.x[v].ndim == 1]
            for a, b, power in product(axes[i], axes.get(i + distance, ()), (-1, 1)):
                pair = (i, a, 1), (i + distance, b, power)
                if (a is None) == (b is None):
                    yield pair
                    yield from ((*pair, (v, 0, sign)) for v in vectors for sign in (1, -1) if a is not None)

    def rescale(self, *members: Units) -> None:
        """Scale units by positive factors or their inverses; where that changes nothing, mix them too."""
        keys = [(leaf, axis) for leaf, axis, _ in members]
        sums = [power * self.sums[leaf, axis] for leaf, axis, power in members]
        known = (all if keys[0][1] is None else any)(key in self.named for key in keys)
        if known or len(dict(keys)) < len(keys) or any(s.size != sums[0].size for s in sums):
            return
        small = _small(sum(sums), *(self.lengths[leaf] for leaf, _ in keys))
        if not (small and self.unchanged(self.scaled, members)):
            return
        self.named.update(keys, ((leaf, None) for leaf, _ in keys))
        sides = [[key for key, m in zip(keys, members, strict=True) if m[2] == power] for power in (1, -1)]
        width, sides = sums[0].size, [side for side in sides if side]
        rows = [np.concatenate([_last(self.x[i], k).reshape(-1, width) for i, k in side]) for side in sides]
        what, dimension = "scale", int(np.any(np.concatenate(rows), axis=0).sum())
        if width > 1 and len(rows) > 1 and self.unchanged(self.scaled, members, True):
            # (XA, YA⁻ᵀ) moves with all of A but the part K with XK = 0 and YKᵀ = 0.
            ranks = [np.linalg.matrix_rank(side, rtol=width * self.op.eps) for side in rows]
            what, dimension = "mixing", width**2 - math.prod(width - int(rank) for rank in ranks)
        names = [[_slices(self.x[i].ndim, k) + self.op.layout.names[i] for i, k in side] for side in sides]
        self.found.append(FlatFamily(f"{what} of {' against '.join(map(' and '.join, names))}", dimension))

    def scaled(self, members: tuple[Units, ...], mixed: bool = False) -> dict[int, Entries]:
        """Multiply units by random factors or their inverses; or by I + uvᵀ and its inverse."""
        width, new = self.sums[members[0][:2]].size, {}
        logs = self.rng.uniform(MOVE, 2 * MOVE, width) * self.rng.choice([-1, 1], width)
        u, v = (math.sqrt(MOVE) * w / np.linalg.norm(w) for w in self.rng.standard_normal((2, width)))
        for leaf, axis, power in members:
            x = _last(self.x[leaf], axis)
            if not mixed:
                x = x * np.exp(power * logs)
            elif power > 0:
                x = x + np.multiply.outer(x @ u, v)
            else:
                x = x - np.multiply.outer(x @ v, u) / (1 + u @ v)
            new[leaf] = np.moveaxis(x, -1, -1 if axis is None else axis).reshape(self.x[leaf].shape)
        return new


def _slices(ndim: int, axis: int | None) -> str:
    kinds = {1: ["entries of "], 2: ["rows of ", "columns of "]}
    return "" if axis is None else kinds.get(ndim, [f"axis {k} of " for k in range(ndim)])[axis]


def _last(leaf: Entries, axis: int | None) -> Entries:
    return leaf.reshape(-1, 1) if axis is None else np.moveaxis(leaf, axis, -1)


def _rms(leaf: Entries) -> float:
    return float(np.linalg.norm(leaf)) / math.sqrt(max(leaf.size, 1))


def _small(total: Any, *lengths: Any) -> bool:
    return float(np.linalg.norm(total)) <= SCREEN * math.hypot(*lengths)
