"""What a long job would cost and need, said before it is begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree, leaf_name
from hessian_probe.operators import memory
from hessian_probe.operators.dense import DENSE_BLOCK, ENDS_INSTEAD
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.tracing import trace
from hessian_probe.planning.cost_analysis import Batches, Costs, costs, look_at
from hessian_probe.planning.cost_model import JOBS, OPTIONS, Products
from hessian_probe.planning.result import Plan

# Time of a search beside its products, as a share of theirs: `make bench` allows a quarter.
BESIDE = 0.25


def plan(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    job: str = "classify",
    lowest: int | None = None,
    highest: int | None = None,
    rtol: float | None = None,
    max_hvps: int | None = None,
    max_basis: int | None = None,
    confidence: float | None = None,
    negative_tol: float | None = None,
    sampled: bool | None = None,
    count: bool | None = None,
    measure: bool = True,
) -> Plan:
    """Say what a job would take: products, seconds, bytes; and what its loss shows.

    The loss's program is traced and looked through, gradient and product are compiled and their own
    analysis is read; then, if that fits, each is run three times on the largest batch.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its real floating-point leaves are the variables.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        job: "classify", "escape", "eigsh", or "dense" (`op.dense()`).
        lowest: option of that job; None stands for its default.
        highest: the same.
        rtol: the same.
        max_hvps: the same.
        max_basis: the same.
        confidence: the same.
        negative_tol: the same.
        sampled: the same.
        count: the same.
        measure: run gradient and product to time them; False runs nothing.

    Returns:
        Plan; its `fits` says whether the job fits in the free memory.

    Raises:
        TypeError: `loss` is not callable or gives no real scalar; data can be read only once.
        ValueError: there is no such job, or it has no such option; `params` has no variable.

    Cost:
        One pass over the data, two or three compilations (kept for the job itself), three gradients
        and three products on one batch.
    """
    given = {
        "lowest": lowest,
        "highest": highest,
        "rtol": rtol,
        "max_hvps": max_hvps,
        "max_basis": max_basis,
        "confidence": confidence,
        "negative_tol": negative_tol,
        "sampled": sampled,
        "count": count,
    }
    options = _options(job, {name: value for name, value in given.items() if value is not None})
    objective = Objective(loss, params, data)
    batches = look_at(objective)
    return _joined(
        job,
        objective,
        JOBS[job](objective, options),
        batches,
        measure,
        _noticed(loss, params, objective, batches),
    )


def _options(job: str, given: dict[str, Any]) -> dict[str, Any]:
    if job not in OPTIONS:
        raise ValueError(f"job={job!r}; expected one of {', '.join(map(repr, OPTIONS))}")
    for name, value in given.items():
        if name not in OPTIONS[job]:
            takes = ", ".join(OPTIONS[job]) or "none"
            raise ValueError(f"{name}={value!r} is no option of job={job!r}, which takes {takes}")
        if isinstance(OPTIONS[job][name], bool):
            if not isinstance(value, bool):
                raise ValueError(f"{name}={value!r}; expected True or False")
        elif not value > 0 and not (name in ("lowest", "highest") and value == 0):
            raise ValueError(f"{name}={value!r}; expected a positive number")
    options = OPTIONS[job] | given
    if options.get("lowest") == options.get("highest") == 0:
        raise ValueError("lowest and highest are both 0; ask for at least one pair")
    return options


def _joined(
    job: str,
    objective: Objective,
    products: Products,
    batches: Batches,
    measure: bool,
    noticed: tuple[tuple[str, str], ...],
) -> Plan:
    """Put products, costs and memory together."""
    layout, free = objective.layout, memory.free_bytes()
    matrix = memory.matrix_bytes(layout.size)
    basis, dense = products.basis * layout.vector_bytes, products.matrices * matrix
    block = min(DENSE_BLOCK, layout.size) if products.matrices else 0
    cost = costs(objective, batches, block=block, measure=measure)
    refused = job == "dense" and matrix > memory.SHARE * free
    peak = cost.peak + basis + dense
    seconds = _seconds(cost, products, products.expected), _seconds(cost, products, products.most)
    return Plan(
        job=job,
        fits=peak <= free and not refused,
        num_hvps=products.expected,
        max_hvps=products.most,
        why=products.why,
        seconds=seconds[0],
        max_seconds=seconds[1],
        gradient_seconds=cost.gradient_seconds,
        product_seconds=cost.product_seconds,
        compile_seconds=cost.compile_seconds,
        measured=cost.measured,
        peak_bytes=peak,
        free_bytes=free,
        program_bytes=cost.program.peak,
        temporaries_known=cost.program.temporaries is not None,
        residual_bytes=cost.residual_bytes,
        basis_bytes=basis,
        dense_bytes=matrix,
        dense=products.matrices > 0,
        dense_fits=matrix <= memory.SHARE * free,
        route=cost.route,
        stored=cost.stored,
        noticed=tuple(code for code, _ in noticed),
        remarks=tuple(text for _, text in noticed),
        advice=_advice(cost, batches, basis, layout.vector_bytes, dense, free, refused),
        size=layout.size,
        dtype=np.dtype(layout.dtype).name,
        device=jax.local_devices()[0].device_kind,
    )


def _seconds(cost: Costs, products: Products, count: int) -> float | None:
    if cost.product_seconds is None or cost.gradient_seconds is None:
        return None
    return (1 + BESIDE) * count * cost.product_seconds + products.evaluations * cost.gradient_seconds


def _advice(
    cost: Costs, batches: Batches, basis: int, vector: int, dense: int, free: int, refused: bool
) -> tuple[str, ...]:
    """Say what to do where the job does not fit."""
    said = []
    if refused or dense > free:
        said.append(f"instead of the dense matrix: {ENDS_INSTEAD}")
    if cost.peak > free:
        one = len(batches.sizes) == 1
        smaller = "pass data as a list of smaller batches" if one else "make the batches smaller"
        said.append(f"{smaller}: loss and Hessian stay the same means, the program gets smaller")
    elif cost.peak + basis > free:
        rows = int((free - cost.peak) / vector) // 2  # while storage grows, the old one is there too
        said.append(f"a smaller max_basis: about {rows} vectors fit; it takes more products")
    return tuple(said)


def _noticed(
    loss: Any, params: PyTree, objective: Objective, batches: Batches
) -> tuple[tuple[str, str], ...]:
    """What the program, the parameters and the data show: a code and a sentence each."""
    found = list(objective.facts.remarks)
    again = trace(
        loss, objective.layout, objective.variables, objective.non_variables, next(iter(objective.data))
    )
    if again.key.fingerprint != objective.loss.fingerprint:
        text = "traced twice, the loss is another program: it draws from the host's randomness"
        found.insert(0, ("unrepeatable", text))
    for name in objective.ignored:
        found.append((f"unused:{name}", f"the loss does not read {name}: it is flat along it"))
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    for (path, leaf), kind in zip(paths, objective.layout.kinds, strict=True):
        if kind != "variable":
            name, dtype = leaf_name(path), getattr(leaf, "dtype", type(leaf).__name__)
            found.append((f"fixed:{name}", f"{name} ({dtype}) is no variable: it stays as it is"))
    count, ragged = len(batches.sizes), len(set(batches.sizes)) > 1
    if count > 1:
        found.append((f"batches:{count}", f"data in {count} batches"))
    if ragged:
        found.append(("ragged", "not all batches are of one size: each weighs by its samples"))
    return tuple(found)
