"""Which parameters does an optimiser move up their gradient?  Measured by steps on a copy of its state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, dot, from_tangent, merge, norm, scale, tangent
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.optimizers.optax_state import call_update
from hessian_probe.optimizers.probe import signs
from hessian_probe.optimizers.thresholds import CLIMB_ROUNDINGS, MOST_CALLS

# Leaves that a sentence names.
NAMED = 4


class UphillLeaf(NamedTuple):
    """A leaf that moves up its gradient, and by which multiple of it: 1 where the gradient is added."""

    name: str
    factor: float


def uphill_leaves(op: HessianOperator, optimizer: Any, opt_state: Any) -> tuple[UphillLeaf, ...] | None:
    """Find the leaves whose response to their own gradient points up that gradient.

    The optimiser takes steps from its state with the present gradient, and as many with its opposite.  Half
    of the difference is what the gradient does; momentum, weight decay and noise cancel.  A leaf counts where
    every partial sum of it points up: sharpness-aware methods step up and come back.  A preconditioner that
    mixes leaves can turn one of them, but not all, so this is repeated with the gradients of these leaves
    alone until none drops out.

    Returns:
        The leaves; None where the optimiser needs more than gradients, state, parameters and the loss.

    Cost:
        Two updates of the optimiser; four times MOST_CALLS where some leaf climbs or is not moved.
    """
    layout, rest, x = op.layout, op.objective.non_variables, tuple(map(jnp.nan_to_num, op.x))
    # Where a number is not finite, any gradient shows the rule of the optimiser.
    pairs = zip(op.gradient_vector, signs(layout), strict=True)
    gradient = tuple(jnp.where(jnp.isfinite(g), g, sign) for g, sign in pairs)
    lengths = np.array([float(norm((g,))) for g in gradient])
    units = tuple(g / (length or 1.0) for g, length in zip(gradient, lengths, strict=True))
    least = CLIMB_ROUNDINGS * max(float(jnp.finfo(dtype).eps) for dtype in layout.work_dtypes)

    @jax.jit
    def step(given: Vector, state: Any, x: Vector, units: Vector) -> tuple[Any, Vector, Any, Any]:
        trees = tangent(layout, cast(given, layout.dtypes), rest), state, merge(layout, x, rest)
        updates, state = call_update(optimizer, *trees, op.value)
        update = from_tangent(layout, updates)
        moved = cast(add_scaled(cast(x, layout.work_dtypes), 1.0, update), layout.dtypes)
        along = [dot((u,), (unit,)) for u, unit in zip(update, units, strict=True)]
        return state, moved, jnp.stack(along), jnp.stack([norm((u,)) for u in update])

    def climb(chosen: np.ndarray) -> np.ndarray:
        """The multiples for the gradients of some leaves alone; 0 where a leaf does not climb."""
        given = tuple(g * bool(on) for g, on in zip(gradient, chosen, strict=True))
        ends = {sign: (opt_state, x) for sign in (1.0, -1.0)}
        total, size, factors = np.zeros(len(lengths)), np.zeros(len(lengths)), np.zeros(len(lengths))
        up = chosen.copy()
        for _ in range(MOST_CALLS):
            for sign, (state, at) in ends.items():
                *end, along, length = step(scale(sign, given), state, at, units)
                ends[sign] = end[0], end[1]
                total += 0.5 * sign * np.asarray(along, np.float64)
                size += np.asarray(length, np.float64)
            up &= total >= -least * size
            if not np.any(up):
                break
            first = (factors == 0) & (total > least * size)
            factors[first] = total[first] / lengths[first]
        return np.where(up, factors, 0.0)

    chosen = lengths > 0
    try:
        factors = found = climb(chosen)
        while np.any(found) and not np.array_equal(found > 0, chosen):
            chosen = found > 0
            found = climb(chosen)
    except Exception:  # its own update says what is wrong, when it is called
        return None
    named = zip(layout.names, factors, found > 0, strict=True)
    return tuple(UphillLeaf(name, float(factor)) for name, factor, on in named if on)


def uphill_text(leaves: tuple[UphillLeaf, ...]) -> str:
    """Say which leaves climb and how far, in a sentence."""
    more = [f"{len(leaves) - NAMED} more"] if len(leaves) > NAMED else []
    *some, last = [*(leaf.name for leaf in leaves[:NAMED]), *more]
    names = f"{', '.join(some)} and {last} move" if some else f"{last} moves"
    ends = dict.fromkeys(f"{pick(leaf.factor for leaf in leaves):+#.2g}" for pick in (min, max))
    return f"{names} by {' to '.join(ends)} times {'their' if some else 'its'} gradient, up the slope"
