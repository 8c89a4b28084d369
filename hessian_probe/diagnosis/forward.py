"""The inside of a model, read from the program that JAX traces: activations and layers.

No hooks are needed and every framework looks the same.  The traced program is run operation by operation;
each value remembers whether it depends on the data, and which activations it came through.  A *layer* is a
product of something that depends on the data with something that depends on parameters alone; an
activation is *hidden* if a layer reads it later.  Bodies of loops (`scan`, `while`, `cond`) run as one
operation, and nothing within them is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LAYERS = ("dot_general", "conv_general_dilated")
# Calls that stand for the program within them, by their names in JAX 0.6 to 0.12.
CALLS = frozenset({
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
})  # fmt: skip
LOOPS = ("scan", "while", "cond", "shard_map", "pallas_call")


class Origin(NamedTuple):
    """Where a value came from: does it depend on the data; numbers of the activations on the way."""

    data: bool
    through: frozenset[int]
    zero: bool = False


class Activation(NamedTuple):
    """One activation: "relu", "tanh" or "logistic", and its output."""

    kind: str
    value: jax.Array


class Pass(NamedTuple):
    """What one run of a program showed.

    Attributes:
        output: the program's first output.
        activations: in order.
        hidden: numbers of the activations that a layer reads.
        last: numbers of those that the program's first output came through, and no layer reads.
        layers: outputs of the layers, in order.
        loops: the program holds loops, whose inside is not seen.
    """

    output: Any
    activations: list[Activation]
    hidden: set[int]
    last: set[int]
    layers: list[jax.Array]
    loops: bool


class _Run:
    """One run: values with their origins."""

    def __init__(self, taps: tuple[jax.Array, ...] | None) -> None:
        self.taps = taps
        self.activations: list[Activation] = []
        self.hidden: set[int] = set()
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
                zero = (
                    np.ndim(atom.val) == 0 and float(np.real(atom.val)) == 0 if _numeric(atom.val) else False
                )
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
        self.loops |= name in LOOPS
        functions, parameters = _bound(eqn)
        outputs = eqn.primitive.bind(*functions, *values, **parameters)
        outputs = list(outputs) if eqn.primitive.multiple_results else [outputs]
        data = any(origin.data for origin in origins)
        through = _through(name, origins)
        if data and name in LAYERS and not all(origin.data for origin in origins):
            self.hidden |= through
            outputs = [self._layer(outputs[0])]
        kind = _activation(name, origins) if data and np.ndim(outputs[0]) > 1 else ""
        if kind:
            through = through | {len(self.activations)}
            self.activations.append(Activation(kind, outputs[0]))
        zero = name in ("broadcast_in_dim", "convert_element_type") and origins[0].zero
        return outputs, [Origin(data, through, zero)] * len(outputs)

    def _layer(self, value: jax.Array) -> jax.Array:
        if self.taps is not None:
            value = value + self.taps[len(self.layers)]
        self.layers.append(value)
        return value


def _through(name: str, origins: list[Origin]) -> frozenset[int]:
    """Activations that a result came through.

    A factor that multiplies data it did not come from is a gate (as within GELU and SiLU), not an
    activation that the next layer reads.

    Returns:
        Their numbers.
    """
    carried = [origin.through for origin in origins if origin.data]
    if name == "mul" and len(carried) == 2:
        return carried[0] & carried[1]
    return frozenset().union(*carried)


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


def traced(function: Callable[..., Any], params: Any, batch: Any) -> Any:
    """Trace `function(params, batch)`; returns its program and how many inputs are parameters."""
    program = jax.make_jaxpr(function)(params, batch)
    return program, len(jax.tree.leaves(params))


def run(program: Any, num_params: int, params: Any, batch: Any, taps: Any = None) -> Pass:
    """Run a traced program.

    Args:
        program: from `traced`.
        num_params: how many of its inputs are parameters.
        params: the parameters.
        batch: the data.
        taps: one array for each layer, added to its output; None adds nothing.

    Returns:
        Pass.
    """
    values = [jnp.asarray(leaf) for leaf in jax.tree.leaves((params, batch))]
    nothing: frozenset[int] = frozenset()
    origins = [Origin(index >= num_params, nothing) for index in range(len(values))]
    inside = _Run(taps)
    outputs, ends = inside.program(program.jaxpr, program.consts, values, origins)
    last = set(ends[0].through) - inside.hidden
    return Pass(outputs[0], inside.activations, inside.hidden, last, inside.layers, inside.loops)


def layer_gradients(loss: Callable[..., Any], params: Any, batch: Any) -> tuple[list[float], bool]:
    """Norms of the loss's gradient with respect to the output of each layer, from the first to the last.

    Args:
        loss: `loss(params, batch)`.
        params: the parameters.
        batch: the data.

    Returns:
        The norms, and whether the program holds loops.
    """
    program, count = traced(loss, params, batch)
    first = jax.eval_shape(lambda p, b: run(program, count, p, b).layers, params, batch)
    seen = {}

    def tapped(taps: Any) -> Any:
        found = run(program, count, params, batch, taps)
        seen["loops"] = found.loops
        return found.output

    gradients = jax.jit(jax.grad(tapped))(tuple(jnp.zeros(leaf.shape, leaf.dtype) for leaf in first))
    return [float(jnp.linalg.norm(leaf.ravel())) for leaf in gradients], bool(seen["loops"])
