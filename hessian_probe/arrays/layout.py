"""How a parameter pytree splits into variables and all else, and back.

A vector holds one array for each variable, in at least float32; a basis holds vectors as rows.  Both can be
written as flat float64 arrays on the host.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays.types import Array, Basis, Float, PyTree, Vector


def at_least_float32(dtype: Any) -> Any:
    """Widen a floating dtype to float32 where it is narrower; no promotion mode matters."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def widest(dtypes: Iterable[Any]) -> Any:
    """Widest of some floating dtypes."""
    return max(map(jnp.dtype, dtypes), key=lambda d: int(jnp.finfo(d).bits))


class Identity:
    """Make any object hashable by identity, so that it can be a static argument of `jax.jit`."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.value is self.value


def hashable(value: object) -> Hashable:
    """Return `value` itself if it can be hashed, else a wrapper that hashes by identity."""
    try:
        hash(value)
    except TypeError:
        return Identity(value)
    return value


class Layout(NamedTuple):
    """How a pytree splits into variables, other arrays and static leaves (hashable).

    `kinds` has one entry per leaf: "variable", "array" or "static".
    """

    treedef: Any
    kinds: tuple[str, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    statics: tuple[Hashable, ...]

    @property
    def size(self) -> int:
        """Number of scalar variables."""
        return int(sum(np.prod(shape, dtype=np.int64) for shape in self.shapes))

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector."""
        rows = zip(self.shapes, self.work_dtypes, strict=True)
        return sum(int(np.prod(shape, dtype=np.int64)) * jnp.dtype(dtype).itemsize for shape, dtype in rows)

    @property
    def work_dtypes(self) -> tuple[Any, ...]:
        """Data type of each leaf of a vector: the variable's own, but at least float32."""
        return tuple(at_least_float32(dtype) for dtype in self.dtypes)

    @property
    def work_dtype(self) -> Any:
        """Lowest precision among a vector's leaves."""
        return at_least_float32(self.dtype)

    @property
    def dtype(self) -> Any:
        """Lowest precision among the variables; it sets every tolerance."""
        return max(map(jnp.dtype, self.dtypes), key=lambda d: float(jnp.finfo(d).eps))


def leaf_name(path: tuple[Any, ...]) -> str:
    """Name a leaf the way a user would index it, e.g. `params['w'][0]`."""
    return "params" + jax.tree_util.keystr(path)


def _kind(leaf: object, name: str, static_numbers: bool) -> str:
    if isinstance(leaf, complex):
        raise TypeError(f"{name} is complex; real parameters are needed: split it into two leaves")
    if isinstance(leaf, float):
        return "variable"
    if isinstance(leaf, int):  # bool is one too
        return "static" if static_numbers else "array"
    if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
        return "static"
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise TypeError(
            f"{name} has dtype {leaf.dtype}; real parameters are needed: "
            "hold the real and the imaginary part as two leaves"
        )
    return "variable" if jnp.issubdtype(leaf.dtype, jnp.floating) else "array"


def split(
    tree: PyTree, *, static_numbers: bool = False, frozen: tuple[bool, ...] = ()
) -> tuple[Layout, Vector, tuple[Any, ...]]:
    """Return a pytree's layout, its variables (each in its own dtype) and its other arrays.

    Args:
        tree: any pytree.  Real floating-point leaves (Python floats too) are variables.
        static_numbers: keep Python integers and booleans as they are, instead of as arrays.
        frozen: for each real floating-point leaf whether it is held constant; () for none.

    Raises:
        TypeError: a leaf is complex; the message names it.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    kinds, names, statics, non_variables = [], [], [], []
    variables: list[jax.Array] = []
    held = iter(frozen)
    for path, leaf in paths:
        name = leaf_name(path)
        kind = _kind(leaf, name, static_numbers)
        if kind == "variable" and next(held, False):
            kind, leaf = "array", jnp.asarray(leaf)
        kinds.append(kind)
        if kind == "variable":
            variables.append(jnp.asarray(leaf))
            names.append(name)
        elif kind == "array":
            non_variables.append(leaf)
        else:
            statics.append(hashable(leaf))
    layout = Layout(
        treedef,
        tuple(kinds),
        tuple(names),
        tuple(v.shape for v in variables),
        tuple(str(v.dtype) for v in variables),
        tuple(statics),
    )
    return layout, tuple(variables), tuple(non_variables)


def merge(layout: Layout, variables: tuple[Any, ...], non_variables: tuple[Any, ...]) -> PyTree:
    """Undo `split`: put variables, other arrays and static leaves back into the pytree."""
    values, others, statics = iter(variables), iter(non_variables), iter(layout.statics)
    leaves = []
    for kind in layout.kinds:
        if kind == "static":
            leaf: Any = next(statics)
            leaves.append(leaf.value if isinstance(leaf, Identity) else leaf)
        else:
            leaves.append(next(values if kind == "variable" else others))
    return jax.tree_util.tree_unflatten(layout.treedef, leaves)


def tangent(
    layout: Layout, vector: Vector, non_variables: tuple[Any, ...], axis: int | None = None
) -> PyTree:
    """Return a vector (or, with `axis`, a basis of that many rows) as a pytree like the parameters.

    Arrays that are no variables become zeros of their own dtype; static leaves stay as they are.
    """

    def zeros(leaf: Any) -> Any:
        if isinstance(leaf, int):
            leaf = np.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf
        return np.zeros(np.shape(leaf) if axis is None else (axis, *np.shape(leaf)), leaf.dtype)

    return merge(layout, vector, tuple(zeros(leaf) for leaf in non_variables))


def from_tangent(layout: Layout, tree: PyTree, what: str = "the vector") -> Vector:
    """Return the variables' leaves of a pytree like the parameters as a vector, in its working dtypes.

    Raises:
        ValueError: the structure or a leaf's shape differs; the message names the leaf.
    """
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    if treedef != layout.treedef:
        raise ValueError(f"{what} has structure {treedef}; expected {layout.treedef}, like params")
    chosen = [leaf for leaf, kind in zip(leaves, layout.kinds, strict=True) if kind == "variable"]
    for leaf, name, shape in zip(chosen, layout.names, layout.shapes, strict=True):
        if np.shape(leaf) != shape:
            raise ValueError(
                f"{what} has shape {np.shape(leaf)} where {name} has {shape}; give it the shapes of params"
            )
    return tuple(
        jnp.asarray(leaf).astype(dtype) for leaf, dtype in zip(chosen, layout.work_dtypes, strict=True)
    )


def flatten_rows(basis: Basis) -> Float[np.ndarray, "k n"]:
    """Write a basis of k rows as a float64 array of shape (k, n)."""
    rows = len(basis[0])
    return np.concatenate([np.asarray(b, np.float64).reshape(rows, -1) for b in basis], axis=1)


def unflatten_rows(layout: Layout, flat: Float[np.ndarray | Array, "k n"]) -> Basis:
    """Undo `flatten_rows`."""
    out, start = [], 0
    for shape, dtype in zip(layout.shapes, layout.work_dtypes, strict=True):
        width = int(np.prod(shape))
        out.append(jnp.asarray(flat[:, start : start + width]).astype(dtype).reshape(len(flat), *shape))
        start += width
    return tuple(out)


def flatten(vector: Vector) -> Float[np.ndarray, " n"]:
    """Write a vector as a float64 array of shape (n,)."""
    return flatten_rows(tuple(leaf[None] for leaf in vector))[0]


def unflatten(layout: Layout, flat: Float[np.ndarray | Array, " n"]) -> Vector:
    """Undo `flatten`."""
    return tuple(leaf.reshape(leaf.shape[1:]) for leaf in unflatten_rows(layout, flat[None]))
