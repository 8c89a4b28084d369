"""One walk over a traced program: operation by operation, and into the programs nested in it.

What is known of each value is up to the rules, a subclass.  `Marks` knows one bit of each value and computes
nothing: it walks a loop until the bits settle, and all cases of a branch.  `Evaluation` computes the values,
and keeps a note on each: it enters calls and unrolls short scans; any other loop is one operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import jax.numpy as jnp

V = TypeVar("V")
N = TypeVar("N")
Noted = tuple[Any, N]

# Calls that stand for the program within them, by their names in JAX 0.6 to 0.12.
CALLS = frozenset({
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
})  # fmt: skip


class Walker(Generic[V]):
    """Walks a program; a subclass says what is known of each value, a `V`."""

    def constant(self, value: Any) -> V:
        """What is known of an array that a program closes over."""
        raise NotImplementedError

    def literal(self, value: Any) -> V:
        """What is known of a number that is written into a program."""
        return self.constant(value)

    def equation(self, equation: Any, inputs: list[V], scope: Any) -> list[V]:
        """What is known of the outputs of one operation."""
        raise NotImplementedError

    def run(self, jaxpr: Any, consts: list[V], inputs: list[V], scope: Any = None) -> list[V]:
        """What is known of a program's outputs, by that of the arrays it closes over and of its inputs."""
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

        def read(atom: Any) -> V:
            return self.literal(atom.val) if is_literal(atom) else known[atom]

        for equation in jaxpr.eqns:
            outputs = self.equation(equation, [read(atom) for atom in equation.invars], scope)
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


class Marks(Walker[bool]):
    """Which values depend on marked inputs."""

    def constant(self, value: Any) -> bool:
        """A constant depends on nothing."""
        return False

    def inside(self, equation: Any, jaxpr: Any, scope: Any) -> Any:
        """The scope of a program nested in an equation."""
        return scope

    def nested(self, equation: Any, inputs: list[bool], scope: Any) -> list[bool]:
        """Walk all programs nested in an equation; loops until what depends on what is settled."""
        outputs = [False] * len(equation.outvars)
        for _ in range(1 + len(outputs)):
            before = list(outputs)
            for label, jaxpr in nested_programs(equation):
                marks = inner_marks(equation, label, jaxpr, inputs, outputs)
                found = self.run(
                    jaxpr, [False] * len(jaxpr.constvars), marks, self.inside(equation, jaxpr, scope)
                )
                if len(found) == len(outputs):
                    outputs = [a or b for a, b in zip(outputs, found, strict=True)]
                elif label != "cond_jaxpr":
                    outputs = [any(inputs)] * len(outputs)
            if outputs == before or equation.primitive.name not in ("scan", "while"):
                break
        return outputs


class Evaluation(Walker[Noted[N]]):
    """Computes a program's values, each with a note."""

    max_turns = 0  # scans of at most this many turns are unrolled

    def operation(self, equation: Any, inputs: list[Noted[N]], outputs: list[Any]) -> list[Noted[N]]:
        """The outputs of an operation with their notes."""
        raise NotImplementedError

    def united(self, notes: tuple[N, ...]) -> N:
        """The note on a stack of values."""
        raise NotImplementedError

    def equation(self, equation: Any, inputs: list[Noted[N]], scope: Any) -> list[Noted[N]]:
        """Enter a call, unroll a short scan, compute anything else."""
        called = called_program(equation)
        if called is not None:
            jaxpr, consts = called
            return self.run(jaxpr, [self.constant(value) for value in consts], inputs)
        short = equation.primitive.name == "scan" and 0 < equation.params["length"] <= self.max_turns
        if short and scan_parts(equation.params) is not None:
            return self._unrolled(equation.params, inputs)
        return self.operation(equation, inputs, evaluate(equation, [value for value, _ in inputs]))

    def _unrolled(self, params: Any, inputs: list[Noted[N]]) -> list[Noted[N]]:
        """Run a scan turn by turn."""
        body, turns = params["jaxpr"], params["length"]
        num_fixed, num_carried = scan_parts(params) or (0, 0)
        fixed, rest = inputs[:num_fixed], inputs[num_fixed:]
        carry, stacks = rest[:num_carried], rest[num_carried:]
        consts = [self.constant(value) for value in body.consts]
        rows: list[Any] = [None] * turns
        for turn in reversed(range(turns)) if params["reverse"] else range(turns):
            given = [*fixed, *carry, *((value[turn], note) for value, note in stacks)]
            outputs = self.run(body.jaxpr, consts, given)
            carry, rows[turn] = outputs[:num_carried], outputs[num_carried:]
        stacked = []
        for column in zip(*rows, strict=True):
            values, notes = zip(*column, strict=True)
            stacked.append((jnp.stack(values), self.united(notes)))
        return [*carry, *stacked]


def is_literal(atom: Any) -> bool:
    """Whether an operand is a number written into the program."""
    return hasattr(atom, "val")


def nested_programs(equation: Any) -> Iterator[tuple[str, Any]]:
    """Programs nested in an equation, each with the parameter that holds it."""
    for label, parameter in equation.params.items():
        for item in parameter if isinstance(parameter, tuple | list) else (parameter,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns") and hasattr(inner, "invars"):
                yield label, inner


def primitives(jaxpr: Any) -> set[str]:
    """Names of all operations in a program and those nested in it."""
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for _, inner in nested_programs(equation):
            found |= primitives(inner)
    return found


def called_program(equation: Any) -> tuple[Any, Any] | None:
    """The program that a call stands for, with the arrays it closes over; None if it is no call."""
    if equation.primitive.name not in CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        program = equation.params.get(name)
        if program is None:
            continue
        jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
        if hasattr(jaxpr, "eqns") and len(jaxpr.invars) == len(equation.invars):
            return jaxpr, consts
    return None


def evaluate(equation: Any, values: list[Any]) -> list[Any]:
    """Outputs of an operation."""
    bound = equation.primitive.get_bind_params(equation.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # JAX before 0.10 gives both
    outputs = equation.primitive.bind(*functions, *values, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def scan_parts(params: dict[str, Any]) -> tuple[int, int] | None:
    """Sizes of what a scan takes as it is and of what it carries; None where this JAX does not say."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    try:  # JAX 0.12: a tree of what goes in, (fixed, carried, rows)
        fixed, carried, _ = params["ft_in"].unpack()
        return len(fixed), len(carried)
    except (KeyError, AttributeError, TypeError, ValueError):
        return None


def input_parts(equation: Any, label: str, inputs: list[V]) -> tuple[list[V], list[V], list[V]] | None:
    """Return the inputs of a branch or a loop's program: the same in all turns, carried, a row for each turn.

    None where this JAX does not say, and for any other operation.
    """
    name, params = equation.primitive.name, equation.params
    if name == "scan" and (parts := scan_parts(params)) is not None:
        fixed, carried = parts
        return inputs[:fixed], inputs[fixed : fixed + carried], inputs[fixed + carried :]
    if name == "while" and "cond_nconsts" in params:
        first, second = params["cond_nconsts"], params["body_nconsts"]
        own = inputs[:first] if label == "cond_jaxpr" else inputs[first : first + second]
        return own, inputs[first + second :], []
    return (inputs[1:], [], []) if name == "cond" else None


def inner_marks(equation: Any, label: str, jaxpr: Any, inputs: list[bool], outputs: list[bool]) -> list[bool]:
    """Which inputs of a nested program are marked."""
    parts, marks = input_parts(equation, label, inputs), inputs
    if parts is not None:
        fixed, carried, rows = parts
        marks = [*fixed, *(a or b for a, b in zip(carried, outputs, strict=False)), *rows]
    elif equation.primitive.name in ("scan", "while"):  # what is carried may depend on any
        marks = []
    return marks if len(marks) == len(jaxpr.invars) else [any(inputs)] * len(jaxpr.invars)
