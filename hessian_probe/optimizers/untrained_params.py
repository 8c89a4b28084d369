"""Which parameters an optimiser never moves by their gradient, read off its traced program."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

from hessian_probe.arrays import Layout, Vector, from_tangent, merge


def frozen_variables(
    optimizer: Any, layout: Layout, variables: Vector, rest: tuple[Any, ...]
) -> tuple[bool, ...]:
    """Say for each variable whether its update does without its gradient.

    That is so for `optax.set_to_zero` under `partition` or `masked`, whatever the chain around them does.
    Nothing is computed: the update is traced, and what an output does not need of its inputs is dropped.

    Args:
        optimizer: an optax transformation that takes extra arguments.
        layout: layout of the parameters.
        variables: their variables.
        rest: their other arrays.

    Returns:
        One flag per variable; all False where the optimiser cannot be traced so, or moves nothing at all.
    """

    def update(gradient: Vector, variables: Vector, rest: tuple[Any, ...], value: Any) -> Vector:
        params = merge(layout, variables, rest)
        state = optimizer.init(params)
        keywords = accepted(optimizer.update, {"value": value})
        updates, _ = optimizer.update(merge(layout, gradient, rest), state, params, **keywords)
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


def accepted(update: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Those keywords that an update takes: some that claim to take more do not."""
    parameters = inspect.signature(update).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}
