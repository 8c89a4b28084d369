"""An optimiser's state: read, rebuilt, and updated with the keywords that the optimiser accepts.

Optax keeps each transformation's memory in a named tuple, nested as the transformations are.  Only
field names are read, so nothing is imported, and a state built elsewhere with these names is read too.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, at_least_float32
from hessian_probe.optimizers.thresholds import SMALLEST_MOMENT, UNEVEN_DECAY

# Fields by what they hold, as named in optax 0.2.3 to 0.2.8.
MOMENTUM = ("trace", "mu", "ema", "acc_grads")
SECOND_MOMENT = ("nu", "sum_of_squares", "nu_max")
ACCUMULATION = ("mini_step", "gradient_step", "acc_grads")
# Names that other libraries give to moments.
OTHER_MOMENTS = ("m", "v")
# Fields that hold parameters, not moments: schedule-free methods, Prodigy, Mechanize, SAM.
PARAMETER_COPIES = ("z", "params0", "x0", "cache")
UNEVEN = "{}.{} does not decay evenly when the gradient is zero"

Path = tuple[Any, ...]


class UnreadableError(Exception):
    """The optimiser cannot be understood; the message says what is missing."""


def accepted(update: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Keep the keywords that an update takes: some updates that claim to take extra ones do not."""
    parameters = inspect.signature(update).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}


def call_update(optimizer: Any, gradient: PyTree, state: Any, params: PyTree, value: Any) -> tuple[Any, Any]:
    """Call an optimiser's update, with the loss where it takes that; returns the updates and the state."""
    return optimizer.update(gradient, state, params, **accepted(optimizer.update, {"value": value}))


def is_named(node: Any) -> bool:
    """Whether a node is a named tuple."""
    return isinstance(node, tuple) and hasattr(node, "_fields")


def scaling_fields(node: Any) -> tuple[str, ...]:
    """Fields of one node that scale the step.  In the centred RMSProp the mean gradient is one."""
    fields = tuple(name for name in SECOND_MOMENT if name in node._fields)
    return (*fields, "mu") if "StdDev" in type(node).__name__ else fields


def momentum_fields(node: Any) -> tuple[str, ...]:
    """Fields of one node that carry gradients from step to step."""
    scaling = scaling_fields(node)
    return tuple(name for name in MOMENTUM if name in node._fields and name not in scaling)


def accumulates(node: Any) -> bool:
    """Whether a node gathers several gradients for one step (`optax.MultiSteps`)."""
    return all(name in node._fields for name in ACCUMULATION)


def rewrite(state: Any, visit: Callable[..., Any], *others: Any) -> Any:
    """Return a state rebuilt, with each named node replaced by what `visit` makes of it.

    `visit` is given a node, outer ones first, and the nodes at its place in `others`.
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
    for node in jax.tree.leaves(state, is_leaf=is_named):
        if is_named(node):
            yield node
            yield from nodes(tuple(node))


def field_name(key: Any) -> str:
    """Name of the last step of a path."""
    return str(getattr(key, "name", getattr(key, "key", key)))


def parts_like_params(paths: list[tuple[Path, Any]], params: PyTree) -> dict[Path, list[tuple[int, int]]]:
    """Find the parts of a state that are shaped like the parameters, by the parameters' own paths.

    Masked and partitioned states, which hold some of the parameters, are found too.  Where the parameters are
    one scalar, a part of the state is known by its name alone.

    Returns:
        For the path of each part, pairs (index of a leaf of the state, index of its parameter).
    """
    named = {*MOMENTUM, *SECOND_MOMENT, *OTHER_MOMENTS, *PARAMETER_COPIES}
    own = [(path, np.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    parts: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for at, (path, leaf) in enumerate(paths):
        if not jnp.issubdtype(getattr(leaf, "dtype", np.int32), jnp.floating):
            continue
        for of, (tail, shape) in enumerate(own):
            prefix = path[: len(path) - len(tail)]
            known = tail or shape or (path and field_name(path[-1]) in named)
            if known and len(path) >= len(tail) and path[len(prefix) :] == tail and np.shape(leaf) == shape:
                parts[prefix].append((at, of))
                break
    return parts


def unknown_memory(state: Any) -> str:
    """Return the path of an array of floating-point numbers that no known field holds, or "".

    A momentum kept under another name, or outside a named tuple, would be taken for constant.
    """
    known: set[int] = set()
    for node in nodes(state):
        for name in (*scaling_fields(node), *momentum_fields(node)):
            known.update(id(leaf) for leaf in jax.tree.leaves(getattr(node, name)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        if floating and np.ndim(leaf) > 0 and id(leaf) not in known:
            return f"opt_state{jax.tree_util.keystr(path)}"
    return ""


def keep_momentum(frozen: Any, after: Any) -> Any:
    """The state after a step with everything but momentum as it was frozen."""

    def visit(old: Any, new: Any) -> Any:
        carried = list(momentum_fields(old))
        if accumulates(old):
            carried += ["mini_step", "gradient_step"]
        return old._replace(**{name: getattr(new, name) for name in carried})

    return rewrite(frozen, visit, after)


def without_momentum(state: Any) -> Any:
    """The state with all momentum zero, at the start of an accumulation."""

    def visit(node: Any) -> Any:
        changes = {name: jax.tree.map(jnp.zeros_like, getattr(node, name)) for name in momentum_fields(node)}
        if accumulates(node):
            changes["mini_step"] = jnp.zeros_like(node.mini_step)
        return node._replace(**changes)

    return rewrite(state, visit)


def widened(state: Any) -> Any:
    """The state with its floating-point arrays of fewer digits than float32 widened to that."""

    def wide(leaf: Any) -> Any:
        short = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf).astype(at_least_float32(leaf.dtype)) if short else leaf

    return jax.tree.map(wide, state)


def hold_second_moments(state: Any, after_zero: Any) -> Any:
    """Return the state whose preconditioner, after one step with a zero gradient, is that of `state`.

    Moving averages decay when the gradient is zero; each is divided by the decay measured in `after_zero`.

    Raises:
        UnreadableError: no step has filled a moving average yet, or it does not decay evenly.
    """

    def visit(node: Any, after: Any) -> Any:
        growths = {name: 1 / _decay(node, after, name) for name in scaling_fields(node)}
        return node._replace(**{name: _times(getattr(node, name), by) for name, by in growths.items()})

    return rewrite(state, visit, after_zero)


def _decay(before: Any, after: Any, name: str) -> float:
    """What a step with a zero gradient leaves of a field, as a share."""
    old, new = (
        np.concatenate([np.zeros(0), *(np.ravel(x) for x in map(np.asarray, jax.tree.leaves(tree)))])
        for tree in (getattr(before, name), getattr(after, name))
    )
    filled = np.abs(old) > SMALLEST_MOMENT
    if not np.any(filled):
        if name == "mu" or not len(old):
            return 1.0
        raise UnreadableError(
            f"{type(before).__name__}.{name} is zero: no step has been taken with this state, so its "
            "preconditioner does not exist yet; pass the opt_state of a step in training"
        )
    ratios = new[filled] / old[filled]
    less = ratios < 1 - UNEVEN_DECAY  # Adamax keeps variables that never had a gradient at ε
    decay = float(np.median(ratios[less] if np.any(less) else ratios))
    if not 0 < decay <= 1 + UNEVEN_DECAY:
        raise UnreadableError(UNEVEN.format(type(before).__name__, name))
    return min(decay, 1.0)


def require_held(state: Any, after_zero: Any) -> None:
    """Check that a step with a zero gradient from the held state ends at the second moments of the state.

    Raises:
        UnreadableError: it does not.
    """
    for old, new in zip(nodes(state), nodes(after_zero), strict=True):
        for name in scaling_fields(old):
            pairs = zip(*map(jax.tree.leaves, (getattr(old, name), getattr(new, name))), strict=True)
            for before, after in pairs:
                size = np.abs(np.asarray(before, np.float64))
                error = np.abs(np.asarray(after, np.float64) - before)
                if np.any(error > UNEVEN_DECAY * size + SMALLEST_MOMENT):
                    raise UnreadableError(UNEVEN.format(type(old).__name__, name))


def memory_decay(before: Any, after: Any) -> float:
    """What a step with a zero gradient leaves of a node's second moment, as a share."""
    return _decay(before, after, scaling_fields(after)[0])


def bias_correction(before: Any, after: Any, steps: int = 0) -> float:
    """1 − decay^count of a second moment, some steps after `after`; 1 where nothing corrects its bias."""
    decay = memory_decay(before, after) if "count" in after._fields else 1.0
    return 1 - decay ** (int(after.count) + steps) if decay < 1 else 1.0


def second_moment(before: Any, after: Any, *, corrected: bool) -> Any:
    """The second moment that scaled the step, with a zero gradient, from one node to another."""
    if "nu_max" in after._fields:
        return after.nu_max
    moment = getattr(after, scaling_fields(after)[0])
    correction = bias_correction(before, after) if corrected else 1.0
    if "mu" in scaling_fields(after):
        return jax.tree.map(lambda nu, mu: nu / correction - jnp.square(mu / correction), moment, after.mu)
    return jax.tree.map(lambda nu: nu / correction, moment)


def rescaled(state: Any, factor: float) -> Any:
    """The state with every second moment multiplied by a factor."""

    def visit(node: Any) -> Any:
        # The mean gradient of the centred RMSProp is squared.
        powers = {name: 0.5 if name == "mu" else 1.0 for name in scaling_fields(node)}
        return node._replace(**{name: _times(getattr(node, name), factor**p) for name, p in powers.items()})

    return rewrite(state, visit)


def advanced(
    state: Any, after: Any, steps: int, *, corrected: bool, moments: bool = True, schedules: bool = True
) -> Any:
    """Return the state with its counts increased by some steps; preconditioners stay.

    The count beside a second moment corrects the bias of momentum, and of the second moment if `corrected`.
    The latter fills as its correction goes, so it is multiplied by the ratio of both corrections.  `after` is
    the state after a step with a zero gradient; `moments` and `schedules` say which counts increase.
    """

    def visit(node: Any, beyond: Any) -> Any:
        scaling = scaling_fields(node)
        changes = {}
        for name in ("count", "gradient_step"):
            if name in node._fields and (moments if scaling else schedules):
                changes[name] = getattr(node, name) + steps
        if scaling and "count" in node._fields and moments and corrected:
            filled = bias_correction(node, beyond, steps) / bias_correction(node, beyond)
            names = (name for name in scaling if name != "nu_max")  # a maximum of corrected ones
            changes |= {name: _times(getattr(node, name), filled) for name in names}
        return node._replace(**changes)

    return rewrite(state, visit, after)


def _times(tree: Any, factor: float) -> Any:
    """Multiply moments; those of integers, which are not trained, stay."""

    def leaf(moment: Any) -> Any:
        floating = jnp.issubdtype(moment.dtype, jnp.floating)
        return moment * jnp.asarray(factor, moment.dtype) if floating else moment

    return jax.tree.map(leaf, tree)
