"""Blocks of a symmetric map: those of some leaves alone, and of every layer side by side."""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Basis, Layout, Vector, chosen_variables, hold_others, leaf_name, merge
from hessian_probe.operators.symmetric import DerivedOperator, SymmetricOperator, require_operator

# Steps to the array within a variable of a framework (Flax NNX), which are no layer.
INNER = (".value", ".raw_value")


def restrict(op: SymmetricOperator, *, where: Any) -> BlockOperator:
    """Restrict an operator to some of its variables: the diagonal block of a layer or a path.

    Args:
        op: an operator of this package.
        where: a path as it is printed, for all variables there and below ("params['encoder']"); or a function
            of (leaf) or (path, leaf), or a mask, as `trainable` of `hp.hessian`.  It chooses among the
            variables of `op`.

    Returns:
        The block, a symmetric map of fewer variables.  Its pytrees are like params, zero at other leaves.

    Raises:
        TypeError: `op` is no operator; `where` is none of these.
        ValueError: `where` chooses no variable, or is a mask that does not fit.

    Cost:
        A product is one of the whole.  `hp.hessian(..., trainable=)` differentiates by the block alone.

    Examples:
        >>> import hessian_probe as hp
        >>> params = {"a": {"w": jnp.ones(2)}, "b": {"w": jnp.ones(3)}}
        >>> op = hp.hessian(lambda p: jnp.sum(p["a"]["w"]) ** 2 + jnp.sum(p["b"]["w"] ** 3), params)
        >>> restrict(op, where="params['a']").dense().tolist()
        [[2.0, 2.0], [2.0, 2.0]]
    """
    require_operator(op)
    return BlockOperator(op, chosen_variables(op.layout, merge(op.layout, op.x, op.non_variables), where))


def block_diagonal(
    op: SymmetricOperator, *, by: str | Callable[[str], Any] = "layer"
) -> BlockDiagonalOperator:
    """Leave of an operator its diagonal blocks, one for each layer.

    Args:
        op: an operator of this package.
        by: "layer": leaves with the same path but for its last step (a kernel and its bias) are one block,
            and a leaf directly under params is its own; "leaf": each leaf is a block; or a function of a
            leaf's path, as it is printed: leaves with the same value of it are one block.

    Returns:
        The block-diagonal map, on the same variables.

    Raises:
        TypeError: `op` is no operator.
        ValueError: `by` is another word.

    Cost:
        A product is one of the whole for every block: that many are entered in the ledger of `op`.

    Examples:
        >>> import hessian_probe as hp
        >>> op = hp.hessian(lambda p: (p["a"] * p["b"]) ** 2, {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)})
        >>> block_diagonal(op).dense().tolist()
        [[8.0, 0.0], [0.0, 2.0]]
    """
    require_operator(op)
    return BlockDiagonalOperator(op, blocks_of(op.layout, by))


def blocks_of(layout: Layout, by: str | Callable[[str], Any]) -> dict[str, tuple[bool, ...]]:
    """Sort variables into blocks, as `block_diagonal` says.

    Returns:
        For each block its name, and for each variable whether the block holds it.

    Raises:
        ValueError: `by` is another word than "layer" or "leaf".
    """
    if by not in ("layer", "leaf") and not callable(by):
        raise ValueError(f'by={by!r}; expected "layer", "leaf" or a function of a path')
    numbered = jax.tree_util.tree_unflatten(layout.treedef, range(len(layout.kinds)))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(numbered)[0]]
    keys = []
    for path, kind in zip(paths, layout.kinds, strict=True):
        inner = bool(path) and str(path[-1]) in INNER
        above = path[: -1 - inner]
        if kind == "variable":
            name = leaf_name(path)
            keys.append(by(name) if callable(by) else leaf_name(above) if by == "layer" and above else name)
    return {str(key): tuple(other == key for other in keys) for key in dict.fromkeys(keys)}


class BlockOperator(DerivedOperator):
    """The diagonal block of some leaves, as `restrict` returns it.

    Args:
        op: the whole.
        chosen: for each of its variables, whether the block holds it.
    """

    def __init__(self, op: SymmetricOperator, chosen: tuple[bool, ...]) -> None:
        layout, x, others = hold_others(op.layout, op.x, op.non_variables, chosen, "outside where=")
        active = tuple(compress(op.active, chosen))
        super().__init__([op], layout=layout.require_variables(), x=x, non_variables=others, active=active)
        self.chosen = chosen

    def product(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space; the caller counts."""
        return self._inside(self.parts[0].product, v)

    def product_rows(self, vectors: Basis) -> Basis:
        """Multiply every row of a basis; the caller counts."""
        return self._inside(self.parts[0].product_rows, vectors)

    def _inside(self, multiply: Callable[[Vector], Vector], v: Vector) -> Vector:
        whole, given = self.parts[0].layout, iter(v)
        axes = jnp.shape(v[0])[: jnp.ndim(v[0]) - len(self.layout.shapes[0])]  # of rows, if there are any
        rows = zip(self.chosen, whole.shapes, whole.work_dtypes, strict=True)
        wide = tuple(next(given) if on else jnp.zeros((*axes, *shape), dtype) for on, shape, dtype in rows)
        return tuple(compress(multiply(wide), self.chosen))


class BlockDiagonalOperator(DerivedOperator):
    """The diagonal blocks of a map, as `block_diagonal` returns it.

    Args:
        op: the whole.
        blocks: for each block its name, and for each variable whether the block holds it.

    Attributes:
        blocks: the same.
    """

    def __init__(self, op: SymmetricOperator, blocks: dict[str, tuple[bool, ...]]) -> None:
        read = [chosen for chosen in blocks.values() if any(compress(op.active, chosen))]
        super().__init__([op] * max(len(read), 1))
        self.blocks, self._read = blocks, read

    def product(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space; the caller counts."""
        return self._side_by_side(self.parts[0].product, v)

    def product_rows(self, vectors: Basis) -> Basis:
        """Multiply every row of a basis; the caller counts."""
        return self._side_by_side(self.parts[0].product_rows, vectors)

    def _side_by_side(self, multiply: Callable[[Vector], Vector], v: Vector) -> Vector:
        total = zero = tuple(map(jnp.zeros_like, v))
        for chosen in self._read:
            image = multiply(_chosen(chosen, v, zero))
            total = _chosen(chosen, image, total)
        return total

    def _described(self) -> str:
        return f"{len(self.blocks)} blocks"


def _chosen(chosen: tuple[bool, ...], ours: Vector, others: Vector) -> Vector:
    return tuple(a if on else b for on, a, b in zip(chosen, ours, others, strict=True))
