"""The state of an optimiser as a tree of named fields: which hold momentum, which a preconditioner.

Optax keeps each transformation's memory in a named tuple, nested as the transformations are.  Only
field names are read, so nothing is imported, and a state built elsewhere with these names is read too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays.dtypes import at_least_float32 as widened

# Fields by what they do, as named in optax 0.2.3 to 0.2.8.
MOMENTUM = ("trace", "mu", "ema", "acc_grads")
SECOND_MOMENT = ("nu", "sum_of_squares", "nu_max")
ACCUMULATION = ("mini_step", "gradient_step", "acc_grads")


class UnreadableError(Exception):
    """The optimiser cannot be understood; the message says what is missing."""


def is_named(node: Any) -> bool:
    """Whether a node is a named tuple."""
    return isinstance(node, tuple) and hasattr(node, "_fields")


def second_moments(node: Any) -> tuple[str, ...]:
    """Fields of one node that scale the step.  In the centred RMSProp the mean gradient is one."""
    fields = tuple(name for name in SECOND_MOMENT if name in node._fields)
    return (*fields, "mu") if "StdDev" in type(node).__name__ else fields


def momenta(node: Any) -> tuple[str, ...]:
    """Fields of one node that carry gradients from step to step."""
    second = second_moments(node)
    return tuple(name for name in MOMENTUM if name in node._fields and name not in second)


def accumulates(node: Any) -> bool:
    """Whether a node gathers several gradients for one step (`optax.MultiSteps`)."""
    return all(name in node._fields for name in ACCUMULATION)


def rewrite(state: Any, visit: Callable[..., Any], *others: Any) -> Any:
    """Rebuild a state, with each named node replaced by what `visit` makes of it.

    Args:
        state: the state.
        visit: given a node, and the nodes at its place in `others`, returns a node of its type.
        *others: states of the same structure.

    Returns:
        The new state; `visit` is called on outer nodes first.
    """

    def walk(node: Any, *beside: Any) -> Any:
        if is_named(node):
            node = visit(node, *beside)
        return jax.tree.map(
            lambda child, *rest: walk(child, *rest) if is_named(child) else child,
            node,
            *beside,
            is_leaf=lambda child: child is not node and is_named(child),
        )

    return walk(state, *others)


def nodes(state: Any) -> Iterator[Any]:
    """All named nodes, outer ones first."""
    found: list[Any] = []

    def visit(node: Any) -> Any:
        found.append(node)
        return node

    rewrite(state, visit)
    yield from found


def zeros(tree: Any) -> Any:
    """The same tree with every array zero."""
    return jax.tree.map(jnp.zeros_like, tree)


def unknown_memory(state: Any) -> str:
    """Name an array of floating-point numbers that no known field holds, or return "".

    A momentum kept under another name, or outside a named tuple, would be taken for constant.

    Returns:
        Its path in the state.
    """
    known: set[int] = set()
    for node in nodes(state):
        for name in (*second_moments(node), *momenta(node)):
            known.update(id(leaf) for leaf in jax.tree.leaves(getattr(node, name)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        if floating and np.ndim(leaf) > 0 and id(leaf) not in known:
            return f"opt_state{jax.tree_util.keystr(path)}"
    return ""


def keep_momentum(frozen: Any, after: Any) -> Any:
    """The state after a step with everything but momentum as it was frozen."""

    def visit(old: Any, new: Any) -> Any:
        carried = list(momenta(old))
        if accumulates(old):
            carried += ["mini_step", "gradient_step"]
        return old._replace(**{name: getattr(new, name) for name in carried})

    return rewrite(frozen, visit, after)


def rested(state: Any) -> Any:
    """The state with all momentum zero, at the start of an accumulation."""

    def visit(node: Any) -> Any:
        changes = {name: zeros(getattr(node, name)) for name in momenta(node)}
        if accumulates(node):
            changes["mini_step"] = jnp.zeros_like(node.mini_step)
        return node._replace(**changes)

    return rewrite(state, visit)


def at_least_float32(state: Any) -> Any:
    """The state with its floating-point arrays of fewer digits widened."""

    def wide(leaf: Any) -> Any:
        short = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf).astype(widened(leaf.dtype)) if short else leaf

    return jax.tree.map(wide, state)
