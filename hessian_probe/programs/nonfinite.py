"""Which operation makes the gradient of a finite loss not finite.

The program is run forwards, and its operations are differentiated backwards one by one: the first that takes
a finite derivative and gives one that is not finite is named.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.programs.inspect import rule_of
from hessian_probe.programs.source import place_of
from hessian_probe.programs.thresholds import MOST_TURNS
from hessian_probe.programs.walker import called_program, evaluate, is_literal, scan_parts


def nonfinite_derivative(program: Any, inputs: list[Any]) -> str:
    """Name the operation whose derivative is not finite, with its place in the user's code.

    Args:
        program: closed jaxpr of a scalar loss.
        inputs: values of all its inputs, flat.

    Returns:
        The operation; "" where none is found.

    Cost:
        One evaluation and one gradient, operation by operation.

    >>> program = jax.make_jaxpr(lambda x: jnp.sqrt(x) * 0.0)(0.0)
    >>> nonfinite_derivative(program, [0.0]).split(" (")[0]
    'sqrt at 0, which the loss does not use there'
    """
    search, one = _Backwards(), jnp.ones((), program.jaxpr.outvars[0].aval.dtype)
    search.backwards(program.jaxpr, program.consts, inputs, [one])
    return search.found


class _Backwards:
    """A walk backwards that ends at the first derivative that is not finite."""

    def __init__(self) -> None:
        self.found = ""
        self.within: list[Any] = []  # equations in whose programs the walk is

    def backwards(self, jaxpr: Any, consts: Any, inputs: Any, cotangents: list[Any]) -> list[Any]:
        """Return the cotangents of a program's inputs, None for what is not differentiated."""
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

        def read(atom: Any) -> Any:
            return atom.val if is_literal(atom) else values[atom]

        for equation in jaxpr.eqns:
            outputs = evaluate(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, outputs, strict=True))
        sums: dict[Any, Any] = {}

        def add(atom: Any, cotangent: Any) -> None:
            if cotangent is not None and not is_literal(atom):
                sums[atom] = sums[atom] + cotangent if atom in sums else cotangent

        for atom, cotangent in zip(jaxpr.outvars, cotangents, strict=True):
            add(atom, cotangent)
        for equation in reversed(jaxpr.eqns):
            given = [sums.get(var) for var in equation.outvars]
            if all(each is None for each in given):
                continue
            found = self._of(equation, [read(atom) for atom in equation.invars], given)
            if self.found:
                return []
            for atom, cotangent in zip(equation.invars, found, strict=True):
                add(atom, cotangent)
        return [sums.get(var) for var in jaxpr.invars]

    def _of(self, equation: Any, inputs: list[Any], cotangents: list[Any]) -> list[Any]:
        """Cotangents of an operation's operands; where they are not finite the operation is named."""
        places = [index for index, value in enumerate(inputs) if _differentiable(value)]

        def outputs(operands: list[Any]) -> list[Any]:
            given = {**dict(enumerate(inputs)), **dict(zip(places, operands, strict=True))}
            return evaluate(equation, list(given.values()))

        made, pull = jax.vjp(outputs, [inputs[index] for index in places])
        filled = [
            _zero(value) if cotangent is None or not _differentiable(value) else cotangent
            for value, cotangent in zip(made, cotangents, strict=True)
        ]
        (pulled,) = pull(filled)
        if not all(bool(jnp.all(jnp.isfinite(each))) for each in pulled):
            self.within.append(equation)
            self._enter(equation, inputs, filled)
            operands = [inputs[index] for index in places]
            self.found = self.found or self._named(equation, operands, pulled, filled)
        found = dict(zip(places, pulled, strict=True))
        return [found.get(index) for index in range(len(inputs))]

    def _enter(self, equation: Any, inputs: list[Any], cotangents: list[Any]) -> None:
        """Look inside a call, the branch taken or the turns of a loop."""
        params = equation.params
        called = called_program(equation)
        if called is not None and not equation.primitive.name.startswith("custom_"):
            self.backwards(called[0], called[1], inputs, cotangents)
        elif equation.primitive.name == "cond":
            branch = params["branches"][int(np.clip(inputs[0], 0, len(params["branches"]) - 1))]
            self.backwards(branch.jaxpr, branch.consts, inputs[1:], cotangents)
        elif equation.primitive.name == "scan" and params["length"] <= MOST_TURNS:
            parts = scan_parts(params)
            if parts is not None:
                self._turns(params, parts, inputs, cotangents)

    def _turns(self, params: Any, parts: tuple[int, int], inputs: list[Any], cotangents: list[Any]) -> None:
        """Go back through the turns of a scan."""
        (fixed, carried), body, length = parts, params["jaxpr"], params["length"]
        turns = list(reversed(range(length)) if params["reverse"] else range(length))
        starts, carry = [], inputs[fixed : fixed + carried]
        for turn in turns:
            starts.append([*inputs[:fixed], *carry, *(rows[turn] for rows in inputs[fixed + carried :])])
            carry = jax.core.eval_jaxpr(body.jaxpr, body.consts, *starts[-1])[:carried]
        behind = list(cotangents[:carried])
        for turn, start in zip(reversed(turns), reversed(starts), strict=True):
            given = [*behind, *(rows[turn] for rows in cotangents[carried:])]
            found = self.backwards(body.jaxpr, body.consts, start, given)
            if self.found:
                return
            behind = found[fixed : fixed + carried]

    def _named(self, equation: Any, operands: list[Any], pulled: list[Any], cotangents: list[Any]) -> str:
        """Name an operation, the number at which its derivative fails, and its place."""
        name = equation.primitive.name
        text = rule_of(equation)[0] if name.startswith("custom_") else name
        flags = [~np.isfinite(np.asarray(each)) for each in pulled]
        bad = max(flags, key=lambda flag: (bool(np.any(flag)), flag.size))
        alike = [
            np.broadcast_to(np.asarray(each), bad.shape)[bad].flat[0]
            for each in operands
            if np.shape(each) in ((), bad.shape)
        ]
        text += f" at {', '.join(f'{np.real(value):g}' for value in alike)}"
        if all(np.shape(each) == bad.shape and not np.any(np.asarray(each)[bad]) for each in cotangents):
            text += ", which the loss does not use there"
        return text + place_of(self.within)


def _differentiable(value: Any) -> bool:
    dtype = value.dtype if hasattr(value, "dtype") else np.result_type(value)
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _zero(value: Any) -> Any:
    return jnp.zeros_like(value) if _differentiable(value) else np.zeros(np.shape(value), jax.dtypes.float0)
