"""Adjust an optimiser's moments after a jump of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.arrays import PyTree
from hessian_probe.optimizers.optax_state import PARAMETER_COPIES, field_name, parts_like_params

MOMENTS = ("keep", "reset", "project")


def adjust_moments(
    opt_state: PyTree,
    params: PyTree,
    how: str,
    step: PyTree | None = None,
    *,
    init: Callable[[PyTree], PyTree] | None = None,
) -> PyTree:
    """Adjust every part of an optimiser's state that is shaped like the parameters.

    Parts are found by the parameters' own paths, in masked and partitioned states too, which hold some of
    the parameters.

    "keep" changes nothing.  "reset" sets those parts to what `init` makes of the parameters (to zero where
    `init` is not given), and a `count` beside them to zero: bias corrections start again, schedules keep
    their count.  "project" removes from each part m that has entries of both signs (a momentum; second
    moments have one sign) the component that pulls back along the step d: m − max(0, ⟨m, d⟩)·d/⟨d, d⟩, where
    m points uphill as gradients do.  Parts that hold parameters (`z` of schedule-free methods, `params0`,
    `x0`, `cache`) are moved by the step unless `init` is given.

    Hooks reset by default.  After an escape from weights of zero, ten optimisers take the same number of
    gradients with each, or with "reset" up to 50 of 228 more (Adam; `python -m benchmarks.stuck --moments`).
    After late escapes Adam needed 1,125 gradients with "reset" and 2,726 with "keep" on one plateau, 693 and
    1,635 on another (`benchmarks/escape.py --compare moments`).

    Args:
        opt_state: any pytree, for instance an optax state.
        params: the parameters, after the step.
        how: "keep", "reset" or "project".
        step: displacement of the parameters, a pytree like them; "project" needs it.
        init: the optimiser's `init`.

    Returns:
        The new state; the same object for "keep".

    Raises:
        ValueError: `how` is none of the three, or "project" lacks `step`.

    Examples:
        >>> import jax.numpy as jnp
        >>> state = {"m": {"w": jnp.array([3.0, -1.0])}, "count": jnp.array(7)}
        >>> found = adjust_moments(state, {"w": jnp.zeros(2)}, "reset")
        >>> found["m"]["w"].tolist(), int(found["count"])
        ([0.0, 0.0], 0)
    """
    if how not in MOMENTS:
        raise ValueError(f"moments={how!r}; expected one of {', '.join(MOMENTS)}")
    if how == "keep" or opt_state is None:
        return opt_state
    if how == "project" and step is None:
        raise ValueError("moments='project' needs the step")
    paths, structure = jax.tree_util.tree_flatten_with_path(opt_state)
    leaves = [leaf for _, leaf in paths]
    parts = parts_like_params(paths, params)
    moves = None if step is None else [_array(leaf) for leaf in jax.tree.leaves(step)]
    fresh = None if init is None or how == "project" else _fresh(init, params, structure)
    for prefix, members in parts.items():
        if fresh is None and prefix and field_name(prefix[-1]) in PARAMETER_COPIES:
            new = [leaves[at] for at, _ in members]
            if moves is not None:
                new = [leaves[at] + moves[of].astype(leaves[at].dtype) for at, of in members]
        elif how == "reset":
            new = [jnp.zeros_like(leaves[at]) if fresh is None else fresh[at] for at, _ in members]
        else:
            assert moves is not None
            new = _projected([leaves[at] for at, _ in members], [moves[of] for _, of in members])
        for (at, _), leaf in zip(members, new, strict=True):
            leaves[at] = leaf
    if how == "reset":
        beside = {prefix[:-1] for prefix in parts if prefix}
        for at, (path, leaf) in enumerate(paths):
            if path and field_name(path[-1]) == "count" and path[:-1] in beside:
                leaves[at] = jnp.zeros_like(leaf)
    return jax.tree.unflatten(structure, leaves)


def _array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if hasattr(leaf, "dtype") else leaf


def _fresh(init: Callable[[PyTree], PyTree], params: PyTree, structure: Any) -> list[Any]:
    """Leaves of a new state."""
    leaves, made = jax.tree.flatten(init(params))
    if made != structure:
        raise ValueError(f"init makes a state of structure {made}; expected that of opt_state, {structure}")
    return leaves


def _projected(part: list[Any], step: list[Any]) -> list[Any]:
    """Take away what pulls back along the step, unless all entries have one sign."""
    wide = [(m.astype(jnp.float32), d.astype(jnp.float32)) for m, d in zip(part, step, strict=True)]
    zero = jnp.zeros((), jnp.float32)
    along = sum((jnp.vdot(m, d) for m, d in wide), zero)
    square = sum((jnp.vdot(d, d) for _, d in wide), zero)
    safe = jnp.where(square > 0, square, jnp.ones_like(square))
    signed = jnp.any(jnp.stack([jnp.any(m < 0) for m, _ in wide]))
    share = jnp.where(signed & (square > 0), jnp.maximum(along, zero) / safe, zero)
    pairs = zip(part, step, strict=True)
    return [m - share.astype(m.dtype) * d.astype(m.dtype) for m, d in pairs]
