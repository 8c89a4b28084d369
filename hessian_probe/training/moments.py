"""What becomes of an optimiser's moments when the parameters jump."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree

MOMENTS = ("keep", "reset", "project")


def adjust_moments(opt_state: PyTree, params: PyTree, how: str, step: PyTree | None = None) -> PyTree:
    """Adjust every part of an optimiser's state that is shaped like the parameters.

    "keep" changes nothing.  "reset" sets those parts to zero, and a `count` beside them too, as at the
    start of training (bias corrections start again; schedules keep their count).  "project" takes from
    each part m that has entries of both signs (a momentum; second moments have one sign) what pulls
    back along the step d: m − max(0, ⟨m, d⟩)·d/⟨d, d⟩, where m points uphill as gradients do.

    Hooks reset by default: over five seeds on two plateaus (`benchmarks/escape.py --compare moments`), Adam
    then needed 1,125 gradients instead of 2,726, and 693 instead of 1,635; momentum 1,476 instead of 1,463,
    and 986 instead of 1,585 with overlapping quartiles.  Projecting changed nothing.

    Args:
        opt_state: any pytree, for instance an optax state.
        params: the parameters.
        how: "keep", "reset" or "project".
        step: displacement of the parameters, a pytree like them; "project" needs it.

    Returns:
        The new state; the same object for "keep".

    Raises:
        ValueError: `how` is none of the three, or "project" lacks `step`.
    """
    if how not in MOMENTS:
        raise ValueError(f"moments={how!r}; expected one of {', '.join(MOMENTS)}")
    if how == "keep" or opt_state is None:
        return opt_state
    if how == "project" and step is None:
        raise ValueError("moments='project' needs the step")
    alike = _matcher(params)

    def change(part: PyTree) -> PyTree:
        if not alike(part):
            return part
        if how == "reset":
            return jax.tree.map(jnp.zeros_like, part)
        return _projected(part, step)

    if how == "reset":
        opt_state = _restart_counts(opt_state, alike)
    return jax.tree.map(change, opt_state, is_leaf=alike)


def _matcher(params: PyTree) -> Callable[[Any], bool]:
    structure: Any = jax.tree.structure(params)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]

    def alike(part: Any) -> bool:
        own: Any = jax.tree.structure(part)
        return bool(own == structure) and [np.shape(leaf) for leaf in jax.tree.leaves(part)] == shapes

    return alike


def _restart_counts(state: Any, alike: Any) -> Any:
    """Set `count` to zero wherever it stands beside a part shaped like the parameters."""

    def fields(node: Any) -> dict[str, Any]:
        return node if isinstance(node, dict) else node._asdict() if hasattr(node, "_fields") else {}

    def counted(node: Any) -> bool:
        parts = fields(node)
        return "count" in parts and any(alike(part) for part in parts.values())

    def restart(node: Any) -> Any:
        if not counted(node):
            return node
        zero = jnp.zeros_like(fields(node)["count"])
        return {**node, "count": zero} if isinstance(node, dict) else node._replace(count=zero)

    return jax.tree.map(restart, state, is_leaf=counted)


def _projected(part: PyTree, step: PyTree) -> PyTree:
    """Take away what pulls back along the step, unless all entries have one sign."""
    pairs = list(zip(jax.tree.leaves(part), jax.tree.leaves(step), strict=True))
    wide = [(m.astype(jnp.float32), jnp.asarray(d).astype(jnp.float32)) for m, d in pairs]
    zero = jnp.zeros((), jnp.float32)
    along = sum((jnp.vdot(m, d) for m, d in wide), zero)
    square = sum((jnp.vdot(d, d) for _, d in wide), zero)
    safe = jnp.where(square > 0, square, jnp.ones_like(square))
    signed = jnp.any(jnp.stack([jnp.any(m < 0) for m, _ in wide]))
    share = jnp.where(signed & (square > 0), jnp.maximum(along, zero) / safe, zero)
    return jax.tree.map(lambda m, d: m - share.astype(m.dtype) * jnp.asarray(d).astype(m.dtype), part, step)
