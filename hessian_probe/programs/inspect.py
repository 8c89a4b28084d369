"""What a traced loss is made of: chance, low precision, kinks, custom derivatives, loops.

Only what matters is noticed: an operation counts where its input depends on the parameters and its
output reaches the loss.  A mask computed from data is no kink, nor is the shift inside a softmax, whose
derivative is stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.programs.jaxpr import Live, inner_marks, is_literal, liveness, nested_programs

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
    """

    random: bool = False
    callback: bool = False
    lowest_float: str | None = None
    reduced_matmul: bool = False
    custom_derivative: tuple[str, ...] = ()
    kinks: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()

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
        for name in self.kinks:
            text = f"has a kink or a jump, to which second derivatives are blind: {name}"
            said.append((f"kink:{name}", text))
        said.extend((f"loop:{name}", f"runs a loop or a branch: {name}") for name in self.loops)
        return tuple(said)


def inspect_program(program: Any, variables: int | None = None) -> ProgramFacts:
    """Look through a traced program.

    Args:
        program: a closed jaxpr, as `jax.make_jaxpr` gives it.
        variables: how many of its first inputs are the parameters' variables; None means all.

    Returns:
        What was noticed.
    """
    inputs = program.jaxpr.invars
    count = len(inputs) if variables is None else variables
    scanner = _Scanner()
    for variable in inputs[:count]:
        scanner.see_float(variable.aval)
    marks = [index < count for index in range(len(inputs))]
    scanner.visit(program.jaxpr, marks, Live([True] * len(program.jaxpr.outvars)))
    lowest = None if scanner.lowest is None else scanner.lowest.name
    return ProgramFacts(
        scanner.random,
        scanner.callback,
        lowest,
        scanner.reduced,
        tuple(scanner.custom),
        tuple(scanner.kinks),
        tuple(scanner.loops),
    )


class _Scanner:
    """Collects while it walks a program and those nested in it; names are kept in order, each once."""

    def __init__(self) -> None:
        self.random = self.callback = self.reduced = False
        self.lowest: np.dtype[Any] | None = None
        self.custom: dict[str, None] = {}
        self.kinks: dict[str, None] = {}
        self.loops: dict[str, None] = {}

    def see_float(self, aval: Any) -> None:
        """Remember the dtype of least precision."""
        dtype = getattr(aval, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            return
        if self.lowest is None or jnp.finfo(dtype).eps > jnp.finfo(self.lowest).eps:
            self.lowest = np.dtype(dtype)

    def visit(self, jaxpr: Any, marks: Sequence[bool], live: Live, smooth: bool = False) -> list[bool]:
        """Walk a program.

        Args:
            jaxpr: the program.
            marks: for each input, whether it depends on the parameters.
            live: which outputs matter.
            smooth: its corners are known to cancel, so none is noted.

        Returns:
            For each output, whether it depends on the parameters.
        """
        depends = {var: mark for var, mark in zip(jaxpr.invars, marks, strict=True) if mark}
        needed, uses = liveness(jaxpr, live, STOPS)
        for equation in jaxpr.eqns:
            values = {var for var in equation.outvars if needed.get(var, (False, False))[0]}
            if not values and not equation.effects:
                continue
            slopes = any(needed.get(var, (False, False))[1] for var in equation.outvars)
            inputs = [not is_literal(v) and v in depends for v in equation.invars]
            outputs = self._equation(equation, inputs, needed, slopes, uses, smooth)
            depends.update({v: True for v, on in zip(equation.outvars, outputs, strict=True) if on})
        return [not is_literal(v) and v in depends for v in jaxpr.outvars]

    def _equation(
        self, equation: Any, inputs: list[bool], needed: Any, slopes: bool, uses: Any, smooth: bool
    ) -> list[bool]:
        name, marked = equation.primitive.name, any(inputs)
        self.random |= name in RANDOM
        self.callback |= name in CALLBACKS
        if name in ("dot_general", "conv_general_dilated") and marked:
            self.reduced |= _reduced(equation)
        if marked:
            for var in equation.outvars:
                self.see_float(var.aval)
            if name == "reduce_precision" and equation.params["mantissa_bits"] < 23:
                self.see_float(jax.ShapeDtypeStruct((), _nearest(equation.params["mantissa_bits"])))
        if name == "is_finite" or (name == "ne" and equation.invars[0] is equation.invars[1]):
            return [False]  # a guard against NaN, not a branch on values
        if not smooth:
            self._corner(equation, inputs, slopes, uses)
        nested = list(nested_programs(equation))
        if not nested:
            # Which rows a factorisation swaps changes nothing of what is solved with it.
            return [marked and not (name == "lu" and index) for index in range(len(equation.outvars))]
        return self._nested(equation, nested, inputs, needed, smooth)

    def _corner(self, equation: Any, inputs: list[bool], slopes: bool, uses: Any) -> None:
        """Note a corner or a jump along the parameters."""
        name, marked = equation.primitive.name, any(inputs)
        if name in CORNERS and marked and slopes:
            # log|z| has no corner where it is finite.
            consumers = uses.get(equation.outvars[0], [])
            if not (name == "abs" and consumers and set(consumers) == {"log"}):
                self.kinks[CORNERS[name]] = None
        elif name in JUMPS and marked:
            self.kinks[JUMPS[name]] = None
        elif name == "select_n" and inputs[0]:
            self.kinks["where"] = None
        elif name in INDEXED and any(inputs[INDEXED[name]]):
            self.kinks["indexing by values"] = None
        elif name == "convert_element_type" and marked:
            before, after = (v.aval.dtype for v in (equation.invars[0], equation.outvars[0]))
            if jnp.issubdtype(after, jnp.integer) and jnp.issubdtype(before, jnp.floating):
                self.kinks["rounding to integers"] = None
            elif before == jnp.bool_ and jnp.issubdtype(after, jnp.floating):
                self.kinks["comparison"] = None

    def _nested(
        self, equation: Any, nested: list[tuple[str, Any]], inputs: list[bool], needed: Any, smooth: bool
    ) -> list[bool]:
        """Walk the programs nested in an equation; loops until what depends on what is settled."""
        name = equation.primitive.name
        flags = [needed.get(var, (False, False)) for var in equation.outvars]
        if name.startswith(("custom_jvp", "custom_vjp")):
            rule, own = _rule(equation, nested[0][1])
            if own:
                self.custom[rule] = None
            else:
                if rule in CORNERED_RULES and any(inputs):
                    self.kinks[rule] = None
                smooth = True
        elif name == "custom_linear_solve":  # its solution is smooth, whatever its pivots do
            smooth = True
        elif name in ("scan", "while", "cond"):
            length = equation.params.get("length")
            self.loops[f"scan of {length}" if length is not None else name] = None
        if name in ("cond", "while") and not smooth and self._decides(equation, nested, inputs):
            self.kinks[f"{name} on values"] = None
        outputs = [False] * len(equation.outvars)
        for _ in range(1 + len(outputs)):
            before = list(outputs)
            for label, jaxpr in nested:
                found = self._inner(equation, label, jaxpr, inputs, outputs, flags, smooth)
                if len(found) == len(outputs):
                    outputs = [a or b for a, b in zip(outputs, found, strict=True)]
                elif label != "cond_jaxpr":
                    outputs = [any(inputs)] * len(outputs)
            if outputs == before or name not in ("scan", "while"):
                return outputs
        return outputs

    def _inner(
        self,
        equation: Any,
        label: str,
        jaxpr: Any,
        inputs: list[bool],
        outputs: list[bool],
        flags: list[tuple[bool, bool]],
        smooth: bool,
    ) -> list[bool]:
        marks = inner_marks(equation, label, jaxpr, inputs, outputs)
        live = Live([True] * len(jaxpr.outvars))
        if len(jaxpr.outvars) == len(flags) and equation.primitive.name not in ("scan", "while"):
            live = Live([value for value, _ in flags], [slope for _, slope in flags])
        return self.visit(jaxpr, marks, live, smooth)

    def _decides(self, equation: Any, nested: list[tuple[str, Any]], inputs: list[bool]) -> bool:
        """Whether which branch runs, or how often a loop does, depends on the parameters."""
        if equation.primitive.name == "cond":
            return inputs[0]
        condition = next(jaxpr for label, jaxpr in nested if label == "cond_jaxpr")
        scratch = _Scanner()
        # What the loop's state becomes is not followed here: a start that depends is taken to stay so.
        marks = inner_marks(equation, "cond_jaxpr", condition, inputs, [False] * len(equation.outvars))
        return scratch.visit(condition, marks, Live([True]))[0]


def _rule(equation: Any, jaxpr: Any) -> tuple[str, bool]:
    """Name of a function with a derivative rule of its own, and whether it is not JAX's."""
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
