"""What a compiled program takes: bytes by its own analysis, seconds by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from hessian_probe.operators import memory


class Program(NamedTuple):
    """A compiled program's needs.

    Attributes:
        arguments: bytes of its inputs.
        outputs: bytes of its results.
        temporaries: bytes in between; None where the backend does not tell.
        code: bytes of the code itself.
        seconds: time that tracing and compiling took.
    """

    arguments: int
    outputs: int
    temporaries: int | None
    code: int
    seconds: float

    @property
    def peak(self) -> int:
        """All bytes that are there at once; without the temporaries where these are unknown."""
        return self.arguments + self.outputs + (self.temporaries or 0) + self.code


def analyse(function: Any, *arguments: Any) -> Program:
    """Compile a function and read the program's own analysis; nothing is run.

    Args:
        function: made by `jax.jit`.
        arguments: its arguments; arrays may be given by their shapes.

    Returns:
        The program's needs.  A call with the same shapes finds the compiled program.
    """
    began = time.perf_counter()
    lowered = function.lower(*arguments)
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    try:
        stats = compiled.memory_analysis()
    except Exception:  # backends differ in how they say that they cannot tell
        stats = None
    if stats is None:
        sizes = memory.tree_bytes(arguments), memory.tree_bytes(lowered.out_info)
        return Program(*sizes, None, 0, seconds)
    return Program(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
        seconds,
    )


def seconds_of(call: Callable[[], Any], repeats: int = 2) -> float:
    """Shortest time of a call, its result waited for, after one that is not timed.

    Args:
        call: what to time.
        repeats: timed calls; one that takes over a second is not repeated.

    Returns:
        Seconds.
    """
    jax.block_until_ready(call())
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - began)
        if best > 1.0:
            break
    return best
