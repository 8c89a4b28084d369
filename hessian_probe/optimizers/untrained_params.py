"""Which parameters an optimiser never moves by their gradient, read off its traced program."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

from hessian_probe.arrays import Layout, Vector, from_tangent, merge
from hessian_probe.optimizers.optax_state import call_update


def frozen_variables(
    optimizer: Any, layout: Layout, variables: Vector, rest: tuple[Any, ...]
) -> tuple[bool, ...]:
    """Say for each variable whether its update is independent of its gradient.

    It is for `optax.set_to_zero` under `partition` or `masked`, whatever chain surrounds them.  Nothing is
    computed: the update is traced, and dead code is eliminated for one output at a time.

    Returns:
        One flag per variable; all False where the optimiser cannot be traced, or moves nothing at all.
    """

    def update(gradient: Vector, variables: Vector, rest: tuple[Any, ...], value: Any) -> Vector:
        params = merge(layout, variables, rest)
        state = optimizer.init(params)
        updates, _ = call_update(optimizer, merge(layout, gradient, rest), state, params, value)
        return from_tangent(layout, updates)

    shapes = tuple(_shape(leaf) for leaf in variables)
    none = (False,) * len(variables)
    try:
        value = jax.ShapeDtypeStruct((), layout.work_dtype)
        program = jax.make_jaxpr(update)(shapes, shapes, tuple(map(_shape, rest)), value).jaxpr
    except Exception:  # its own update says what is wrong, when it is called
        return none
    flags = []
    for index in range(len(variables)):
        _, used = partial_eval.dce_jaxpr(program, [other == index for other in range(len(variables))])
        flags.append(not used[index])
    return none if all(flags) else tuple(flags)


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) if hasattr(leaf, "dtype") else leaf
