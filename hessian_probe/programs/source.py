"""Where in the user's code an operation of a traced program was written."""

from __future__ import annotations

import linecache
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

JAX = str(Path(jax.__file__).parent) + os.sep
LONGEST_LINE = 80  # signs of a line of code that are shown
_INSTALLED = ("site-packages", "dist-packages")
_OWN = str(Path(__file__).parent.parent) + os.sep


def _frames(equation: Any) -> list[Any]:
    """Frames of the call that wrote an operation, innermost first; none where JAX does not keep them."""
    return list(getattr(getattr(equation.source_info, "traceback", None), "frames", ()))


def place_of(equations: Sequence[Any]) -> str:
    """Say where an operation was written, in parentheses after a space; "" where that is not known.

    Args:
        equations: the operation, last, after those in whose programs it is nested.

    Returns:
        File, line and code.

    >>> program = jax.make_jaxpr(lambda x: x + 1)(1.0)
    >>> place_of(program.eqns)[:2]
    ' ('
    """
    for equation in reversed(equations):
        found = [f for f in _frames(equation) if not f.file_name.startswith((JAX, _OWN, "<frozen"))]
        own = [f for f in found if not any(folder in f.file_name for folder in _INSTALLED)]
        for frame in (own or found)[:1]:  # the user's own code before that of a framework
            line = linecache.getline(frame.file_name, frame.line_num).strip()
            code = f": {textwrap.shorten(line, LONGEST_LINE, placeholder=' …')}" if line else ""
            return f" ({Path(frame.file_name).name}:{frame.line_num}{code})"
    return ""


def written_in_jax(equation: Any) -> bool:
    """Whether a function of JAX calls for an operation, not the user."""
    caller = ""
    for frame in _frames(equation):
        if not frame.file_name.startswith(JAX):
            break
        caller = frame.function_name
    return caller not in ("", equation.primitive.name)
