"""How to read a traced program: what matters to its outputs, and which programs are nested in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp


class Live:
    """Which outputs matter: to the loss's value, and to its derivative."""

    def __init__(self, value: Sequence[bool], derivative: Sequence[bool] | None = None) -> None:
        self.value = list(value)
        self.derivative = self.value if derivative is None else list(derivative)


def is_literal(var: Any) -> bool:
    """Whether an operand is a number written into the program."""
    return hasattr(var, "val")


def liveness(
    jaxpr: Any, live: Live, stops_derivative: frozenset[str]
) -> tuple[dict[Any, tuple[bool, bool]], dict[Any, list[str]]]:
    """For each variable whether value and derivative of the loss need it; and who uses it."""
    needed: dict[Any, tuple[bool, bool]] = {}
    uses: dict[Any, list[str]] = {}

    def need(var: Any, value: bool, slope: bool) -> None:
        if not is_literal(var):
            old = needed.get(var, (False, False))
            needed[var] = (old[0] or value, old[1] or slope)

    for var, value, slope in zip(jaxpr.outvars, live.value, live.derivative, strict=True):
        need(var, value, slope)
        if not is_literal(var):
            uses.setdefault(var, []).append("output")
    for equation in reversed(jaxpr.eqns):
        flags = [needed.get(var, (False, False)) for var in equation.outvars]
        value = any(flag[0] for flag in flags) or bool(equation.effects)
        stops = equation.primitive.name in stops_derivative
        slope = any(flag[1] for flag in flags) and not stops
        for var in equation.invars:
            floating = hasattr(var.aval, "dtype") and jnp.issubdtype(var.aval.dtype, jnp.inexact)
            need(var, value, slope and floating)
            if value and not is_literal(var):
                uses.setdefault(var, []).append(equation.primitive.name)
    return needed, uses


def nested_programs(equation: Any) -> Iterator[tuple[str, Any]]:
    """Programs nested in an equation, each with the parameter that holds it."""
    for label, parameter in equation.params.items():
        for item in parameter if isinstance(parameter, tuple | list) else (parameter,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns") and hasattr(inner, "invars"):
                yield label, inner


def scan_parts(params: dict[str, Any]) -> tuple[int, int] | None:
    """Sizes of what a scan takes as it is and of what it carries; None where this JAX does not say."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    try:  # JAX 0.12: a tree of what goes in, (fixed, carried, rows)
        fixed, carried, _ = params["ft_in"].unpack()
        return len(fixed), len(carried)
    except (KeyError, AttributeError, TypeError, ValueError):
        return None


def inner_marks(equation: Any, label: str, jaxpr: Any, inputs: list[bool], outputs: list[bool]) -> list[bool]:
    """Which inputs of a nested program depend on the parameters."""
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        marks = inputs[1:]
    elif name == "scan" and (parts := scan_parts(params)) is not None:
        fixed, carried = parts
        marks = [*inputs[:fixed], *_either(inputs[fixed:], outputs[:carried]), *inputs[fixed + carried :]]
    elif name == "while" and "cond_nconsts" in params:
        first, second = params["cond_nconsts"], params["body_nconsts"]
        own = inputs[:first] if label == "cond_jaxpr" else inputs[first : first + second]
        marks = [*own, *_either(inputs[first + second :], outputs)]
    elif name in ("scan", "while"):  # of a JAX that names its parts otherwise: what is carried may depend
        marks = [any(inputs)] * len(jaxpr.invars)
    else:
        marks = inputs
    return marks if len(marks) == len(jaxpr.invars) else [any(inputs)] * len(jaxpr.invars)


def _either(carried: list[bool], returned: list[bool]) -> list[bool]:
    return [a or b for a, b in zip(carried, returned, strict=False)]
