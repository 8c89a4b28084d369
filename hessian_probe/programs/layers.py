"""The inside of a model, read from the program that JAX traces: activations and layers.

The program is evaluated operation by operation, so no hooks are needed and every framework looks the same.
The note on each value says whether it depends on the data, and through which activations it came.  A *layer*
multiplies a value that depends on the data by one that depends on parameters alone; an activation is *hidden*
if a layer reads it later.  What happens inside `while`, `cond` and long scans is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.programs.thresholds import MAX_TURNS
from hessian_probe.programs.walker import Evaluation, Noted

LAYERS = ("dot_general", "conv_general_dilated")
LOOPS = ("scan", "while", "cond", "shard_map", "pallas_call")


class Origin(NamedTuple):
    """Where a value came from.

    Attributes:
        data: it depends on the data.
        through: numbers of the activations on the way.
        zero: it is a constant zero.
        inside: it depends on a layer's output.
        axis: axis of the units, counted from the end.
        soft: it is log(1 + x); added to a maximum with zero it makes a softplus.
        layers: numbers of the layers that it came from, with no other layer between.
    """

    data: bool
    through: frozenset[int]
    zero: bool = False
    inside: bool = False
    axis: int = -1
    soft: bool = False
    layers: frozenset[int] = frozenset()


class Activation(NamedTuple):
    """One activation: its kind, its output, the axis of its units, and its input.

    The kind is "relu", "tanh", "logistic", or "gate": a logistic function that multiplies the output of
    another layer, and does not interpolate between two such outputs.
    """

    kind: str
    value: jax.Array
    axis: int = -1
    input: Any = None


class ForwardPass(NamedTuple):
    """What one evaluation of a model's program shows.

    Attributes:
        output: the program's first output.
        activations: in order.
        hidden: numbers of the activations that a layer reads.
        last: numbers of those between the last layer and the program's first output; without logistic ones
            that are multiplied by raw data, such as targets.
        layers: outputs of the layers, in order.
        read: inputs of layers that depend on an earlier layer, each with whether it is a known activation's.
        loops: the program holds loops, whose inside is not seen.
    """

    output: Any
    activations: list[Activation]
    hidden: set[int]
    last: frozenset[int]
    layers: list[jax.Array]
    read: list[tuple[jax.Array, bool]]
    loops: bool


class _Origins(Evaluation[Origin]):
    """Follows where values come from, and collects activations and layers."""

    max_turns = MAX_TURNS

    def __init__(self, taps: tuple[jax.Array, ...] | None, cut: bool = False) -> None:
        self.taps, self.cut = taps, cut
        self.read: list[tuple[jax.Array, bool]] = []
        self.activations: list[Activation] = []
        self.hidden, self.gates, self.weighed = set[int](), set[int](), set[int]()
        self.mixers = set[int]()  # 1 - gate occurs too: an interpolation
        self.layers: list[jax.Array] = []
        self.loops = False

    def constant(self, value: Any) -> Noted[Origin]:
        """A constant comes from no data."""
        return value, Origin(False, frozenset())

    def literal(self, value: Any) -> Noted[Origin]:
        """A number written into the program, which may be zero."""
        return value, Origin(False, frozenset(), zero=_is_number(value, 0))

    def operation(
        self, equation: Any, inputs: list[Noted[Origin]], outputs: list[Any]
    ) -> list[Noted[Origin]]:
        """Note what an operation is, and where its outputs come from."""
        name = equation.primitive.name
        values, origins = [value for value, _ in inputs], [origin for _, origin in inputs]
        self.loops |= name in LOOPS
        data = any(origin.data for origin in origins)
        through = _through(name, origins)
        self._note_gates(equation, origins, through)
        inside = any(origin.inside for origin in origins)
        layers = frozenset[int]().union(*(origin.layers for origin in origins))
        axis = _axis(name, values, origins, outputs[0])
        if data and name in LAYERS and not all(origin.data for origin in origins):
            self.hidden |= through
            self.read += [(value, bool(o.through)) for value, o in inputs if o.data and o.inside]
            outputs = [self._layer(outputs[0])]
            inside, layers = True, frozenset({len(self.layers)})
            if name == "conv_general_dilated":
                axis = equation.params["dimension_numbers"].out_spec[1] - np.ndim(outputs[0])
        kind = _activation(name, origins) if data and np.ndim(outputs[0]) > 1 else ""
        if kind:
            through = through | {len(self.activations)}
            given = next(value for value, origin in inputs if origin.data)
            self.activations.append(Activation(kind, outputs[0], axis, given))
        zero = name in ("broadcast_in_dim", "convert_element_type") and origins[0].zero
        origin = Origin(data, through, zero, inside, axis, name == "log1p", layers)
        return [(value, origin) for value in outputs]

    def united(self, notes: tuple[Origin, ...]) -> Origin:
        """Where a stack of values came from."""
        through = frozenset[int]().union(*(origin.through for origin in notes))
        layers = frozenset[int]().union(*(origin.layers for origin in notes))
        inside = any(origin.inside for origin in notes)
        return Origin(any(origin.data for origin in notes), through, inside=inside, layers=layers)

    def _note_gates(self, equation: Any, origins: list[Origin], through: frozenset[int]) -> None:
        """Note gates, and activations that are multiplied by raw data (masks, weights, targets)."""
        name = equation.primitive.name
        if name == "mul" and _apart(origins):
            first, second = (o for o in origins if o.data)
            if first.layers and second.layers:
                self.gates |= (first.through ^ second.through) - self.hidden
            else:
                self.weighed |= first.through | second.through
        elif name == "mul" and any(origin.zero for origin in origins):  # the first turn of a cell
            self.gates |= through - self.hidden
        elif name == "sub" and _is_number(getattr(equation.invars[0], "val", None), 1):
            self.mixers |= through

    def _layer(self, value: jax.Array) -> jax.Array:
        value = jax.lax.stop_gradient(value) if self.cut else value
        if self.taps is not None:
            value = value + self.taps[len(self.layers)]
        self.layers.append(value)
        return value


def _axis(name: str, values: list[Any], origins: list[Origin], output: Any) -> int:
    """Axis of the units, from the end: as it was where the shape stays, else the last."""
    kept = (
        origin.axis
        for value, origin in zip(values, origins, strict=True)
        if origin.data and origin.axis != -1 and np.shape(value) == np.shape(output)
    )
    return next(kept, -1) if name != "transpose" else -1


def _through(name: str, origins: list[Origin]) -> frozenset[int]:
    """Return the numbers of the activations that the result of an operation came through.

    A factor that multiplies the value it was computed from is a part of an activation (GELU, SiLU), and no
    activation itself; a gate with a layer of its own is one.  The maximum within a softplus is none.
    """
    carried = [origin.through for origin in origins if origin.data]
    if name == "mul" and len(carried) == 2 and not _apart(origins):
        return carried[0] & carried[1]
    soft = [origin.through for origin in origins if origin.soft]
    if name == "add" and soft:
        return soft[0]
    return frozenset().union(*carried)


def _apart(origins: list[Origin]) -> bool:
    """Whether two factors both depend on the data, and no layer made both."""
    made = [origin.layers for origin in origins if origin.data]
    return len(made) == 2 and not made[0] & made[1] and made[0] != made[1]


def _is_number(value: Any, number: int) -> bool:
    """Whether an operand is written into the program as this number."""
    numeric = isinstance(value, int | float | complex | np.ndarray | np.generic | jax.Array) and (
        getattr(value, "dtype", np.dtype(float)).kind in "fiub"
    )
    return numeric and np.ndim(value) == 0 and float(np.real(value)) == number


def _activation(name: str, origins: list[Origin]) -> str:
    if name in ("tanh", "logistic"):
        return name
    return "relu" if name == "max" and any(origin.zero for origin in origins) else ""


def trace_model(function: Callable[..., Any], params: Any, batch: Any) -> Any:
    """Trace `function(params, batch)`; returns its program and how many inputs are parameters."""
    program = jax.make_jaxpr(function)(params, batch)
    return program, len(jax.tree.leaves(params))


def run_model(
    program: Any, num_params: int, params: Any, batch: Any, taps: Any = None, *, cut: bool = False
) -> ForwardPass:
    """Return what a run of a program from `trace_model` shows.

    Each of `taps` is added to the output of its layer; with `cut` no derivative passes through a layer.
    """
    values = [jnp.asarray(leaf) for leaf in jax.tree.leaves((params, batch))]
    inputs = [(value, Origin(index >= num_params, frozenset())) for index, value in enumerate(values)]
    rules = _Origins(taps, cut)
    consts = [rules.constant(value) for value in program.consts]
    output, end = rules.run(program.jaxpr, consts, inputs)[0]
    logistic = {i for i, activation in enumerate(rules.activations) if activation.kind == "logistic"}
    gates = (rules.gates - rules.mixers) & logistic
    last = end.through - rules.hidden - (rules.weighed & logistic)
    known = [a._replace(kind="gate") if i in gates else a for i, a in enumerate(rules.activations)]
    return ForwardPass(output, known, rules.hidden, last, rules.layers, rules.read, rules.loops)
