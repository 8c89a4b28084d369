"""The cost of one gradient and one Hessian-vector product: bytes by the compiler, seconds by the clock."""

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
from hessian_probe.operators.thresholds import MEMORY_SHARE
from hessian_probe.operators.tracing import DIFFERENCES, FORWARD
from hessian_probe.planning.thresholds import LONG_CALL


class CompiledProgram(NamedTuple):
    """Bytes of a compiled program's arguments, outputs, temporaries and code, and seconds to compile it.

    The temporaries are None where the backend does not report them.
    """

    arguments: int
    outputs: int
    temporaries: int | None
    code: int
    seconds: float

    @property
    def peak(self) -> int:
        """Bytes in use at once; without the temporaries where these are unknown."""
        return self.arguments + self.outputs + (self.temporaries or 0) + self.code


def analyse(function: Any, *arguments: Any) -> CompiledProgram:
    """Return the memory of a function of `jax.jit` by its compiled program's own analysis; nothing is run.

    Arrays may be given by their shapes.  A later call with the same shapes reuses the compiled program.
    """
    began = time.perf_counter()
    lowered = function.lower(*arguments)
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    try:
        stats = compiled.memory_analysis()
    except Exception:  # backends without this analysis raise different errors
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


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the seconds of the shorter of two calls, each until its result is ready.

    One call before them is not timed; after one longer than LONG_CALL no other follows.
    """
    jax.block_until_ready(call())
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - began)
        if best > LONG_CALL:
            break
    return best


class BatchSizes(NamedTuple):
    """The batches of an objective's data, and the one with the most bytes.

    Attributes:
        sizes: bytes of each batch.
        residuals: bytes of the linearised gradient of each; 0 where the route does not linearise.
    """

    largest: Batch
    position: int
    sizes: tuple[int, ...]
    residuals: tuple[int, ...]


class OperationCosts(NamedTuple):
    """Cost of a gradient and of a product over all the data.

    Attributes:
        route: derivative route, and whether the linearisation is stored.
        stored: whether the linearisation is stored.
        residual_bytes: bytes of the stored linearisation of all batches.
        program: the product's compiled program, on the largest batch.
        preparing: the program that linearises, or the gradient's.
        peak: bytes in use at once by products or by the linearisation, without any basis.
        compile_seconds: time to compile both.
        gradient_seconds: one gradient; None if not measured.
        product_seconds: one product; None if not measured.
        measured: one sentence on what was timed.
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
    """Read the sizes of all batches in one pass; nothing is computed."""
    largest, position = None, 0
    sizes: list[int] = []
    residuals: list[int] = []
    known: dict[Any, int] = {}
    for index, batch in enumerate(objective.data):
        sizes.append(memory.tree_bytes(batch.arrays))
        shapes = tuple((np.shape(leaf), str(leaf.dtype)) for leaf in batch.arrays)
        if shapes not in known and objective.route is FORWARD:
            known[shapes] = memory.tree_bytes(objective.abstract_linearized(batch, objective.variables)[2])
        residuals.append(known.get(shapes, 0))
        if largest is None or sizes[-1] > sizes[position]:
            largest, position = batch, index
    assert largest is not None
    return BatchSizes(largest, position, tuple(sizes), tuple(residuals))


def costs(
    objective: Objective, batches: BatchSizes, *, block: int = 0, measure: bool = True
) -> OperationCosts:
    """Return the costs of one gradient and one product over all the data.

    Both are compiled, and timed on the largest batch if `measure` and if they fit in memory; the times are
    scaled by the bytes of the data.  `block` vectors are multiplied at once for a dense matrix, one for 0.
    """
    total, free = sum(batches.residuals), memory.free_bytes()
    stored = objective.route is FORWARD and total <= MEMORY_SHARE * free
    batch, size = batches.largest, batches.sizes[batches.position]
    others = total - batches.residuals[batches.position] if stored else 0
    block = block if stored and len(batches.sizes) == 1 else 0
    made = _compile(objective, batch, stored, block, free - others)
    # Parameters and gradient stay in memory; so do the data, although a stored linearisation does not read
    # them.
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
    # Where the linearisation itself does not fit, its shapes are enough to compile the product.
    linear = (objective.linearized if fits else objective.abstract_linearized)(batch, x)[2]
    kernel = derivatives.apply_linearized
    if block:
        kernel, v = derivatives.apply_to_rows, tuple(jnp.ones((block, *leaf.shape), leaf.dtype) for leaf in v)
    program = analyse(kernel, linear, v)
    spent = gradient.seconds + preparing.seconds + program.seconds
    return _Made(program, preparing, spent, run, partial(kernel, linear, v))


def _milli(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
