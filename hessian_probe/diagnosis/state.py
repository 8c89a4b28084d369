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


def held(state: Any, after_zero: Any) -> Any:
    """The state whose preconditioner, after one step with a zero gradient, is that of `state`.

    Moving averages decay when the gradient is zero; each is divided by the decay that was measured.

    Args:
        state: the state.
        after_zero: the same after a step with a zero gradient.

    Returns:
        The state to probe.

    Raises:
        UnreadableError: no step has filled a moving average yet, or it does not decay evenly.
    """

    def visit(node: Any, after: Any) -> Any:
        changes: dict[str, Any] = {}
        for name in second_moments(node):
            decay = _decay(node, name, getattr(node, name), getattr(after, name))
            changes[name] = jax.tree.map(
                lambda leaf, d=decay: leaf / jnp.asarray(d, leaf.dtype), getattr(node, name)
            )
        return node._replace(**changes)

    return rewrite(state, visit, after_zero)


# Decay is one number for all variables; beyond float32 rounding of a quotient it is something else.
EVEN = 1e-4


def _decay(node: Any, name: str, before: Any, after: Any) -> float:
    old, new = (
        np.concatenate([np.zeros(0), *(np.ravel(x) for x in map(np.asarray, jax.tree.leaves(t)))])
        for t in (before, after)
    )
    filled = np.abs(old) > 1e-30  # smaller squares are subnormal after a step in float32
    if name == "mu" and not np.any(filled):
        return 1.0
    if not np.any(filled):
        if not len(old):
            return 1.0
        raise UnreadableError(
            f"{type(node).__name__}.{name} is zero: no step has been taken with this state, so its "
            "preconditioner does not exist yet; pass the opt_state of a step in training"
        )
    ratios = new[filled] / old[filled]
    decay = float(np.median(ratios))
    if not 0 < decay <= 1 or np.max(np.abs(ratios - decay)) > EVEN:
        raise UnreadableError(f"{type(node).__name__}.{name} does not decay evenly when the gradient is zero")
    return decay


def at_least_float32(state: Any) -> Any:
    """The state with its floating-point arrays of fewer digits widened."""

    def wide(leaf: Any) -> Any:
        short = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf).astype(widened(leaf.dtype)) if short else leaf

    return jax.tree.map(wide, state)


def memory_decay(before: Any, after: Any) -> float:
    """What a step with a zero gradient leaves of a node's second moment, as a share."""
    field = second_moments(after)[0]
    return _decay(before, field, getattr(before, field), getattr(after, field))


def bias(before: Any, after: Any, steps: int = 0) -> float:
    """What corrects the bias of a node's second moment, some steps after `after`; 1 where nothing can.

    Args:
        before: the node before a step with a zero gradient.
        after: the node after it.
        steps: number of further steps.

    Returns:
        1 − decay^count.
    """
    decay = memory_decay(before, after) if "count" in after._fields else 1.0
    return 1 - decay ** (int(after.count) + steps) if decay < 1 else 1.0


def second_moment(before: Any, after: Any, *, corrected: bool) -> Any:
    """The second moment that scaled a step.

    Args:
        before: the node before a step with a zero gradient.
        after: the node after it.
        corrected: whether its bias is.

    Returns:
        A tree like the node's second moment.
    """
    if "nu_max" in after._fields:
        return after.nu_max
    moment, correction = getattr(after, second_moments(after)[0]), bias(before, after) if corrected else 1.0
    if "mu" in second_moments(after):
        return jax.tree.map(lambda nu, mu: nu / correction - jnp.square(mu / correction), moment, after.mu)
    return jax.tree.map(lambda nu: nu / correction, moment)


def rescaled(state: Any, factor: float) -> Any:
    """The state with every second moment multiplied by a factor."""

    def visit(node: Any) -> Any:
        # The mean gradient of the centred RMSProp is squared.
        powers = {name: 0.5 if name == "mu" else 1.0 for name in second_moments(node)}
        return node._replace(**{name: _times(getattr(node, name), factor**p) for name, p in powers.items()})

    return rewrite(state, visit)


def advanced(
    state: Any, after: Any, steps: int, *, corrected: bool, moments: bool = True, schedules: bool = True
) -> Any:
    """The state with its counts so many steps on; preconditioners stay.

    The count beside a second moment corrects the bias of momentum and often of the second moment.  The
    latter fills as its correction goes, so it is multiplied by the ratio of both corrections.

    Args:
        state: the state.
        after: the same after a step with a zero gradient.
        steps: number of steps.
        corrected: whether the bias of second moments is.
        moments: whether the counts beside second moments go on.
        schedules: whether the counts of schedules go on, too.

    Returns:
        The new state.
    """

    def visit(node: Any, beyond: Any) -> Any:
        second = second_moments(node)
        changes = {}
        for name in ("count", "gradient_step"):
            if name in node._fields and (moments if second else schedules):
                changes[name] = getattr(node, name) + steps
        if second and "count" in node._fields and moments and corrected:
            filled = bias(node, beyond, steps) / bias(node, beyond)
            names = (name for name in second if name != "nu_max")  # a maximum of corrected ones
            changes |= {name: _times(getattr(node, name), filled) for name in names}
        return node._replace(**changes)

    return rewrite(state, visit, after)


def _times(tree: Any, factor: float) -> Any:
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(factor, leaf.dtype), tree)
