"""Second moments that scale an optimiser's step: which they are, and how the step depends on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector
from hessian_probe.optimizers import optax_state as states
from hessian_probe.optimizers import second_moments
from hessian_probe.optimizers.probe import OptimizerProbe

# The second moments are multiplied by this to see how the step answers: far above ε, far below overflow.
LARGER = 1e12
# A step in proportion to their inverse, as Adamax's, or to that of their root: half way between in powers.
INVERSE = 0.75
# Steps after which every correction of the first steps is gone.
SETTLED = 10**6
# Two answers are one if they differ by less; see response.AGREE.
SAME = 1e-3


class Preconditioner(NamedTuple):
    """How second moments scale a step.

    Attributes:
        second: for each leaf its second moment, of the leaf's shape or one number for all of it; None where
            it is not known or there is none.
        kind: class name of the node that holds them, "" if the step does not depend on any.
        power: p of a step in proportion to ν⁻ᵖ: 1 for Adamax, else 0.5.
        forgets: whether they shrink when the gradient is zero.
        corrected: whether the bias of their first steps is corrected.
        rectified: whether steps grow with the count by more than the corrections of the bias, as RAdam's.
    """

    second: tuple[Any, ...]
    kind: str
    power: float = 0.5
    forgets: bool = True
    corrected: bool = True
    rectified: bool = False


def measure_preconditioner(
    probe: OptimizerProbe, delta: Vector, first: np.ndarray, ratio: float
) -> Preconditioner:
    """Find the second moments of the next step, and measure how it depends on them.

    Args:
        probe: the optimiser.
        delta: a tiny gradient.
        first: what one step takes of it, for each variable.
        ratio: ρ of the response.

    Returns:
        Scaling.
    """
    none = (None,) * len(probe.layout.shapes)
    held, after = probe.state, probe.step(probe.state, probe.zero, probe.zero)[1]
    pairs = [
        (old, new)
        for old, new in zip(states.nodes(held), states.nodes(after), strict=True)
        if states.second_moments(new)
    ]
    if not pairs:
        return Preconditioner(none, "")
    kind = " + ".join(type(new).__name__ for _, new in pairs)
    shrunk = _answer(probe, delta, first, second_moments.rescaled(held, LARGER))
    if abs(shrunk - 1) <= SAME:  # RAdam's first steps
        return Preconditioner(none, "", rectified="Adam" in kind)
    power = 1.0 if shrunk < LARGER**-INVERSE else 0.5
    forgets = all(second_moments.memory_decay(*pair) < 1 for pair in pairs)
    corrected, rectified = _corrections(probe, delta, first, after, ratio)
    second = none
    if len(pairs) == 1:
        second = _by_leaf(probe, second_moments.second_moment(*pairs[0], corrected=corrected))
    return Preconditioner(second, kind, power, forgets, corrected, rectified)


def typical(gradient: Vector, found: Preconditioner) -> Vector:
    """A gradient of the size that the second moment has seen."""

    def one(leaf: jax.Array, nu: Any) -> jax.Array:
        if nu is None:
            return leaf
        shared = max(leaf.size, 1) if np.size(nu) == 1 else 1  # one number for a leaf is the sum over it
        return jnp.sign(leaf) * ((jnp.abs(nu) ** found.power) / shared**0.5).astype(leaf.dtype)

    return tuple(one(leaf, nu) for leaf, nu in zip(gradient, found.second, strict=True))


def _answer(probe: OptimizerProbe, delta: Vector, first: np.ndarray, state: Any) -> float:
    """Step from another state ÷ step from the probe's, for the median variable."""
    update = probe.impulse(delta, probe.zero, 1, state)[0]
    shares = (np.ravel(np.asarray(-u / d, np.float64)) for u, d in zip(update, delta, strict=True))
    then = np.concatenate([np.zeros(0), *shares])
    return float(np.median(then[first > 0] / first[first > 0]))


def _corrections(
    probe: OptimizerProbe, delta: Vector, first: np.ndarray, after: Any, ratio: float
) -> tuple[bool, bool]:
    """Measure whether the second moment's bias is corrected, and whether the step is rectified.

    Once all corrections are gone, a step has grown as the correction of momentum says, or not at all: with
    the second moment left as it is where that is not corrected, with it filled where it is.

    Returns:
        Both answers; a step that grows otherwise is rectified.
    """
    counts = [int(node.count) for node in states.nodes(after) if _counted(node)]
    if len(counts) != 1:
        return True, False
    count = counts[0]
    heavy = 1 - ratio**count
    nesterov = (1 + ratio) / (ratio / (1 - ratio ** (count + 1)) + 1 / heavy)  # as optax's Nadam
    for corrected in (False, True):
        settled = second_moments.advanced(probe.state, after, SETTLED, corrected=corrected, schedules=False)
        grown = _answer(probe, delta, first, settled)
        if min(abs(grown / expected - 1) for expected in (1.0, heavy, nesterov)) <= SAME:
            return corrected, False
    return True, True


def _counted(node: Any) -> bool:
    return bool(states.second_moments(node)) and "count" in node._fields


def _by_leaf(probe: OptimizerProbe, moment: Any) -> tuple[Any, ...]:
    """The second moment of each variable leaf; None where it has neither its shape nor is one number."""
    by_path = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(moment)}
    leaves = [by_path.get(name.removeprefix("params")) for name in probe.layout.names]
    pairs = zip(leaves, probe.layout.shapes, strict=True)
    return tuple(v if v is not None and (np.size(v) == 1 or v.shape == shape) else None for v, shape in pairs)
