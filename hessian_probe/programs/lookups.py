"""Reads of a traced program that lie outside of what they read, and labels outside of the classes.

JAX raises no error there: a read is moved to another entry or gives NaN, and `jax.nn.one_hot` gives zeros.
The program's indices are computed from the real batch; the rest of it is left out by the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from hessian_probe.programs.source import place_of
from hessian_probe.programs.thresholds import MAX_TURNS
from hessian_probe.programs.walker import Evaluation, Noted, called_program, evaluate, primitives

# Indices outside are replaced by entries at these shares of the length: does the loss use them?
ELSEWHERE = (0.0, 0.5, 1.0)
READS = frozenset(("gather", "dynamic_slice", "eq"))
# Operations that change no value, only shape or dtype.
SAME = frozenset(("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "transpose", "copy"))


class IndexSource(NamedTuple):
    """Numbers of the inputs that a value depends on; for 0, 1, …, k − 1 along an axis, that axis and k."""

    sources: frozenset[int]
    counts: tuple[int, int] | None = None


class Lookup(NamedTuple):
    """An operation with indices outside.

    Attributes:
        operation: "gather", "dynamic_slice", or "one_hot" for labels that equal no class.
        index_sources: numbers of the inputs that the indices depend on.
        table_sources: the same of what is read.
        length: indices from 0 to this, excluded, are inside.
        num_outside: number of indices outside.
        value: the first of them; negative ones have had the length added, as by an index from the end.
        losses: the loss with indices outside replaced by ones inside, three times.
        place: file, line and code of the user's, after a space.
    """

    operation: str
    index_sources: frozenset[int]
    table_sources: frozenset[int]
    length: int
    num_outside: int
    value: int
    losses: tuple[float, ...]
    place: str

    @property
    def used(self) -> bool:
        """Whether the loss depends on what is read there."""
        finite = [loss for loss in self.losses if np.isfinite(loss)]
        return len(set(finite)) > 1


def find_lookups(program: Any, batches: Sequence[list[Any]], variables: int) -> list[tuple[int, Lookup]]:
    """Find the lookups with indices outside, each with the number of the first batch that has one.

    Args:
        program: closed jaxpr of a scalar loss.
        batches: values of all its inputs, flat, for each batch.
        variables: how many of its first inputs are parameters.

    Returns:
        For each lookup the number of its first batch with an index outside, and the lookup.

    Cost:
        One compiled program of the indices, run on each batch; where one is outside, the loss three times.

    >>> program = jax.make_jaxpr(lambda table, at: table[at].sum())(np.arange(3.0), np.array([0, 7]))
    >>> [(at, found)] = find_lookups(program, [[np.arange(3.0), np.array([0, 7])]], 1)
    >>> found.length, found.value, found.used
    (3, 7, True)
    """
    jaxpr, _ = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True)
    if not READS & primitives(jaxpr):
        return []
    search = _Search(variables)

    def seen(inputs: list[Any]) -> Any:
        search.start()
        search.loss(jaxpr, program.consts, inputs)
        return [(lookup.num_outside, lookup.value) for lookup in search.found]

    compiled = jax.jit(seen)
    first: dict[int, tuple[int, int, int]] = {}
    for number, inputs in enumerate(batches):
        for index, (count, value) in enumerate(compiled(inputs)):
            if count and index not in first:
                first[index] = (number, int(count), int(value))
    known = list(search.found)

    def changed(inputs: list[Any], which: jax.Array, share: jax.Array) -> Any:
        search.start(which, share)
        return search.loss(jaxpr, program.consts, inputs)

    out, again = [], jax.jit(changed)
    for index, (number, count, value) in sorted(first.items()):
        losses = tuple(float(again(batches[number], index, share)) for share in ELSEWHERE)
        out.append((number, known[index]._replace(num_outside=count, value=value, losses=losses)))
    return out


class _Search(Evaluation[IndexSource]):
    """Computes the loss and collects all lookups by indices that no parameter moves."""

    max_turns = MAX_TURNS

    def __init__(self, variables: int) -> None:
        self.variables = variables
        self.within: list[Any] = []  # calls in whose programs the walk is

    def start(self, which: Any = None, share: Any = 0.0) -> None:
        """Begin anew; the indices outside of lookup number `which` are replaced."""
        self.found: list[Any] = []
        self.which, self.share = which, share

    def loss(self, jaxpr: Any, consts: Any, inputs: list[Any]) -> Any:
        """The program's first output."""
        given = [(value, IndexSource(frozenset((number,)))) for number, value in enumerate(inputs)]
        return self.run(jaxpr, [self.constant(value) for value in consts], given)[0][0]

    def constant(self, value: Any) -> Noted[IndexSource]:
        """A constant depends on no input."""
        return value, IndexSource(frozenset())

    def united(self, notes: tuple[IndexSource, ...]) -> IndexSource:
        """What a stack of values depends on."""
        return IndexSource(frozenset().union(*(note.sources for note in notes)))

    def equation(
        self, equation: Any, inputs: list[Noted[IndexSource]], scope: Any
    ) -> list[Noted[IndexSource]]:
        """Unroll only loops that read."""
        called = called_program(equation)
        if called is not None:
            self.within.append(equation)
            outputs = self.run(called[0], [self.constant(value) for value in called[1]], inputs)
            self.within.pop()
            return outputs
        loop = equation.primitive.name == "scan"
        if loop and not READS & primitives(equation.params["jaxpr"].jaxpr):
            return self.operation(equation, inputs, evaluate(equation, [value for value, _ in inputs]))
        if not loop and equation.primitive.name in READS:
            inputs = self._read(equation, inputs)
        return super().equation(equation, inputs, scope)

    def operation(
        self, equation: Any, inputs: list[Noted[IndexSource]], outputs: list[Any]
    ) -> list[Noted[IndexSource]]:
        """Follow what a value depends on, and where it counts from zero."""
        sources = frozenset[int]().union(*(note.sources for _, note in inputs))
        name, counts = equation.primitive.name, None
        if name == "iota":
            axis = equation.params["dimension"]
            counts = (axis, outputs[0].shape[axis])
        elif name in SAME and (before := inputs[0][1].counts) is not None:
            axis, length = before
            if name == "broadcast_in_dim":
                counts = (equation.params["broadcast_dimensions"][axis], length)
            elif name == "convert_element_type":
                counts = before
            elif length > 1 and [size for size in outputs[0].shape if size > 1] == [length]:
                counts = (outputs[0].shape.index(length), length)
        return [(value, IndexSource(sources, counts)) for value in outputs]

    def _read(self, equation: Any, inputs: list[Noted[IndexSource]]) -> list[Noted[IndexSource]]:
        """Collect a lookup; returns its operands, indices outside replaced where that is asked for."""
        name, params, (operand, table) = equation.primitive.name, equation.params, inputs[0]
        if name == "eq":
            return self._one_hot(equation, inputs)
        last = np.subtract(operand.shape, params["slice_sizes"])
        if name == "dynamic_slice":
            starts = zip(inputs[1:], last, strict=True)
            return [
                inputs[0],
                *((self._checked(equation, at.sources, table, v, end), at) for (v, at), end in starts),
            ]
        fill, (index, at) = params.get("fill_value"), inputs[1]
        if fill is not None and not np.isnan(fill):
            return inputs  # the user says what to read outside
        axes = params["dimension_numbers"].start_index_map
        columns = [
            self._checked(equation, at.sources, table, index[..., column], last[axis])
            for column, axis in enumerate(axes)
        ]
        return [inputs[0], (jnp.stack(columns, axis=-1) if columns else index, at)]

    def _one_hot(self, equation: Any, inputs: list[Noted[IndexSource]]) -> list[Noted[IndexSource]]:
        """Compare labels with 0, 1, …: those beyond the last class give zeros; negative ones are a mask."""
        for side in (0, 1):
            (value, note), counts = inputs[side], inputs[1 - side][1].counts
            labels = note.counts is None and jnp.issubdtype(value.dtype, jnp.integer) and note.sources
            if counts is None or not labels or np.ndim(value) != np.ndim(inputs[1 - side][0]):
                continue
            axis, length = counts
            once = jax.lax.slice_in_dim(value, 0, 1, axis=axis)
            other = self._checked(equation, note.sources, None, once, length - 1)
            if self.which is not None:
                inputs[side] = jnp.broadcast_to(other, value.shape), note
        return inputs

    def _checked(
        self, equation: Any, sources: frozenset[int], table: IndexSource | None, index: Any, last: int
    ) -> Any:
        """Count the indices outside; with positions, which depend on no input, where they read parameters.

        Returns:
            The indices, those outside replaced where that is asked for.
        """
        read = frozenset[int]() if table is None else table.sources
        if not np.size(index) or not (sources or (read and max(read) < self.variables)):
            return index
        index = jnp.asarray(index)
        outside = index > last if table is None else (index > last) | (index < 0)
        name = "one_hot" if table is None else equation.primitive.name
        first = index.ravel()[jnp.argmax(outside.ravel())]
        place = place_of([*self.within, equation])
        self.found.append(Lookup(name, sources, read, int(last) + 1, outside.sum(), first, (), place))
        if self.which is None:
            return index
        inside = (self.share * last).astype(index.dtype)
        return jnp.where(outside & (self.which == len(self.found) - 1), inside, index)
