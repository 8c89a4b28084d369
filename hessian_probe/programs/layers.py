"""The inside of a model, read from the program that JAX traces: activations and layers.

No hooks are needed and every framework looks the same.  The traced program is run operation by operation;
each value remembers whether it depends on the data, and which activations it came through.  A *layer* is a
product of something that depends on the data with something that depends on parameters alone; an
activation is *hidden* if a layer reads it later.  A `scan` of few turns is run turn by turn; bodies of other
loops (`while`, `cond`) run as one operation, and nothing within them is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.programs.jaxpr import scan_parts

LAYERS = ("dot_general", "conv_general_dilated")
# Calls that stand for the program within them, by their names in JAX 0.6 to 0.12.
CALLS = frozenset({
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
})  # fmt: skip
# Turns of a scan that are run one by one: as many layers as a network may have.
MOST_TURNS = 64
LOOPS = ("scan", "while", "cond", "shard_map", "pallas_call")


class Origin(NamedTuple):
    """Where a value came from.

    Attributes:
        data: it depends on the data.
        through: numbers of the activations on the way.
        zero: it is a constant zero.
        inside: it depends on a layer's output.
        axis: axis of the units, from the end.
        soft: it is a logarithm of 1 + something, which makes a maximum with zero a softplus.
        layers: numbers of the layers that it came from, without another layer between.
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

    The kind is "relu", "tanh", "logistic", or "gate": a logistic one that multiplies what another layer made,
    and mixes no two such things.
    """

    kind: str
    value: jax.Array
    axis: int = -1
    input: Any = None


class ForwardPass(NamedTuple):
    """What one run of a program showed.

    Attributes:
        output: the program's first output.
        activations: in order.
        hidden: numbers of the activations that a layer reads.
        last: numbers of those that the program's first output came through, and no layer reads, but for
            logistic ones that data which no layer made (such as targets) multiply.
        layers: outputs of the layers, in order.
        read: what layers read of earlier layers' outputs, each with whether a known activation made it.
        loops: the program holds loops, whose inside is not seen.
    """

    output: Any
    activations: list[Activation]
    hidden: set[int]
    last: frozenset[int]
    layers: list[jax.Array]
    read: list[tuple[jax.Array, bool]]
    loops: bool


class _Run:
    """One run: values with their origins."""

    def __init__(self, taps: tuple[jax.Array, ...] | None, cut: bool = False) -> None:
        self.taps, self.cut = taps, cut
        self.read: list[tuple[jax.Array, bool]] = []
        self.activations: list[Activation] = []
        self.hidden, self.gates, self.weighed = set[int](), set[int](), set[int]()
        self.mixers = set[int]()  # appear as 1 - gate too: open for one thing, shut for another
        self.layers: list[jax.Array] = []
        self.loops = False

    def program(self, jaxpr: Any, consts: Any, values: list[Any], origins: list[Origin]) -> Any:
        """Run a program; returns its outputs and their origins."""
        known: dict[Any, tuple[Any, Origin]] = {}
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            known[var] = (value, Origin(False, frozenset()))
        for var, value, origin in zip(jaxpr.invars, values, origins, strict=True):
            known[var] = (value, origin)

        def read(atom: Any) -> tuple[Any, Origin]:
            if hasattr(atom, "val"):
                zero = _numeric(atom.val) and np.ndim(atom.val) == 0 and float(np.real(atom.val)) == 0
                return atom.val, Origin(False, frozenset(), zero)
            return known[atom]

        for eqn in jaxpr.eqns:
            arguments = [read(atom) for atom in eqn.invars]
            outputs, origins = self.equation(eqn, [a[0] for a in arguments], [a[1] for a in arguments])
            for var, value, origin in zip(eqn.outvars, outputs, origins, strict=True):
                known[var] = (value, origin)
        found = [read(atom) for atom in jaxpr.outvars]
        return [f[0] for f in found], [f[1] for f in found]

    def equation(self, eqn: Any, values: list[Any], origins: list[Origin]) -> tuple[list[Any], list[Origin]]:
        """Run one operation."""
        name = eqn.primitive.name
        inner = _inner(eqn) if name in CALLS else None
        if inner is not None:
            jaxpr, consts = inner
            return self.program(jaxpr, consts, values, origins)
        if name == "scan" and eqn.params["length"] <= MOST_TURNS and scan_parts(eqn.params):
            return self.scan(eqn.params, values, origins)
        self.loops |= name in LOOPS
        functions, parameters = _bound(eqn)
        outputs = eqn.primitive.bind(*functions, *values, **parameters)
        outputs = list(outputs) if eqn.primitive.multiple_results else [outputs]
        data = any(origin.data for origin in origins)
        through = _through(name, origins)
        if name == "mul" and _apart(origins):
            self._note_factors(*(o for o in origins if o.data))
        elif name == "mul" and any(origin.zero for origin in origins):  # the first turn of a cell
            self.gates |= through - self.hidden
        elif name == "sub" and _is_one(eqn.invars[0]):
            self.mixers |= through
        inside = any(origin.inside for origin in origins)
        layers = frozenset[int]().union(*(origin.layers for origin in origins))
        axis = _axis(name, values, origins, outputs[0])
        if data and name in LAYERS and not all(origin.data for origin in origins):
            self.hidden |= through
            self.read += [
                (value, bool(origin.through))
                for value, origin in zip(values, origins, strict=True)
                if origin.data and origin.inside
            ]
            outputs = [self._layer(outputs[0])]
            inside, layers = True, frozenset({len(self.layers)})
            if name == "conv_general_dilated":
                axis = eqn.params["dimension_numbers"].out_spec[1] - np.ndim(outputs[0])
        kind = _activation(name, origins) if data and np.ndim(outputs[0]) > 1 else ""
        if kind:
            through = through | {len(self.activations)}
            given = next(v for v, origin in zip(values, origins, strict=True) if origin.data)
            self.activations.append(Activation(kind, outputs[0], axis, given))
        zero = name in ("broadcast_in_dim", "convert_element_type") and origins[0].zero
        return outputs, [Origin(data, through, zero, inside, axis, name == "log1p", layers)] * len(outputs)

    def scan(self, options: Any, values: list[Any], origins: list[Origin]) -> tuple[list[Any], list[Origin]]:
        """Run a scan turn by turn."""
        body, turns = options["jaxpr"], options["length"]
        fixed, count = scan_parts(options) or (0, 0)
        carried = fixed + count
        carry, known = values[fixed:carried], origins[fixed:carried]
        rows: list[Any] = [None] * turns
        for turn in reversed(range(turns)) if options["reverse"] else range(turns):
            given = [*values[:fixed], *carry, *(value[turn] for value in values[carried:])]
            outputs, found = self.program(
                body.jaxpr, body.consts, given, [*origins[:fixed], *known, *origins[carried:]]
            )
            carry, known = outputs[: len(carry)], found[: len(carry)]
            rows[turn] = (outputs[len(carry) :], found[len(carry) :])
        if not turns:
            return carry, known
        stacked = [jnp.stack(parts) for parts in zip(*(row[0] for row in rows), strict=True)]
        united = (_united(found) for found in zip(*(r[1] for r in rows), strict=True))
        return [*carry, *stacked], [*known, *united]

    def _note_factors(self, first: Origin, second: Origin) -> None:
        """Note gates, and what data that no layer made (masks, weights, targets) multiply."""
        if first.layers and second.layers:
            self.gates |= (first.through ^ second.through) - self.hidden
        else:
            self.weighed |= first.through | second.through

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


def _united(origins: tuple[Origin, ...]) -> Origin:
    """Where a stack of values came from."""
    through = frozenset[int]().union(*(origin.through for origin in origins))
    layers = frozenset[int]().union(*(origin.layers for origin in origins))
    data, inside = (any(getattr(o, name) for o in origins) for name in ("data", "inside"))
    return Origin(data, through, False, inside, layers=layers)


def _through(name: str, origins: list[Origin]) -> frozenset[int]:
    """Activations that a result came through.

    A factor that multiplies what it came from is a part of an activation (as within GELU and SiLU), not one
    that the next layer reads; a gate with a layer of its own is one.  The maximum within a softplus is none.

    Returns:
        Their numbers.
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


def _is_one(atom: Any) -> bool:
    value: Any = getattr(atom, "val", None)
    return _numeric(value) and np.ndim(value) == 0 and float(np.real(value)) == 1


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float | complex | np.ndarray | np.generic | jax.Array) and (
        getattr(value, "dtype", np.dtype(float)).kind in "fiub"
    )


def _inner(eqn: Any) -> tuple[Any, Any] | None:
    """The program that a call stands for, with its constants."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        program = eqn.params.get(name)
        if program is None:
            continue
        jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
        if hasattr(jaxpr, "eqns") and len(jaxpr.invars) == len(eqn.invars):
            return jaxpr, consts
    return None


def _bound(eqn: Any) -> tuple[Any, Any]:
    """Functions and parameters to run an operation with; newer releases of JAX have no functions."""
    found = eqn.primitive.get_bind_params(eqn.params)
    return found if isinstance(found, tuple) else ((), found)


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
    """Run a traced program.

    Args:
        program: from `trace_model`.
        num_params: how many of its inputs are parameters.
        params: the parameters.
        batch: the data.
        taps: one array for each layer, added to its output; None adds nothing.
        cut: no derivative passes through a layer.

    Returns:
        ForwardPass.
    """
    values = [jnp.asarray(leaf) for leaf in jax.tree.leaves((params, batch))]
    nothing: frozenset[int] = frozenset()
    origins = [Origin(index >= num_params, nothing) for index in range(len(values))]
    inside = _Run(taps, cut)
    outputs, ends = inside.program(program.jaxpr, program.consts, values, origins)
    logistic = {i for i, activation in enumerate(inside.activations) if activation.kind == "logistic"}
    last = ends[0].through - inside.hidden - (inside.weighed & logistic)
    gates = (inside.gates - inside.mixers) & logistic
    seen = [a._replace(kind="gate") if i in gates else a for i, a in enumerate(inside.activations)]
    return ForwardPass(outputs[0], seen, inside.hidden, last, inside.layers, inside.read, inside.loops)
