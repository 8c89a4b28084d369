"""Does a kink of the loss lie at these very parameters?

A kink is crossed where two operands tie: max(a, b) at a = b, |a| at a = 0, a comparison at equality.  Where
nothing ties, the loss is smooth in a neighbourhood, and its second derivative is not blind there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.programs.inspect import CORNERED_RULES, CORNERS, JUMPS
from hessian_probe.programs.jaxpr import is_literal, nested_programs

# Operands tie where they differ by less than so many roundings of the largest entry beside them: sums of
# a few thousand products leave that much at a kink.
ROUNDINGS = 1e3
COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))
PAIRS = frozenset(("max", "min"))
# Programs that are run through as they stand; kinks inside any other nested program count as ties.
OPEN = frozenset(("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2"))


def operands_tie(program: Any, num_variables: int, inputs: list[Any], kinks: set[str], eps: float) -> bool:
    """Whether operands of a program's kinks tie; True also where that cannot be told.

    Args:
        program: a closed jaxpr.
        num_variables: how many of its first inputs are the parameters' variables.
        inputs: values of all its inputs, flat.
        kinks: names of the kinks that matter (`ProgramFacts.kinks`).
        eps: rounding unit of the variables' dtype.

    Returns:
        False only if none of these kinks lies at these inputs.

    Cost:
        One evaluation of the program, and its compilation.
    """
    walk = _Walk(kinks, eps)
    marks = [index < num_variables for index in range(len(inputs))]
    tied = jax.jit(partial(walk.run, program.jaxpr, marks))(program.consts, inputs)
    return walk.hidden or bool(tied)


class _Walk:
    """Evaluates a program and watches the operands of its kinks."""

    def __init__(self, kinks: set[str], eps: float) -> None:
        self.kinks, self.eps = kinks, eps
        self.hidden = False  # a kink inside a program that is not run through
        self.ties: list[jax.Array] = []

    def run(self, jaxpr: Any, marks: list[bool], consts: list[Any], inputs: list[Any]) -> jax.Array:
        """Whether anything ties."""
        self.visit(jaxpr, marks, consts, inputs)
        return jnp.any(jnp.stack(self.ties)) if self.ties else jnp.zeros((), bool)

    def visit(
        self, jaxpr: Any, marks: list[bool], consts: list[Any], inputs: list[Any]
    ) -> tuple[list[Any], list[bool]]:
        """Evaluate a program: its outputs, and which of them depend on the parameters."""
        values = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(
            zip(jaxpr.invars, inputs, strict=True)
        )
        depends = {var for var, mark in zip(jaxpr.invars, marks, strict=True) if mark}

        def read(var: Any) -> Any:
            return var.val if is_literal(var) else values[var]

        for equation in jaxpr.eqns:
            given = [read(var) for var in equation.invars]
            marked = [not is_literal(var) and var in depends for var in equation.invars]
            outputs, flags = self._equation(equation, given, marked)
            for var, value, flag in zip(equation.outvars, outputs, flags, strict=True):
                values[var] = value
                if flag:
                    depends.add(var)
        outs = jaxpr.outvars
        return [read(var) for var in outs], [not is_literal(var) and var in depends for var in outs]

    def _equation(self, equation: Any, given: list[Any], marked: list[bool]) -> tuple[list[Any], list[bool]]:
        name = equation.primitive.name
        inner = list(nested_programs(equation))
        if any(marked):
            self._watch(name, given, equation.params)
        if name in OPEN and len(inner) >= 1 and len(inner[0][1].invars) == len(given):
            holder = next(p for p in equation.params.values() if getattr(p, "jaxpr", p) is inner[0][1])
            return self.visit(inner[0][1], marked, getattr(holder, "consts", []), given)
        if any(marked) and any(_names(program) & _WATCHED for _, program in inner):
            self.hidden = True
        bound = equation.primitive.get_bind_params(equation.params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)  # JAX before 0.10 gives both
        output = equation.primitive.bind(*functions, *given, **params)
        outputs = list(output) if equation.primitive.multiple_results else [output]
        return outputs, [any(marked)] * len(outputs)

    def _watch(self, name: str, given: list[Any], params: Any) -> None:
        """Compare the operands of a kink that was noticed."""
        kind = CORNERS.get(name, JUMPS.get(name, ""))
        pair = name in PAIRS and self.kinks & {kind, *CORNERED_RULES}
        if pair or (name in COMPARISONS and self.kinks - set(CORNERS.values())):
            self._tie(given[0], given[1])
        elif kind not in self.kinks:
            return
        elif name in ("abs", "sign"):
            self._tie(given[0], jnp.zeros((), given[0].dtype))
        elif name in ("reduce_max", "reduce_min"):
            self._tie_of_first(given[0] if name == "reduce_max" else -given[0], params["axes"])
        elif name not in PAIRS:
            self.hidden = True

    def _tie_of_first(self, a: Any, axes: tuple[int, ...]) -> None:
        """Whether the largest entry along some axes has an equal beside it."""
        near = jnp.max(a, axis=axes, keepdims=True) - self._width(jnp.max(jnp.abs(a)))
        count = jnp.sum((a >= near).astype(jnp.int32), axis=axes)
        self.ties.append(jnp.any(count > 1))

    def _width(self, top: jax.Array) -> jax.Array:
        return jnp.asarray(ROUNDINGS * self.eps, top.dtype) * top

    def _tie(self, a: Any, b: Any) -> None:
        a, b = jnp.asarray(a), jnp.asarray(b)
        if a.size == 0 or not jnp.issubdtype(a.dtype, jnp.floating):
            return
        top = jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b)))
        self.ties.append(jnp.any(jnp.abs(a - b) <= self._width(top)))


_WATCHED = frozenset((*CORNERS, *JUMPS)) | COMPARISONS


def _names(program: Any) -> set[str]:
    """Names of all primitives in a program and those nested in it."""
    found = set()
    for equation in program.eqns:
        found.add(equation.primitive.name)
        for _, inner in nested_programs(equation):
            found |= _names(inner)
    return found
