"""Does an optimiser let weights decay?  Seen in what the parameters add to its updates."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree
from hessian_probe.optimizers.trial_runs import float_leaf, takes_value, zeros

# Cosine of what the parameters add and of the way to zero, from which weights decay.
TOWARDS_ZERO = 0.5
# What they add with a gradient and without one agrees to this share where nothing but a decay uses them.
AGREE = 0.05
# Calls after which an optimiser that gathers gradients must have moved.
MOST_CALLS = 32


def decays(optimizer: Any, state: Any, params: PyTree, gradient: PyTree, value: float) -> bool | None:
    """Whether an optimiser does no more with the parameters than to pull them towards zero.

    Decoupled decay adds the same to an update with a gradient and without one, and so does decay before
    steps that are linear in the gradient.  Trust ratios and clipping by the size of parameters do not; and
    states that hold parameters (averages, lookahead) cannot be asked by handing over others.

    Args:
        optimizer: the optax transformation.
        state: its state.
        params: the parameters.
        gradient: the gradient there.
        value: the loss there.

    Returns:
        Whether it does; None where the parameters do something else too, or that cannot be told.
    """
    try:
        if _holds_params(optimizer, params):
            return None
        pull = _added(optimizer, state, params, zeros(params), value)
        other = _added(optimizer, state, params, gradient, value)
    except Exception:  # what the optimiser needs beyond gradients, state, parameters and the loss
        return None
    if np.linalg.norm(other - pull) > AGREE * np.linalg.norm(pull):
        return None
    where = pull != 0
    x = _flat(params)[where]
    size = float(np.linalg.norm(pull) * np.linalg.norm(x))
    return bool(size > 0 and -float(pull[where] @ x) > TOWARDS_ZERO * size)


def _holds_params(optimizer: Any, params: PyTree) -> bool:
    """Whether the first state depends on the values of the parameters."""
    doubled = jax.tree.map(lambda leaf: 2 * leaf if float_leaf(leaf) else leaf, params)
    pairs = zip(*(jax.tree.leaves(optimizer.init(at)) for at in (params, doubled)), strict=True)
    return any(not np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs if float_leaf(a))


def _added(optimizer: Any, state: Any, params: PyTree, gradient: PyTree, value: float) -> np.ndarray:
    """What the parameters add to the first update of an optimiser that is not zero."""
    keywords = {"value": value} if takes_value(optimizer) else {}
    states = [state, state]
    for _ in range(MOST_CALLS):
        found = []
        for which, at in enumerate((params, zeros(params))):
            updates, states[which] = optimizer.update(gradient, states[which], at, **keywords)
            found.append(_flat(updates))
        if np.any(found[0]) or np.any(found[1]):
            break
    return found[0] - found[1]


def _flat(tree: PyTree) -> np.ndarray:
    parts = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree) if float_leaf(leaf)]
    return np.concatenate([np.zeros(0), *parts])
