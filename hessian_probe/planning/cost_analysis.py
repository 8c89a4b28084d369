"""What one gradient and one Hessian-vector product of an objective cost: bytes and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.operators import derivatives, memory
from hessian_probe.operators.data import Batch
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.tracing import DIFFERENCES, FORWARD


class BatchSizes(NamedTuple):
    """The batches of an objective's data.

    Attributes:
        largest: the one with the most bytes.
        position: where it stands.
        sizes: bytes of each.
        residuals: bytes of the linearised gradient of each; 0 where there is no such route.
    """

    largest: Batch
    position: int
    sizes: tuple[int, ...]
    residuals: tuple[int, ...]


class OperationCosts(NamedTuple):
    """OperationCosts of a gradient and a product over all the data.

    Attributes:
        route: derivative route, and whether the linearisation is stored.
        stored: whether it is.
        residual_bytes: what the stored linearisation takes, of all batches.
        program: the product's compiled program, on the largest batch.
        preparing: the program that linearises, or the gradient's.
        peak: bytes at once while products are made, or the linearisation is; without any basis.
        compile_seconds: time to compile both.
        gradient_seconds: one gradient; None if not measured.
        product_seconds: one product; None if not measured.
        measured: one sentence on what was measured.
    """

    route: str
    stored: bool
    residual_bytes: int
    program: CompiledProgram
    preparing: CompiledProgram
    peak: int
    compile_seconds: float
    gradient_seconds: float | None
    product_seconds: float | None
    measured: str


def batch_sizes(objective: Objective) -> BatchSizes:
    """Go through the data once; nothing is computed."""
    largest, position = None, 0
    sizes: list[int] = []
    residuals: list[int] = []
    known: dict[Any, int] = {}
    for index, batch in enumerate(objective.data):
        sizes.append(memory.tree_bytes(batch.arrays))
        shapes = tuple((np.shape(leaf), str(leaf.dtype)) for leaf in batch.arrays)
        if shapes not in known:
            known[shapes] = _residual_bytes(objective, batch)
        residuals.append(known[shapes])
        if largest is None or sizes[-1] > sizes[position]:
            largest, position = batch, index
    assert largest is not None
    return BatchSizes(largest, position, tuple(sizes), tuple(residuals))


def _residual_bytes(objective: Objective, batch: Batch) -> int:
    if objective.route is not FORWARD:
        return 0
    return memory.tree_bytes(objective.abstract_linearized(batch, objective.variables)[2])


def costs(
    objective: Objective, batches: BatchSizes, *, block: int = 0, measure: bool = True
) -> OperationCosts:
    """Compile, and unless told otherwise time, one gradient and one product on the largest batch.

    Args:
        objective: the loss.
        batches: what `batch_sizes` saw.
        block: vectors multiplied at once, as for a dense matrix; 0 for one.
        measure: run a gradient and a product a few times; left out where they would not fit.

    Returns:
        The costs over all the data: times grow with its bytes.
    """
    total, free = sum(batches.residuals), memory.free_bytes()
    stored = objective.route is FORWARD and total <= memory.SHARE * free
    batch, size = batches.largest, batches.sizes[batches.position]
    others = total - batches.residuals[batches.position] if stored else 0
    block = block if stored and len(batches.sizes) == 1 else 0
    made = _compile(objective, batch, stored, block, free - others)
    # Parameters and gradient stay; so do the data, which a stored linearisation reads no more.
    held = 2 * memory.tree_bytes(objective.variables) + memory.tree_bytes(objective.non_variables) + others
    peak = held + max(made.program.peak + size * stored, made.preparing.peak)
    seconds: tuple[float | None, float | None] = (None, None)
    said = "nothing was run" if not measure else "nothing was run: it would not fit"
    if measure and peak <= free:
        share = sum(batches.sizes) / size if size else 1.0
        single = seconds_of(made.gradient), seconds_of(made.product) / max(block, 1)
        seconds = single[0] * share, single[1] * share
        where = f" on batch {batches.position} of {len(batches.sizes)}, the largest" if share > 1 else ""
        said = f"gradient {_milli(single[0])}, product {_milli(single[1])}{where}, the better of two calls"
    kind = "linearised once" if stored else "recomputed for every product"
    route = f"{objective.route.name}, {kind}"
    return OperationCosts(
        route, stored, total, made.program, made.preparing, peak, made.compile_seconds, *seconds, said
    )


class _Made(NamedTuple):
    """Compiled programs, and calls that run a gradient and a product."""

    program: CompiledProgram
    preparing: CompiledProgram
    compile_seconds: float
    gradient: Callable[[], Any]
    product: Callable[[], Any]


def _compile(objective: Objective, batch: Batch, stored: bool, block: int, room: float) -> _Made:
    x, layout = objective.variables, objective.layout
    v = tuple(jnp.ones(s, d) for s, d in zip(layout.shapes, layout.work_dtypes, strict=True))
    static = (objective.loss, layout, batch.layout)
    inputs = (x, objective.non_variables, batch.arrays)
    gradient = analyse(derivatives.value_and_gradient, *static, *inputs)
    run = partial(derivatives.value_and_gradient, *static, *inputs)
    if objective.route is DIFFERENCES:
        product = partial(objective.product_of(batch, x), v)
        return _Made(gradient, gradient, gradient.seconds, run, product)
    if not stored:
        program = analyse(objective.product_kernel, *static, *inputs, v)
        product = partial(objective.product_of(batch, x), v)
        return _Made(program, gradient, gradient.seconds + program.seconds, run, product)
    preparing = analyse(derivatives.linearized, *static, *inputs)
    fits = preparing.peak <= room
    # Where not even the linearisation can be run, its shapes will do.
    linear = (objective.linearized if fits else objective.abstract_linearized)(batch, x)[2]
    kernel = derivatives.apply_linearized
    if block:
        kernel, v = derivatives.apply_to_rows, tuple(jnp.ones((block, *leaf.shape), leaf.dtype) for leaf in v)
    program = analyse(kernel, linear, v)
    spent = gradient.seconds + preparing.seconds + program.seconds
    return _Made(program, preparing, spent, run, partial(kernel, linear, v))


def _milli(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


# --- What a compiled program takes: bytes by its own analysis, seconds by the clock.


class CompiledProgram(NamedTuple):
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


def analyse(function: Any, *arguments: Any) -> CompiledProgram:
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
        return CompiledProgram(*sizes, None, 0, seconds)
    return CompiledProgram(
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
