"""Does a kink of the loss lie at these very parameters?

A kink is crossed where two operands tie: max(a, b) at a = b, |a| at a = 0, a comparison at equality.  Where
nothing ties, the loss is smooth in a neighbourhood, and its second derivative is not blind there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.programs.inspect import CORNERED_RULES, CORNERS, JUMPS
from hessian_probe.programs.thresholds import TIE_ROUNDINGS
from hessian_probe.programs.walker import Evaluation, Noted, nested_programs, primitives

COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))
PAIRS = frozenset(("max", "min"))


def ties(program: Any, num_variables: int, kinks: frozenset[str], eps: float) -> Callable[[list[Any]], bool]:
    """Compile the question whether a kink of a closed jaxpr lies at given inputs.

    Args:
        program: the jaxpr.
        num_variables: how many of its first inputs are the parameters' variables.
        kinks: names of the kinks that matter (`ProgramFacts.kinks`).
        eps: rounding unit of the variables' dtype.

    Returns:
        A function of the values of all inputs, flat: False only if no kink lies there; True where that cannot
        be told.
    """
    watch = _KinkWatch(kinks, eps)

    @jax.jit
    def any_tie(consts: list[Any], inputs: list[Any]) -> jax.Array:
        given = [(value, index < num_variables) for index, value in enumerate(inputs)]
        watch.ties.clear()
        watch.run(program.jaxpr, [watch.constant(value) for value in consts], given)
        return jnp.any(jnp.stack(watch.ties)) if watch.ties else jnp.zeros((), bool)

    return lambda inputs: bool(any_tie(program.consts, inputs)) or watch.hidden


class _KinkWatch(Evaluation[bool]):
    """Compares the operands of kinks; the note on a value is whether it depends on the parameters."""

    def __init__(self, kinks: frozenset[str], eps: float) -> None:
        self.kinks, self.eps = kinks, eps
        self.hidden = False  # a kink inside a program that is not entered
        self.ties: list[jax.Array] = []

    def constant(self, value: Any) -> Noted[bool]:
        """A constant does not depend on the parameters."""
        return value, False

    def operation(self, equation: Any, inputs: list[Noted[bool]], outputs: list[Any]) -> list[Noted[bool]]:
        """Watch an operation; its outputs depend on the parameters where an input does."""
        marked = any(mark for _, mark in inputs)
        # A value that is compared with itself, as tests for NaN do, is on no side of anything.
        itself = len(equation.invars) == 2 and equation.invars[0] is equation.invars[1]
        if marked and not itself:
            self._watch(equation.primitive.name, [value for value, _ in inputs], equation.params)
            self.hidden |= any(primitives(inner) & _WATCHED for _, inner in nested_programs(equation))
        return [(value, marked) for value in outputs]

    def _watch(self, name: str, given: list[Any], params: Any) -> None:
        """Compare the operands of a kink that matters."""
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
        elif name == "sort":
            self._tie_of_neighbours(given[0], params["dimension"])
        elif name not in PAIRS:
            self.hidden = True

    def _tie_of_first(self, a: Any, axes: tuple[int, ...]) -> None:
        """Whether the largest entry along some axes has an equal beside it."""
        near = jnp.max(a, axis=axes, keepdims=True) - self._width(jnp.max(jnp.abs(a)))
        count = jnp.sum((a >= near).astype(jnp.int32), axis=axes)
        self.ties.append(jnp.any(count > 1))

    def _tie_of_neighbours(self, a: jax.Array, axis: int) -> None:
        """Whether neighbours in sorted order are equal."""
        ordered = jnp.sort(a, axis=axis)
        size = ordered.shape[axis]
        ends = ((min(1, size), size), (0, max(size - 1, 0)))
        one, other = (jax.lax.slice_in_dim(ordered, start, end, axis=axis) for start, end in ends)
        self._tie(one, other)

    def _width(self, top: jax.Array) -> jax.Array:
        return jnp.asarray(TIE_ROUNDINGS * self.eps, top.dtype) * top

    def _tie(self, a: Any, b: Any) -> None:
        a, b = jnp.asarray(a), jnp.asarray(b)
        if a.size == 0 or b.size == 0 or not jnp.issubdtype(a.dtype, jnp.floating):
            return
        # What is infinite ties with nothing, and says nothing of the size of the rest.
        top = jnp.maximum(*(jnp.max(jnp.where(jnp.isfinite(c), jnp.abs(c), 0)) for c in (a, b)))
        self.ties.append(jnp.any(jnp.abs(a - b) <= self._width(top)))


_WATCHED = frozenset((*CORNERS, *JUMPS)) | COMPARISONS
