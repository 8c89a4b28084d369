"""What a traced loss is made of: random numbers, low precision, kinks, custom derivatives, loops.

An operation counts if its input depends on the parameters and its output reaches the loss.  A mask computed
from data is no kink, nor is the shift inside a softmax, whose derivative is stopped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.programs.source import place_of, written_in_jax
from hessian_probe.programs.walker import Marks, inner_marks, is_literal, nested_programs

RANDOM = ("random_bits", "random_gamma_p", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform")
# A debugging callback prints, and gives the loss nothing.
CALLBACKS = ("pure_callback", "io_callback", "outside_call", "host_callback_call")
# Continuous where the derivative jumps.
CORNERS = {
    **{name: name for name in ("max", "min", "abs", "clamp", "reduce_max", "reduce_min", "cummax")},
    **{name: name for name in ("cummin", "sort", "top_k")},
    "reduce_window_max": "max pooling",
    "reduce_window_min": "min pooling",
}
# The value itself jumps, and the derivative is zero or blind to it.
JUMPS = {name: name for name in ("sign", "floor", "ceil", "round", "nextafter", "rem", "argmax", "argmin")}
# Behind these the derivative does not go.
STOPS = frozenset((*JUMPS, "stop_gradient"))
# Operands that say where to read or write; where these depend on the parameters the value jumps.
INDEXED = {"gather": slice(1, 2), "dynamic_slice": slice(1, None), "dynamic_update_slice": slice(2, None)}
# Library functions with a derivative rule of their own that does have a corner; all others are smooth.
CORNERED_RULES = ("relu", "relu6")
# Matrix products of single precision that lose nothing against it (`jax.lax.DotAlgorithmPreset`).
FULL_PRODUCTS = ("HIGHEST", "F32_F32_F32", "F64_F64_F64", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9")


class ProgramFacts(NamedTuple):
    """What a loss's program shows.

    Attributes:
        random: it draws random numbers.
        callback: it calls back to Python while it runs.
        lowest_float: name of the floating dtype of least precision that the parameters pass through,
            "float32" for instance; the parameters' own at most.
        reduced_matmul: a matrix product or convolution asks for less precision than its operands have
            (as TF32 or bfloat16), or has operands below single precision.
        custom_derivative: functions of the user's with a derivative rule of their own.
        kinks: operations with a corner or a jump along the parameters, each once.
        loops: loops and branches: "scan of 12", "while", "cond".
        blind: operations whose derivative need not be that of their value, each with its place: a derivative
            that is stopped, a rule of the user's own, jumps.  A shift that JAX itself stops is none.
    """

    random: bool = False
    callback: bool = False
    lowest_float: str | None = None
    reduced_matmul: bool = False
    custom_derivative: tuple[str, ...] = ()
    kinks: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[tuple[str, str], ...]:
        """The same as pairs of a code for programs and a sentence for people."""
        said = []
        if self.callback:
            said.append(("callback", "calls back to Python: its value may change from call to call"))
        if self.random:
            text = "draws random numbers inside: one draw is probed, that of the key it is given"
            said.append(("random", text))
        low = self.lowest_float
        if low is not None and jnp.finfo(low).bits < 32:
            said.append((f"precision:{low}", f"computes in {low}: curvature below its rounding is not seen"))
        if self.reduced_matmul:
            said.append(("reduced_matmul", "asks for matrix products of reduced precision"))
        for name in self.custom_derivative:
            text = f"the derivative of {name} is the user's own, and taken on trust"
            said.append((f"custom_derivative:{name}", text))
        kink = "has a kink or a jump, to which second derivatives are blind"
        said += [(f"kink:{name}", f"{kink}: {name}") for name in self.kinks]
        stop = "stops a derivative, which need not be that of the loss"
        said += [
            ("stop_gradient", f"{stop}: {name}") for name in self.blind if name.startswith("stop_gradient")
        ]
        said += [(f"loop:{name}", f"runs a loop or a branch: {name}") for name in self.loops]
        return tuple(said)


def inspect_program(program: Any, variables: int | None = None) -> ProgramFacts:
    """Look through a traced program.

    Args:
        program: a closed jaxpr, as `jax.make_jaxpr` gives it.
        variables: how many of its first inputs are the parameters' variables; None means all.

    Returns:
        What it shows.

    Examples:
        >>> inspect_program(jax.make_jaxpr(lambda w: jnp.sum(jnp.abs(w)))(jnp.ones(3))).kinks
        ('abs',)
    """
    inputs, inspector = program.jaxpr.invars, _Inspector()
    count = len(inputs) if variables is None else variables
    for variable in inputs[:count]:
        inspector.see_float(variable.aval)
    inspector.visit(program.jaxpr, [index < count for index in range(len(inputs))])
    lowest = None if inspector.lowest is None else inspector.lowest.name
    names = (tuple(seen) for seen in (inspector.custom, inspector.kinks, inspector.loops, inspector.blind))
    return ProgramFacts(inspector.random, inspector.callback, lowest, inspector.reduced, *names)


class _Scope(NamedTuple):
    """What is known of one program before it is walked.

    Attributes:
        needed: for each variable whether the loss's value needs it, and whether its derivative does.
        uses: for each variable the names of the operations that read it.
        smooth: corners inside are known to cancel, so none is noted.
    """

    needed: dict[Any, tuple[bool, bool]]
    uses: dict[Any, list[str]]
    smooth: bool

    def of(self, variable: Any) -> tuple[bool, bool]:
        """Whether value and derivative need a variable."""
        return self.needed.get(variable, (False, False))


def _scope(jaxpr: Any, outputs: list[tuple[bool, bool]] | None = None, smooth: bool = False) -> _Scope:
    """Follow a program backwards from what is needed of its outputs (None: all)."""
    scope = _Scope({}, {}, smooth)

    def need(var: Any, value: bool, slope: bool, reader: str = "") -> None:
        if is_literal(var):
            return
        old = scope.of(var)
        scope.needed[var] = (old[0] or value, old[1] or slope)
        if reader:
            scope.uses.setdefault(var, []).append(reader)

    flags = [(True, True)] * len(jaxpr.outvars) if outputs is None else outputs
    for var, (value, slope) in zip(jaxpr.outvars, flags, strict=True):
        need(var, value, slope, "output")
    for equation in reversed(jaxpr.eqns):
        name, flags = equation.primitive.name, [scope.of(var) for var in equation.outvars]
        value = any(flag[0] for flag in flags) or bool(equation.effects)
        slope = any(flag[1] for flag in flags) and name not in STOPS
        for var in equation.invars:
            floating = hasattr(var.aval, "dtype") and jnp.issubdtype(var.aval.dtype, jnp.inexact)
            need(var, value, slope and floating, name if value else "")
    return scope


class _Inspector(Marks):
    """Follows what depends on the parameters, and notes what it passes; names in order, each once."""

    def __init__(self) -> None:
        self.random = self.callback = self.reduced = False
        self.lowest: np.dtype[Any] | None = None
        self.custom, self.kinks, self.loops, self.blind = (dict[str, None]() for _ in range(4))
        self.within: list[Any] = []  # equations in whose programs the walk is

    def visit(self, jaxpr: Any, marks: list[bool]) -> list[bool]:
        """Walk a program all of whose outputs are needed."""
        return self.run(jaxpr, [False] * len(jaxpr.constvars), marks, _scope(jaxpr))

    def see_float(self, aval: Any) -> None:
        """Remember the dtype of least precision."""
        dtype = getattr(aval, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            return
        if self.lowest is None or jnp.finfo(dtype).eps > jnp.finfo(self.lowest).eps:
            self.lowest = np.dtype(dtype)

    def equation(self, equation: Any, inputs: list[bool], scope: _Scope) -> list[bool]:
        """Note what an operation is; which of its outputs depend on the parameters."""
        name, marked = equation.primitive.name, any(inputs)
        if not equation.effects and not any(scope.of(var)[0] for var in equation.outvars):
            return [False] * len(equation.outvars)
        self.random |= name in RANDOM
        self.callback |= name in CALLBACKS
        if marked:
            self._see_precision(equation)
        if name == "is_finite" or (name == "ne" and equation.invars[0] is equation.invars[1]):
            return [False]  # a guard against NaN, not a branch on values
        if not scope.smooth:
            self._see_kink(equation, inputs, scope)
        if any(True for _ in nested_programs(equation)):
            inside = self._see_nested(equation, inputs, scope)
            self.within.append(equation)
            outputs = self.nested(equation, inputs, inside)
            self.within.pop()
            return outputs
        # Which rows a factorisation swaps changes nothing of what is solved with it.
        return [marked and not (name == "lu" and index) for index in range(len(equation.outvars))]

    def inside(self, equation: Any, jaxpr: Any, scope: _Scope) -> _Scope:
        """The scope of a nested program: a loop needs all its outputs, any other what the equation needs."""
        outer = equation.outvars
        known = len(jaxpr.outvars) == len(outer) and equation.primitive.name not in ("scan", "while")
        return _scope(jaxpr, [scope.of(var) for var in outer] if known else None, scope.smooth)

    def _see_precision(self, equation: Any) -> None:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            self.reduced |= _reduced(equation)
        for var in equation.outvars:
            self.see_float(var.aval)
        if name == "reduce_precision" and equation.params["mantissa_bits"] < 23:
            self.see_float(jax.ShapeDtypeStruct((), _nearest(equation.params["mantissa_bits"])))

    def _see_kink(self, equation: Any, inputs: list[bool], scope: _Scope) -> None:
        """Note a corner or a jump along the parameters."""
        name, marked = equation.primitive.name, any(inputs)
        if name in CORNERS and marked and any(scope.of(var)[1] for var in equation.outvars):
            # log|z| has no corner where it is finite.
            consumers = scope.uses.get(equation.outvars[0], [])
            if not (name == "abs" and consumers and set(consumers) == {"log"}):
                self.kinks[CORNERS[name]] = None
        elif name in JUMPS and marked:
            self._see_jump(JUMPS[name], equation)
        elif name == "select_n" and inputs[0]:
            self._see_jump("where", equation)
        elif name in INDEXED and any(inputs[INDEXED[name]]):
            self._see_jump("indexing by values", equation)
        elif name == "convert_element_type" and marked:
            before, after = (v.aval.dtype for v in (equation.invars[0], equation.outvars[0]))
            if jnp.issubdtype(after, jnp.integer) and jnp.issubdtype(before, jnp.floating):
                self._see_jump("rounding to integers", equation)
            elif before == jnp.bool_:  # means and sums of comparisons pass through integers
                self._see_jump("comparison", equation)
        elif name == "stop_gradient" and marked and not written_in_jax(equation):
            self._see_blind(name, equation)

    def _see_jump(self, name: str, equation: Any) -> None:
        self.kinks[name] = None
        self._see_blind(name, equation)

    def _see_blind(self, name: str, equation: Any) -> None:
        self.blind[name + place_of([*self.within, equation])] = None

    def _see_nested(self, equation: Any, inputs: list[bool], scope: _Scope) -> _Scope:
        """Note what the programs nested in an equation are; the scope with what is known inside."""
        name = equation.primitive.name
        if name.startswith(("custom_jvp", "custom_vjp")):
            rule, own = rule_of(equation)
            if own:
                self.custom[rule] = None
                self._see_blind(f"the rule of {rule}", equation)
                return scope
            if rule in CORNERED_RULES and any(inputs):
                self.kinks[rule] = None
            return scope._replace(smooth=True)
        if name == "custom_linear_solve":  # its solution is smooth, whatever its pivots do
            return scope._replace(smooth=True)
        if name in ("scan", "while", "cond"):
            length = equation.params.get("length")
            self.loops[f"scan of {length}" if length is not None else name] = None
        if name in ("cond", "while") and not scope.smooth and self._decides(equation, inputs):
            self._see_jump(f"{name} on values", equation)
        return scope

    def _decides(self, equation: Any, inputs: list[bool]) -> bool:
        """Whether which branch runs, or how often a loop does, depends on the parameters."""
        if equation.primitive.name == "cond":
            return inputs[0]
        condition = next(jaxpr for label, jaxpr in nested_programs(equation) if label == "cond_jaxpr")
        # What the loop's state becomes is not followed here: a start that depends is taken to stay so.
        marks = inner_marks(equation, "cond_jaxpr", condition, inputs, [False] * len(equation.outvars))
        return _Inspector().visit(condition, marks)[0]


def rule_of(equation: Any) -> tuple[str, bool]:
    """Name of a function with a derivative rule of its own, and whether it is not JAX's."""
    _, jaxpr = next(nested_programs(equation))
    source = getattr(getattr(jaxpr, "debug_info", None), "func_src_info", None) or ""
    name, _, place = str(source).partition(" at ")
    name = name or str(equation.params.get("name") or equation.primitive.name)
    path = place.replace("\\", "/")
    return name, "/jax/_src/" not in path and "/jax/nn/" not in path


def _reduced(equation: Any) -> bool:
    """Whether a product asks for less than the precision of its operands."""
    dtypes = [var.aval.dtype for var in equation.invars[:2]]
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        return False
    bits = min(jnp.finfo(dtype).bits for dtype in dtypes)
    if bits != 32:  # no device reduces double precision; half precision is reduced as it stands
        return bits < 32
    precision = equation.params.get("precision")
    asked = precision if isinstance(precision, tuple) else (precision,)
    return any(getattr(each, "name", str(each)) not in FULL_PRODUCTS for each in asked)


def _nearest(mantissa_bits: int) -> Any:
    """Floating dtype with that many bits of mantissa, or the next narrower one."""
    return jnp.float16 if mantissa_bits >= jnp.finfo(jnp.float16).nmant else jnp.bfloat16
