"""Where a traced loss mixes its samples: a softmax over them, and a reshape that takes them for another axis.

Statistics of a batch (batch normalisation), losses of pairs, attention and weights over samples mix them on
purpose; none of these is found here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hessian_probe.programs.broadcasts import SampleAxes, Value
from hessian_probe.programs.source import place_of
from hessian_probe.programs.walker import called_program

# Operations through which a part of a softmax stays what it is.
KEEP = frozenset((
    "broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "stop_gradient", "transpose", "abs",
    "add", "max", "copy",
))  # fmt: skip


class Mix(NamedTuple):
    """An operation of which each entry depends on several samples.

    Attributes:
        operation: "softmax" (over samples), "softmax of one" (along axes of length one) or "reshape".
        shapes: of its operand, and of its result; sample axes have the length that was given.
        place: file, line and code of the user's, after a space; "" where the program does not say.
    """

    operation: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    place: str


class _Part(NamedTuple):
    """A part of a softmax: "exp", "sum" or "log" of the sum; the operand's shape and axes, what is summed."""

    kind: str
    shape: tuple[int, ...] = ()
    over: str = ""
    rest: str = ""
    length: int = 0
    place: str = ""


def _pooled(equation: Any, inputs: list[Value], outputs: list[Value]) -> set[int]:
    """Marks of weights of samples, with which a product sums over samples: a mix on purpose."""
    if equation.primitive.name != "dot_general" or not outputs[0].axes:
        return set()
    sides = zip(inputs, equation.params["dimension_numbers"][0], strict=True)
    summed = [value for value, axes in sides if "b" in [value.axes[axis] for axis in axes]]
    return {number for value in summed for number in value.sources if number < 0}


def find_mix(program: Any, labels: Sequence[int], samples: int) -> Mix | None:
    """Find the first such operation on values that depend on parameters and data.

    Args:
        program: closed jaxpr.
        labels: a label for each of its inputs: 0 for the parameters, others for data.
        samples: length of the axes that are samples; no other axis should have it.

    Returns:
        The operation; None where there is none.
    """
    search = _Mixes(samples)
    reached = {-1 - number for number in search.follow(program, labels)[0].sources if number < 0}
    return search.mixes[min(reached)] if reached else None


class _Mixes(SampleAxes):
    """Recognises a softmax by its parts: exp ÷ its sum, or a difference from the logarithm of that sum."""

    def __init__(self, samples: int) -> None:
        super().__init__(samples)
        self.mixes: list[Mix] = []  # number n is marked by a source −1 − n

    def equation(self, equation: Any, inputs: list[Value], scope: Any) -> list[Value]:
        """Follow the axes, and the parts of a softmax."""
        outputs = super().equation(equation, inputs, scope)
        if called_program(equation) is not None:
            return outputs
        if equation.primitive.name == "stop_gradient":  # a target, not an output
            sources = frozenset(number for number in inputs[0].sources if number > 0)
            return [out._replace(sources=sources, part=inputs[0].part) for out in outputs]
        before = len(self.mixes)
        contracted = _pooled(equation, inputs, outputs)
        outputs = [out._replace(sources=out.sources - contracted) for out in outputs]
        part = self._part(equation, inputs, scope or place_of([equation]))
        new = frozenset(-1 - number for number in range(before, len(self.mixes)))
        return [out._replace(sources=out.sources | new, part=part) for out in outputs]

    def _part(self, equation: Any, inputs: list[Value], place: str) -> _Part | None:
        name, parts = equation.primitive.name, [value.part for value in inputs]
        kinds = [None if part is None else part.kind for part in parts]
        if name == "exp":
            return _Part("exp")
        if name == "reduce_sum" and kinds == ["exp"]:
            axes, shape = equation.params["axes"], equation.invars[0].aval.shape
            letters = inputs[0].axes
            over = "".join(letters[axis] for axis in axes)
            rest = "".join(letter for axis, letter in enumerate(letters) if axis not in axes)
            length = math.prod(shape[axis] for axis in axes)
            return _Part("sum", shape, over, rest, length, place)
        if name == "log" and kinds == ["sum"]:
            return parts[0]._replace(kind="log")
        if name == "div" and kinds == ["exp", "sum"]:
            self._softmax(parts[1], inputs)
        if name == "sub" and "log" in kinds:
            self._softmax(parts[kinds.index("log")], inputs)
        if name == "reshape":
            self._reshape(equation, inputs[0], place)
        kept = [part for part in parts if part is not None]
        return kept[0] if name in KEEP and len(kept) == 1 else None

    def _softmax(self, total: _Part, inputs: list[Value]) -> None:
        """Note a softmax of several outputs over samples: weights of samples (n,) or (n, n) are meant."""
        sources = [value.sources for value in inputs]
        several = math.prod(size for size in total.shape if size != self.samples) > 1
        once = (total.over + total.rest).count("b") == 1 and "b" in total.over
        of_outputs = all(0 in each and max(each) > 0 for each in sources)
        if total.length == 1 and total.shape and any(0 in each for each in sources):
            self.mixes.append(Mix("softmax of one", (total.shape, total.shape), total.place))
        elif several and once and of_outputs:
            self.mixes.append(Mix("softmax", (total.shape, total.shape), total.place))

    def _reshape(self, equation: Any, value: Value, place: str) -> None:
        """Note a reshape that makes an axis of samples from another: the axes before it differ in size."""
        shapes = [tuple(var.aval.shape) for var in (equation.invars[0], equation.outvars[0])]
        if value.axes.count("b") != 1 or shapes[1].count(self.samples) != 1:
            return
        before = [math.prod(shape[: shape.index(self.samples)]) for shape in shapes]
        if before[0] != before[1] and value.sources:
            self.mixes.append(Mix("reshape", (shapes[0], shapes[1]), place))
