"""Second moments in an optimiser's state: held as they are, corrected for their bias, taken ahead."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.optimizers.optax_state import UnreadableError, nodes, rewrite, second_moments

# Decay is one number for all variables; beyond float32 rounding of a quotient it is something else.
EVEN = 1e-4
TINY = 1e-30  # smaller squares are subnormal after a step in float32
UNEVEN = "{}.{} does not decay evenly when the gradient is zero"


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


def _decay(node: Any, name: str, before: Any, after: Any) -> float:
    old, new = (
        np.concatenate([np.zeros(0), *(np.ravel(x) for x in map(np.asarray, jax.tree.leaves(t)))])
        for t in (before, after)
    )
    filled = np.abs(old) > TINY
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
    less = ratios < 1 - EVEN  # Adamax keeps variables that never had a gradient at ε
    decay = float(np.median(ratios[less] if np.any(less) else ratios))
    if not 0 < decay <= 1 + EVEN:
        raise UnreadableError(UNEVEN.format(type(node).__name__, name))
    return min(decay, 1.0)


def require_held(state: Any, after_zero: Any) -> None:
    """Check that a step with a zero gradient from the held state ends at the second moments of the state.

    Raises:
        UnreadableError: it does not.
    """
    for old, new in zip(nodes(state), nodes(after_zero), strict=True):
        for name in second_moments(old):
            pairs = zip(*map(jax.tree.leaves, (getattr(old, name), getattr(new, name))), strict=True)
            for before, after in pairs:
                size = np.abs(np.asarray(before, np.float64))
                if np.any(np.abs(np.asarray(after, np.float64) - before) > EVEN * size + TINY):
                    raise UnreadableError(UNEVEN.format(type(old).__name__, name))


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
