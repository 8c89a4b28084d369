"""Which parameters an optimiser moves by their gradient, read off its traced program."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

from hessian_probe.arrays import Layout, Vector, at_least_float32, from_tangent, merge
from hessian_probe.optimizers.optax_state import call_update


def moved_variables(
    optimizer: Any, layout: Layout, variables: Vector, rest: tuple[Any, ...]
) -> frozenset[str]:
    """Return the names of the variables whose update depends on their gradient.

    It does not for `optax.set_to_zero` under `partition` or `masked`, whatever chain surrounds them.  Nothing
    is computed: the update is traced, and dead code is eliminated for one output at a time.  All are named
    where the optimiser cannot be traced, or moves nothing at all.
    """

    def update(gradient: Vector, variables: Vector, rest: tuple[Any, ...], value: Any) -> Vector:
        params = merge(layout, variables, rest)
        state = optimizer.init(params)
        updates, _ = call_update(optimizer, merge(layout, gradient, rest), state, params, value)
        return from_tangent(layout, updates)

    shapes = tuple(_shape(leaf) for leaf in variables)
    every = frozenset(layout.names)
    try:
        value = jax.ShapeDtypeStruct((), at_least_float32(layout.dtype))
        program = jax.make_jaxpr(update)(shapes, shapes, tuple(map(_shape, rest)), value).jaxpr
    except Exception:  # its own update says what is wrong, when it is called
        return every
    moved = set()
    for index, name in enumerate(layout.names):
        _, used = partial_eval.dce_jaxpr(program, [other == index for other in range(len(variables))])
        if used[index]:
            moved.add(name)
    return frozenset(moved) or every


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) if hasattr(leaf, "dtype") else leaf
