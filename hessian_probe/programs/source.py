"""Where in the user's code an operation of a traced program was written."""

from __future__ import annotations

import linecache
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

_JAX = str(Path(jax.__file__).parent)
LONGEST_LINE = 80  # signs of a line of code that are shown
_OWN = str(Path(__file__).parent.parent)


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
        for frame in _frames(equation):
            if not frame.file_name.startswith((_JAX, _OWN)):
                line = linecache.getline(frame.file_name, frame.line_num).strip()
                code = f": {textwrap.shorten(line, LONGEST_LINE, placeholder=' …')}" if line else ""
                return f" ({Path(frame.file_name).name}:{frame.line_num}{code})"
    return ""


def written_in_jax(equation: Any) -> bool:
    """Whether a function of JAX calls for an operation, not the user."""
    caller = ""
    for frame in _frames(equation):
        if not frame.file_name.startswith(_JAX):
            break
        caller = frame.function_name
    return caller not in ("", equation.primitive.name)
