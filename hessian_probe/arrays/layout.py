"""How a parameter pytree splits into variables and all else, and back.

A vector holds one array for each variable, in at least float32; a basis holds vectors as rows.  Both can be
written as flat float64 arrays on the host.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable, Iterable
from functools import partial
from itertools import compress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import all_leaves

from hessian_probe.arrays.types import Array, Basis, Float, PyTree, Vector

# What stands beside the parameters and nobody trains, by the parameters' own name (Flax and its train states,
# Keras), and a moving average in Haiku's state.
BESIDE = {
    "params": ("untrained", "batch_stats", "cache", "intermediates", "perturbations", "opt_state"),
    "trainable_variables": ("non_trainable_variables", "metrics_variables", "optimizer_variables"),
}
AVERAGE = re.compile(r"/~/\w+_ema$")
NOT_ASKED, NUMBER = "not in trainable=", "a Python number"
# Leaves that a layout names when it prints, of those that are variables and of the others.
SHOWN = 4


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

    `kinds` has one entry per leaf: "variable", "array" or "static"; `left_out` names those that are no
    variables, each with the reason.  As a string it says which leaves are varied, and which are not.
    """

    treedef: Any
    kinds: tuple[str, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    statics: tuple[Hashable, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        sizes = [
            f"{name} ({'×'.join(map(str, shape)) or 1})"
            for name, shape in zip(self.names, self.shapes, strict=True)
        ]
        out = [f"{name} ({why})" for name, why in self.left_out]
        text = f"{self.size:,} variable{'s' * (self.size != 1)}: {_listed(sizes)}"
        return text + (f"; left out: {_listed(out)}" if out else "")

    def require_variables(self) -> Layout:
        """Return self if there is a variable; else raise ValueError, with what there is instead."""
        if self.size:
            return self
        left = _listed([f"{name} ({why})" for name, why in self.left_out] or list(self.names)) or "no leaves"
        empty = ", all of them empty" * bool(self.names)
        raise ValueError(
            f"params has no floating-point entry to vary{empty}; got {left}: pass float arrays with entries, "
            "e.g. jax.tree.map(jnp.asarray, params), or say by trainable= which leaves are varied"
        )

    @property
    def mask(self) -> PyTree:
        """A pytree like the parameters: for each leaf, whether it is a variable."""
        return jax.tree_util.tree_unflatten(self.treedef, [kind == "variable" for kind in self.kinds])

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
    def dtype(self) -> Any:
        """Lowest precision among the variables; it sets every tolerance."""
        return max(map(jnp.dtype, self.dtypes), key=lambda d: float(jnp.finfo(d).eps))


def leaf_name(path: tuple[Any, ...]) -> str:
    """Name a leaf the way a user would index it, e.g. `params['w'][0]`."""
    return "params" + jax.tree_util.keystr(path)


def _listed(items: list[str]) -> str:
    few = len(items) <= SHOWN + 1
    return ", ".join(items if few else [*items[:SHOWN], f"and {len(items) - SHOWN} more leaves"])


def _dtype(leaf: Any) -> Any:
    """Dtype of an array, or type of a Python number; None for anything else."""
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return leaf.dtype
    return next((kind for kind in (bool, int, float, complex) if isinstance(leaf, kind)), None)


def _floating(dtype: Any, kind: Any = jnp.floating) -> bool:
    """Whether a dtype, or a type of Python numbers, is a real floating-point one, or of another kind."""
    return dtype is not None and bool(jnp.issubdtype(dtype, kind))


def _asked(trainable: Any, tree: PyTree, paths: list[Any], option: str = "trainable") -> list[bool | None]:
    """For each leaf whether `trainable` asks for it; None leaves that to what is usual."""
    if trainable is None:
        return [None] * len(paths)
    flags: list[bool | None] = []
    given = jax.tree.leaves(trainable)  # a mask may be a module, and callable
    if given and all(isinstance(flag, bool | np.bool_) for flag in given):

        def spread(flag: Any, part: Any) -> None:
            above = None if flag else False
            flags.extend([bool(flag)] if all_leaves([part]) else [above] * len(jax.tree.leaves(part)))

        try:
            jax.tree.map(spread, trainable, tree)
        except ValueError as error:
            raise ValueError(
                f"{option} is a mask that does not fit params: {error}; give booleans in the structure of "
                "params or of its upper levels, or a function of (path, leaf)"
            ) from None
        return flags
    takes = inspect.signature(trainable).parameters.values() if callable(trainable) else ()
    plain = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    count = sum(p.default is p.empty for p in plain)
    if count not in (1, 2):
        raise TypeError(
            f"{option} is a {type(trainable).__name__}; expected a function of (leaf) or of (path, leaf), "
            "or a pytree of booleans like params"
        )
    asked = [(leaf_name(path), leaf)[2 - count :] for path, leaf in paths]
    return [None if _dtype(one[-1]) is None else bool(trainable(*one)) for one in asked]


def _nnx_classes(node: Any) -> list[str]:
    """Names of the class of a Flax NNX variable, and of those that it is derived from; of others none."""
    kind = getattr(node, "type", None)  # older releases keep the class so
    classes = (kind if isinstance(kind, type) else type(node)).__mro__
    flax = any(c.__name__ == "Variable" and c.__module__.startswith("flax.nnx") for c in classes)
    return [c.__name__ for c in classes] if flax else []


def _untrained(tree: PyTree, paths: list[Any]) -> list[str]:
    """For each leaf why the framework that it comes from does not train it; "" where nothing says so."""
    classes: list[list[str]] = []
    for node in jax.tree.leaves(tree, is_leaf=lambda node: bool(_nnx_classes(node))):
        classes += [_nnx_classes(node)] * len(jax.tree.leaves(node))
    some = any("Param" in names for names in classes)
    keys = [[str(getattr(k, "key", getattr(k, "name", k))) for k in (*path, "")] for path, _ in paths]
    own = {steps[0] for steps in keys} & set(BESIDE)
    found = []
    for (_, leaf), names, steps in zip(paths, classes, keys, strict=True):
        why = "trainable=False" if getattr(leaf, "trainable", True) is False else ""
        if some and names and "Param" not in names:
            why = f"{names[0]}, not Param"
        elif any(steps[0] in BESIDE[name] for name in own):
            why = f"{steps[0]}, not trained"
        elif any(map(AVERAGE.search, steps)):
            why = "a moving average"
        found.append(why)
    return found


def _why_not(leaf: Any, name: str, asked: bool | None, untrained: str) -> str:
    """Why a leaf is no variable; "" for a variable."""
    dtype = _dtype(leaf)
    number = isinstance(dtype, type)
    what = f"a {'Python ' * number}{type(leaf).__name__}" if dtype is None or number else str(dtype)
    what = NUMBER if dtype is float else what
    if asked and not _floating(dtype):
        raise TypeError(
            f"trainable asks for {name} ({what}); only real floating-point leaves can be varied: leave it out"
        )
    usual = asked is None and not untrained
    if usual and _floating(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name} is complex ({what}); real parameters are needed: hold the real and the imaginary part "
            "as two leaves, or leave it out by trainable="
        )
    if asked or (usual and _floating(dtype) and not number):
        return ""
    return untrained or (NOT_ASKED if asked is False and _floating(dtype) else what)


def split(
    tree: PyTree, *, trainable: Any = None, static_numbers: tuple[type, ...] = ()
) -> tuple[Layout, Vector, tuple[Any, ...]]:
    """Return a pytree's layout, its variables (each in its own dtype) and its other arrays.

    Args:
        tree: any pytree.
        trainable: which leaves are variables.  None: arrays of real floating-point numbers, without those of
            which a framework says that it does not train them.  Else a function of (leaf), or of (path, leaf)
            with the path as it is printed, asked about arrays and Python numbers; or a pytree prefix of
            booleans: True at a leaf asks for it, True above several for those that None would take.
        static_numbers: types of Python numbers to keep as they are, instead of as arrays.

    Raises:
        TypeError: a leaf is complex, one that is asked for is not floating-point, or `trainable` is neither.
        ValueError: `trainable` is a mask of another structure.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    kinds, names, statics, non_variables = [], [], [], []
    variables: list[jax.Array] = []
    left_out: list[tuple[str, str]] = []
    reasons = zip(paths, _asked(trainable, tree, paths), _untrained(tree, paths), strict=True)
    for (path, leaf), asked, untrained in reasons:
        name, dtype = leaf_name(path), _dtype(leaf)
        why = _why_not(leaf, name, asked, untrained)
        if not why:
            kinds.append("variable")
            variables.append(jnp.asarray(leaf))
            names.append(name)
            continue
        left_out.append((name, why))
        if dtype is None or (isinstance(dtype, type) and issubclass(dtype, static_numbers)):
            kinds.append("static")
            statics.append(hashable(leaf))
        else:
            kinds.append("array")
            own = isinstance(dtype, type) or isinstance(leaf, jax.Array | np.ndarray | np.generic)
            non_variables.append(leaf if own else jnp.asarray(leaf))
    layout = Layout(
        treedef,
        tuple(kinds),
        tuple(names),
        tuple(v.shape for v in variables),
        tuple(str(v.dtype) for v in variables),
        tuple(statics),
        tuple(sorted(left_out, key=lambda pair: pair[1] != NUMBER)),  # printed first
    )
    return layout, tuple(variables), tuple(non_variables)


def chosen_variables(layout: Layout, tree: PyTree, where: Any) -> tuple[bool, ...]:
    """Choose variables: by a path, with all below it, or as `trainable` of `split` chooses leaves.

    Returns:
        For each variable whether it is chosen.

    Raises:
        TypeError: `where` is neither.
        ValueError: it is a mask of another structure, or chooses no variable.
    """
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    if isinstance(where, str):
        names = (leaf_name(path) for path, _ in paths)
        flags: list[Any] = [name.startswith(where) and name[len(where) :][:1] in "[." for name in names]
    else:
        flags = _asked(where, tree, paths, "where")
    pairs = zip(flags, layout.kinds, strict=True)
    chosen = tuple(flag is not False for flag, kind in pairs if kind == "variable")
    if not any(chosen):
        text = f"where={where!r}" if isinstance(where, str) else "where="
        raise ValueError(f"{text} chooses none of the variables {', '.join(layout.names)}")
    return chosen


def hold_others(
    layout: Layout, variables: Vector, non_variables: tuple[Any, ...], chosen: tuple[bool, ...], why: str
) -> tuple[Layout, Vector, tuple[Any, ...]]:
    """Return what `split` returned, with the variables that are not chosen among the other arrays."""
    values, others, flags = iter(variables), iter(non_variables), iter(chosen)
    kinds, arrays = [], []
    for kind in layout.kinds:
        if kind == "array":
            arrays.append(next(others))
        elif kind == "variable" and not next(flags):
            kind = "array"
            arrays.append(next(values))
        elif kind == "variable":
            next(values)
        kinds.append(kind)
    held = tuple((name, why) for name, on in zip(layout.names, chosen, strict=True) if not on)
    new = layout._replace(
        kinds=tuple(kinds),
        names=tuple(compress(layout.names, chosen)),
        shapes=tuple(compress(layout.shapes, chosen)),
        dtypes=tuple(compress(layout.dtypes, chosen)),
        left_out=(*held, *layout.left_out),
    )
    return new, tuple(compress(variables, chosen)), tuple(arrays)


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

    Arrays and numbers that are no variables become zeros of their own dtype; other leaves stay as they are.
    """

    def zeros(leaf: Any) -> Any:
        if isinstance(_dtype(leaf), type):
            return type(leaf)(0) if axis is None else np.zeros(axis, type(leaf))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf
        return np.zeros(np.shape(leaf) if axis is None else (axis, *np.shape(leaf)), leaf.dtype)

    still = tuple(type(leaf)(0) if isinstance(leaf, int | float) else leaf for leaf in layout.statics)
    others = tuple(zeros(leaf) for leaf in non_variables)
    return merge(layout._replace(statics=still), vector, others)


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
    return _split_rows(flat, layout.shapes, layout.work_dtypes)


@partial(jax.jit, static_argnums=(1, 2))
def _split_rows(flat: Any, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[Any, ...]) -> Basis:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    rows = zip(jnp.split(flat, ends, axis=1), shapes, dtypes, strict=True)
    return tuple(part.astype(dtype).reshape(len(part), *shape) for part, shape, dtype in rows)


@partial(jax.jit, static_argnums=(1, 2))
def _split(flat: Any, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[Any, ...]) -> Vector:
    return tuple(leaf[0] for leaf in _split_rows(flat[None], shapes, dtypes))


def flatten(vector: Vector) -> Float[np.ndarray, " n"]:
    """Write a vector as a float64 array of shape (n,)."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in vector])


def unflatten(layout: Layout, flat: Float[np.ndarray | Array, " n"]) -> Vector:
    """Undo `flatten`."""
    return _split(flat, layout.shapes, layout.work_dtypes)
