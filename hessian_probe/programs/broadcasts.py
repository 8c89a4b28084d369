"""Where a traced loss broadcasts one sample against another: (N, 1) with (N,) gives (N, N)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.interpreters import partial_eval

from hessian_probe.programs.source import JAX, place_of
from hessian_probe.programs.walker import Walker, called_program


class Value(NamedTuple):
    """What is known of a value: the labels of the inputs that it depends on, and a letter for each axis.

    "b" samples; "1" of length one; "+" the same, inserted by an index or a promotion of ranks; "c" and "i"
    copies of these two along samples; "." anything else.  `part` is for further rules.
    """

    sources: frozenset[int]
    axes: str
    part: Any = None


class Broadcast(NamedTuple):
    """An operation on two arrays of which each has samples along an axis that the other has not.

    Attributes:
        operation: name of the primitive.
        sources: labels of the inputs that each operand depends on.
        shapes: shapes of the operands before ranks were promoted.
        place: file, line and code of the user's, after a space; "" where the program does not say.
    """

    operation: str
    sources: tuple[frozenset[int], frozenset[int]]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    place: str


def find_broadcast(program: Any, labels: Sequence[int], samples: int) -> Broadcast | None:
    """Find the first such operation that the outputs of a closed jaxpr need.

    Where an index inserted the axis of length one, as in x[:, None] - y, the loss is one of pairs on purpose;
    so it is where both operands depend on the same inputs.

    Args:
        program: the jaxpr.
        labels: a label for each of its inputs: 0 for the parameters, others for data.
        samples: length of the axes that are samples; no other axis should have it.

    Returns:
        The operation; None where there is none.
    """
    search = SampleAxes(samples)
    search.follow(program, labels)
    return search.found


class SampleAxes(Walker[Value]):
    """Follows axes of samples; the scope is the place of a call into JAX's own functions."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.found: Broadcast | None = None

    def follow(self, program: Any, labels: Sequence[int]) -> list[Value]:
        """Walk the part of a program that its outputs need; returns what is known of these."""
        needed = [True] * len(program.jaxpr.outvars)
        jaxpr, _ = partial_eval.dce_jaxpr(program.jaxpr, needed, instantiate=True)
        pairs = zip(jaxpr.invars, labels, strict=True)
        inputs = [self.by_size(var, frozenset((label,))) for var, label in pairs]
        return self.run(jaxpr, [self.by_size(var, frozenset()) for var in jaxpr.constvars], inputs, "")

    def constant(self, value: Any) -> Value:
        """A constant has no samples."""
        return Value(frozenset(), "." * getattr(value, "ndim", 0))

    def by_size(self, var: Any, sources: frozenset[int]) -> Value:
        """What the shape alone says."""
        letters = {self.samples: "b", 1: "1"}
        return Value(sources, "".join(letters.get(size, ".") for size in getattr(var.aval, "shape", ())))

    def equation(self, equation: Any, inputs: list[Value], scope: Any) -> list[Value]:
        """Follow the axes through one operation."""
        called = called_program(equation)
        if called is not None:
            jaxpr, consts = called
            source = str(getattr(getattr(jaxpr, "debug_info", None), "func_src_info", ""))
            inside = scope or (place_of([equation]) if JAX in source else "")
            return self.run(jaxpr, [self.constant(c) for c in consts], inputs, inside)
        axes, sources = None, frozenset[int]().union(*(value.sources for value in inputs))
        if len(equation.outvars) == 1:
            shape = equation.outvars[0].aval.shape
            axes = self._moved(equation, [value.axes for value in inputs], shape)
            if axes is None and all(len(value.axes) in (0, len(shape)) for value in inputs):
                axes = self._merged(equation, inputs, shape, scope)
        if axes is None:
            return [self.by_size(var, sources) for var in equation.outvars]
        return [Value(sources, axes)]

    def _moved(self, equation: Any, axes: list[str], shape: tuple[int, ...]) -> str | None:
        """Axes of the output of an operation that moves, adds or drops axes; None for any other."""
        name, params = equation.primitive.name, equation.params
        if name == "broadcast_in_dim":
            came = dict(zip(params["broadcast_dimensions"], axes[0], strict=True))
            return "".join(self._copied(came.get(axis, "+"), size) for axis, size in enumerate(shape))
        if name == "transpose":
            return "".join(axes[0][axis] for axis in params["permutation"])
        if name == "reshape":
            ones = [axis for axis in axes[0] if axis in "1+"]
            left = iter(ones if len(ones) == shape.count(1) else "+" * len(shape))
            return "".join("b" if s == self.samples else next(left) if s == 1 else "." for s in shape)
        if name == "dot_general":
            contracted, batched = params["dimension_numbers"]
            # An axis that an index gave to parameters sets no sample against another.
            axes = [one if "b" in one else one.replace("+", "1") for one in axes]
            gone = [(*contracted[side], *batched[side]) for side in (0, 1)]
            rest = [a for side in (0, 1) for i, a in enumerate(axes[side]) if i not in gone[side]]
            return "".join((*(axes[0][i] for i in batched[0]), *rest))
        dropped = params.get("dimensions" if name == "squeeze" else "axes")
        if dropped is not None and name.startswith(("squeeze", "reduce_", "arg")):
            return "".join(axis for i, axis in enumerate(axes[0]) if i not in dropped)
        return None

    def _copied(self, axis: str, size: int) -> str:
        """An axis of length one, at the length that it is copied to."""
        if axis not in "1+" or size == 1:
            return axis
        return {"1": "c", "+": "i"}[axis] if size == self.samples else "."

    def _merged(self, equation: Any, inputs: list[Value], shape: tuple[int, ...], scope: str) -> str | None:
        """Axes of an operation entry by entry, whose operands are compared."""
        seen = [value for value in inputs if value.axes]
        seen = [value for value in seen if value.sources] or seen
        copied = ["".join(map(self._copied, value.axes, shape)) for value in seen]
        for (one, a), (other, b) in itertools.combinations(zip(seen, copied, strict=True), 2):
            data = one.sources - {0} and other.sources - {0} and one.sources != other.sources
            if self.found is None and data and _crossed(a, b):
                shapes = (_original(one.axes, shape), _original(other.axes, shape))
                place = scope or place_of([equation])
                self.found = Broadcast(equation.primitive.name, (one.sources, other.sources), shapes, place)
        columns = zip(*copied, strict=True)
        return "".join(min(column, key="bci1+.".index) for column in columns) if seen else None


def _crossed(one: str, other: str) -> bool:
    """Whether operands, each with samples first as it came, are copied along each other's samples."""
    if any(axes.replace("i", "").replace("+", "")[:1] != "b" for axes in (one, other)):
        return False
    return other[one.index("b")] + one[other.index("b")] in ("cc", "ci", "ic")


def _original(axes: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an operand before it was copied and its rank was promoted."""
    own = axes.lstrip("i+")
    sizes = shape[len(axes) - len(own) :]
    return tuple(size if axis in "b." else 1 for axis, size in zip(own, sizes, strict=True))
