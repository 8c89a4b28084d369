"""What a loss's traced program says before anything is computed: key, precision, derivatives that exist.

A compiled function remembers what its loss closed over when it was traced.  In a notebook those numbers may
change while the loss stays the same object.  The key of compiled functions therefore holds a fingerprint of
the program and of the arrays that it closes over.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import re
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from hessian_probe.arrays import Layout, Vector, hashable, widest
from hessian_probe.operators import derivatives
from hessian_probe.operators.data import Batch
from hessian_probe.operators.thresholds import DIFFERENCE_ERROR, REDUCED_EPS, REDUCED_EPS_ELSEWHERE
from hessian_probe.programs import walker
from hessian_probe.programs.inspect import ProgramFacts, inspect_program


class Route(NamedTuple):
    """How the gradient is differentiated, and how accurate that is.

    A product has a relative error of `factor · eps^(2/3)` in units of ‖H‖, rounding error aside.
    """

    name: str
    accuracy: str
    factor: float = 0.0

    def error(self, eps: float) -> float:
        """Relative error of a product, without its rounding error."""
        return self.factor * eps ** (2 / 3)


FORWARD = Route("forward over reverse", "exact to rounding")
REVERSE = Route("reverse over reverse", "exact to rounding")
DIFFERENCES = Route(
    "central differences of the gradient",
    "relative error about 10 eps^(2/3) of the parameters' dtype: 2e-4 in float32, 4e-10 in float64",
    factor=DIFFERENCE_ERROR,
)


class LossKey(NamedTuple):
    """A loss as a static argument of compiled functions: the function and a fingerprint of its program.

    `linearised` says how the outputs of a `gauss_newton.LossOfOutputs` are linearised; "" leaves them.
    """

    function: Any  # hashable
    fingerprint: str
    linearised: str = ""


class TracedLoss(NamedTuple):
    """The key of a loss, for each variable whether the loss reads it, what its program shows, and that."""

    key: LossKey
    active: tuple[bool, ...]
    facts: ProgramFacts
    program: Any


class _Operations(walker.Walker[Any]):
    """Lists the operations of a program, but those on known numbers alone; None is a value not known."""

    def constant(self, value: Any) -> Any:
        """A literal is known."""
        return value

    def equation(self, equation: Any, inputs: list[Any], scope: Any) -> list[Any]:
        """Enter a call, compute with known numbers, list anything else."""
        called, shapes = walker.called_program(equation), [var.aval.shape for var in equation.outvars]
        if called is not None:
            return self.run(called[0], [None] * len(called[1]), inputs, scope)
        if inputs and not any(shapes) and all(value is not None for value in inputs):
            return walker.evaluate(equation, inputs)
        within: list[Any] = []  # numbers that nested programs read: compared there
        for label, jaxpr in walker.nested_programs(equation):
            known, *_ = walker.input_parts(equation, label, inputs) or ([],)
            rest = [None] * (len(jaxpr.invars) - len(known))
            self.run(jaxpr, [None] * len(jaxpr.constvars), [*known, *rest], scope)
            within += [value for value in known if value is not None]
        own = [value for value in inputs if all(value is not known for known in within)]
        scope.append(((equation.primitive.name, shapes), own))
        return [None] * len(shapes)


def same_operations(one: TracedLoss, numbers: list[Any], other: TracedLoss) -> bool:
    """Whether a program with numbers as its inputs (None for arrays) does the same as one that holds them."""

    def operations(program: Any, known: list[Any]) -> list[tuple[Any, list[Any]]]:
        found: list[tuple[Any, list[Any]]] = []
        rest = [None] * (len(program.jaxpr.invars) - len(known))
        _Operations().run(program.jaxpr, [None] * len(program.consts), [*known, *rest], found)
        return found

    def same(a: Any, b: Any) -> bool:
        return a is b if a is None or b is None else bool(np.allclose(a, b, atol=0))

    pairs = list(itertools.zip_longest(operations(one.program, numbers), operations(other.program, [])))
    return all(a and b and a[0] == b[0] and all(map(same, a[1], b[1])) for a, b in pairs)


def trace(
    loss: Any, layout: Layout, variables: Vector, non_variables: tuple[Any, ...], batch: Batch
) -> TracedLoss:
    """Trace the user's loss on one batch; its own errors are passed on as they are."""
    key = LossKey(hashable(loss), "")
    kernel = partial(inspect.unwrap(derivatives.value), key, layout, batch.layout)
    program = jax.make_jaxpr(kernel)(variables, non_variables, batch.arrays)
    text = re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr))
    digest = hashlib.blake2b(text.encode())
    for constant in program.consts:
        if jnp.issubdtype(constant.dtype, jax.dtypes.extended):
            constant = jax.random.key_data(constant)
        digest.update(np.ascontiguousarray(constant).tobytes())
    key = key._replace(fingerprint=digest.hexdigest())
    return TracedLoss(key, *_read_program(key.fingerprint, layout, _Shown(program)), program)


class _Shown(NamedTuple):
    """A program beside its fingerprint: equal to any other, so that one fingerprint is looked at once."""

    program: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shown)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _read_program(fingerprint: str, layout: Layout, shown: _Shown) -> tuple[tuple[bool, ...], ProgramFacts]:
    """For each variable whether the program of a fingerprint reads it, and what it shows."""
    _, used = partial_eval.dce_jaxpr(shown.program.jaxpr, [True])
    flags = zip(used[: len(layout.shapes)], layout.shapes, strict=True)
    active = tuple(bool(flag) and bool(np.prod(shape)) for flag, shape in flags)
    return active, inspect_program(shown.program, len(layout.shapes))


def machine_epsilon(layout: Layout, facts: ProgramFacts) -> float:
    """Machine epsilon of the parameters' lowest precision, or of a lower one that they pass through."""
    eps = float(jnp.finfo(layout.dtype).eps)
    if facts.lowest_float is not None:
        eps = max(eps, float(jnp.finfo(facts.lowest_float).eps))
    if facts.reduced_matmul:
        eps = max(eps, REDUCED_EPS.get(jax.default_backend(), REDUCED_EPS_ELSEWHERE))
    return eps


def shapes_of(variables: Vector, non_variables: tuple[Any, ...], batch: Batch) -> tuple[Any, ...]:
    """Reduce the arguments of a compiled derivative to shapes and dtypes (hashable), Python numbers too."""
    given = variables, non_variables, batch.arrays
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(given)):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, weak_type=getattr(leaf, "weak_type", False)
            ),
            given,
        )
    # By `eval_shape`, since NumPy's 64 bits are 32 where JAX has them switched off.
    found: tuple[Any, ...] = jax.eval_shape(lambda *given: given, *given)
    return found


@lru_cache(maxsize=512)
def abstract(kernel: Any, key: LossKey, layout: Layout, batch_layout: Layout | None, shapes: Any) -> Any:
    """Shapes of what a compiled derivative returns; nothing is computed, and nothing traced again."""
    return jax.eval_shape(partial(kernel, key, layout, batch_layout), *shapes)


@lru_cache(maxsize=1024)
def derivative_exists(
    kernel: Any,
    key: LossKey,
    layout: Layout,
    batch_layout: Layout | None,
    shapes: tuple[Any, ...],
    *extra: Any,
) -> bool:
    """Return whether a kernel of a vector can be differentiated so.

    A derivative exists where its program can be traced, and holds no part without one: forward mode through
    a `custom_vjp` function traces, and leaves a placeholder that fails only when it is compiled.
    """
    pairs = zip(layout.shapes, layout.work_dtypes, strict=True)
    vector = tuple(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape, dtype in pairs)
    function = partial(inspect.unwrap(kernel), key, layout, batch_layout)
    try:
        program = jax.make_jaxpr(function)(*shapes, vector, *extra)
    except Exception:  # libraries refuse a derivative with errors of their own
        return False
    needed, _ = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    return "custom_lin" not in walker.primitives(needed)


def find_route(key: LossKey, layout: Layout, batch_layout: Layout | None, shapes: tuple[Any, ...]) -> Route:
    """Return the first route by which JAX differentiates the gradient."""
    routes = (derivatives.forward_over_reverse, FORWARD), (derivatives.reverse_over_reverse, REVERSE)
    for kernel, route in routes:
        if derivative_exists(kernel, key, layout, batch_layout, shapes):
            return route
    return DIFFERENCES


def has_forward_lines(
    key: LossKey, layout: Layout, batch_layout: Layout | None, shapes: tuple[Any, ...]
) -> bool:
    """Return whether slopes along lines have forward mode."""
    steps = jax.ShapeDtypeStruct((1,), widest(layout.work_dtypes))
    return derivative_exists(derivatives.line_forward, key, layout, batch_layout, shapes, steps)
