"""What a long job would cost in products, seconds and bytes, before it is begun."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hessian_probe.arrays import PyTree, merge
from hessian_probe.operators import memory
from hessian_probe.operators.data import Batches
from hessian_probe.operators.dense import ENDS_INSTEAD
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.thresholds import DENSE_BLOCK, EIGH_MATRICES, MEMORY_SHARE
from hessian_probe.operators.tracing import trace
from hessian_probe.planning.cost_analysis import BatchSizes, OperationCosts, batch_sizes, costs
from hessian_probe.planning.result import Plan
from hessian_probe.planning.thresholds import (
    BESIDE,
    EVALUATIONS,
    FURTHER_PAIR,
    LINE_SEARCH,
    PAIR_AT_MILLI,
    PAIR_PER_DECADE,
    SADDLE,
    SAMPLE,
)
from hessian_probe.points.classify import products_allowed
from hessian_probe.points.preconditions import derivative_fault
from hessian_probe.points.thresholds import (
    DENSE_AFTER,
    DENSE_COUNT,
    DENSE_FIRST,
    DENSE_SIZE,
    FEWEST_BATCHES,
    LAST_CALL,
    NEWTON_HVPS,
    REGION_HVPS,
)
from hessian_probe.spectrum.certificate import steps_for
from hessian_probe.spectrum.eigsh import takes_dense
from hessian_probe.spectrum.lanczos import segment
from hessian_probe.spectrum.thick_restart import default_basis, default_budget
from hessian_probe.spectrum.thresholds import COUNT_BASIS, MAX_BASIS


def plan(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
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
    """Estimate the cost of a job in products, seconds and bytes, and report what its loss's program shows.

    The loss is traced and its program inspected; gradient and product are compiled, and the compiler's own
    analysis of their memory is read.  If they fit, each is then run three times on the largest batch.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its floating-point arrays are the variables, unless `trainable` says otherwise.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        job: "classify", "escape", "eigsh", or "dense" (`op.dense()`).
        lowest: option of that job, as are all that follow except `measure`; None means its default.
        highest: see `hp.eigsh`.
        rtol: see `hp.eigsh`.
        max_hvps: see `hp.eigsh` and `hp.classify`.
        max_basis: see `hp.eigsh`.
        confidence: see `hp.classify`.
        negative_tol: see `hp.classify`.
        sampled: see `hp.classify`.
        count: see `hp.classify`.
        measure: run gradient and product to time them; False runs nothing.

    Returns:
        Plan; its `fits` says whether the job fits in the free memory.

    Raises:
        TypeError: `loss` is not callable or gives no real scalar; data can be read only once.
        ValueError: there is no such job, or it has no such option; `params` has no variable.

    Cost:
        One pass over the data, two or three compilations (which the job itself reuses), four gradients
        and three products on one batch; four gradients and up to 72 losses more where the loss has operations
        whose derivative need not be that of their value.

    Example:
        >>> import jax.numpy as jnp
        >>> import hessian_probe as hp
        >>> ahead = hp.plan(lambda x: jnp.sum(x**4), jnp.ones(1000), job="eigsh", measure=False)
        >>> ahead.num_hvps, ahead.max_hvps, ahead.fits
        (35, 1040, True)
    """
    given: dict[str, Any] = {
        **{"lowest": lowest, "highest": highest, "rtol": rtol, "max_hvps": max_hvps, "max_basis": max_basis},
        **{"confidence": confidence, "negative_tol": negative_tol, "sampled": sampled, "count": count},
    }
    options = _options(job, {name: value for name, value in given.items() if value is not None})
    objective = Objective(loss, params, data, trainable=trainable)
    batches = batch_sizes(objective)
    products = JOBS[job](objective, options)
    noticed = _noticed(loss, objective, batches)
    made = _joined(job, objective, products, batches, measure, noticed)
    fault = None
    if made.gradient_seconds is not None:
        batch = batches.largest
        data = None if batch.layout is None else Batches([merge(batch.layout, (), batch.arrays)], [1.0])
        fault = derivative_fault(HessianOperator(Objective(loss, params, data, trainable=trainable)))
    if fault is None:
        return made
    return dataclasses.replace(made, noticed=(fault.code, *made.noticed), remarks=(str(fault), *made.remarks))


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
    products: ProductCount,
    batches: BatchSizes,
    measure: bool,
    noticed: tuple[tuple[str, str], ...],
) -> Plan:
    """Put products, costs and memory together."""
    layout, free = objective.layout, memory.free_bytes()
    matrix = memory.matrix_bytes(layout.size)
    basis, dense = products.basis * layout.vector_bytes, products.matrices * matrix
    block = min(DENSE_BLOCK, layout.size) if products.matrices else 0
    cost = costs(objective, batches, block=block, measure=measure)
    refused = job == "dense" and matrix > MEMORY_SHARE * free
    peak = cost.peak + basis + dense
    seconds = _seconds(cost, products, products.expected), _seconds(cost, products, products.most)
    return Plan(
        job=job,
        fits=peak <= free and not refused,
        num_hvps=products.expected,
        max_hvps=products.most,
        evidence=(products.why,),
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
        dense_fits=matrix <= MEMORY_SHARE * free,
        route=cost.route,
        stored=cost.stored,
        noticed=tuple(code for code, _ in noticed),
        remarks=tuple(text for _, text in noticed),
        advice=_advice(cost, batches, basis, layout.vector_bytes, dense, free, refused),
        size=layout.size,
        variables=str(layout),
        dtype=np.dtype(layout.dtype).name,
        device=jax.local_devices()[0].device_kind,
    )


def _seconds(cost: OperationCosts, products: ProductCount, count: int) -> float | None:
    if cost.product_seconds is None or cost.gradient_seconds is None:
        return None
    return (1 + BESIDE) * count * cost.product_seconds + products.evaluations * cost.gradient_seconds


def _advice(
    cost: OperationCosts, batches: BatchSizes, basis: int, vector: int, dense: int, free: int, refused: bool
) -> tuple[str, ...]:
    """What to do instead where the job does not fit."""
    said = []
    if refused or dense > free:
        said.append(f"instead of the dense matrix: {ENDS_INSTEAD}")
    if cost.peak > free:
        one = len(batches.sizes) == 1
        smaller = "pass data as a list of smaller batches" if one else "make the batches smaller"
        said.append(f"{smaller}: loss and Hessian are the same means, and the program gets smaller")
    elif cost.peak + basis > free:
        rows = int((free - cost.peak) / vector) // 2  # while storage grows, the old one exists too
        said.append(f"a smaller max_basis: about {rows} vectors fit; the search then takes more products")
    return tuple(said)


def _noticed(loss: Any, objective: Objective, batches: BatchSizes) -> tuple[tuple[str, str], ...]:
    """What the program, the parameters and the data show: pairs of a code and a sentence."""
    found = list(objective.facts.remarks)
    again = trace(
        loss, objective.layout, objective.variables, objective.non_variables, next(iter(objective.data))
    )
    if again.key.fingerprint != objective.loss.fingerprint:
        text = "two traces of the loss give different programs: it draws from the host's randomness"
        found.insert(0, ("unrepeatable", text))
    for name in objective.ignored:
        found.append((f"unused:{name}", f"the loss does not read {name}: it is constant along it"))
    for name, why in objective.layout.left_out:
        found.append((f"fixed:{name}", f"{name} ({why}) is not a variable: it stays as it is"))
    count, ragged = len(batches.sizes), len(set(batches.sizes)) > 1
    if count > 1:
        found.append((f"batches:{count}", f"data in {count} batches"))
    if ragged:
        found.append(("ragged", "batches differ in size: each is weighted by its number of samples"))
    return tuple(found)


# Products of each job ------------------------------------------------------------------------

# Options of each job that change what it takes, with their defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "classify": {"max_hvps": None, "confidence": 0.99, "negative_tol": 1e-2, "sampled": True, "count": False},
    "escape": {"max_hvps": None},
    "eigsh": {"lowest": 1, "highest": 1, "rtol": 1e-3, "max_hvps": None, "max_basis": None},
    "dense": {},
}


class ProductCount(NamedTuple):
    """Products and storage of a job.

    Attributes:
        expected: products expected.
        most: products at most.
        evaluations: losses with slopes expected besides.
        basis: vectors held at most.
        matrices: dense float64 matrices held at most.
        why: one sentence on the assumption behind `expected`.
    """

    expected: int
    most: int
    evaluations: int
    basis: int
    matrices: int
    why: str


def dense_products(objective: Objective, _: dict[str, Any]) -> ProductCount:
    """The dense matrix: one product for each variable."""
    n = objective.layout.size
    return ProductCount(n, n, 0, 0, 1, "one for each variable")


def eigsh_products(objective: Objective, options: dict[str, Any]) -> ProductCount:
    """Both ends of a spectrum."""
    n = objective.layout.size
    wanted = min(options["lowest"] + options["highest"], n)
    budget = options["max_hvps"] or default_budget(wanted)
    if (options["max_hvps"] is None or budget >= n) and takes_dense(n, wanted):
        why = "one for each variable: the dense route is the cheapest for so small a problem"
        return ProductCount(n, n, 0, 0, EIGH_MATRICES, why)
    decades = max(math.log10(1e-3 / options["rtol"]), -1.0)
    likely = PAIR_AT_MILLI + PAIR_PER_DECADE * decades + FURTHER_PAIR * max(wanted - 2, 0)
    basis = options["max_basis"] or default_basis(objective.layout, wanted)
    likely = min(round(likely), n + wanted, budget)
    why = f"as measured on networks of digits for {wanted} pairs to {options['rtol']:g}; spectra differ"
    return ProductCount(likely, budget, 0, _rows(basis, min(budget, n)), 0, why)


def classify_products(objective: Objective, options: dict[str, Any]) -> ProductCount:
    """The label of a point."""
    n, counting = objective.layout.size, options["count"]
    budget = options["max_hvps"] or products_allowed(n, count=counting)
    sizes = zip(objective.layout.shapes, objective.active, strict=True)
    active = sum(math.prod(shape) for shape, on in sizes if on)
    limit = DENSE_COUNT if counting else DENSE_SIZE
    sampled = options["sampled"] and objective.data.count >= FEWEST_BATCHES
    fits = max(memory.vectors_that_fit(objective.layout.vector_bytes), 8)
    basis = _rows(min(max(MAX_BASIS, NEWTON_HVPS), fits), min(budget, n))
    if budget >= n + DENSE_AFTER and active <= limit and memory.eigh_fits(n):
        likely = n + 3 if active <= DENSE_FIRST else n + DENSE_AFTER + 3
        why = f"at a minimum, where the dense matrix of {n} variables is formed"
        if counting:
            why = f"the dense matrix of {n} variables is formed to count exactly"
        elif active > DENSE_FIRST:
            why += f"; about {SADDLE} at a saddle"
        beside = min(3 * likely, budget)
        why += f"; up to about {beside} if the gradient is not zero: it is formed at each point visited"
        likely = min(likely + (SAMPLE if sampled else 0), budget)
        return ProductCount(likely, budget, EVALUATIONS, basis, EIGH_MATRICES, why)
    return _by_lanczos(active, n, options, budget, sampled, basis)


def _by_lanczos(
    active: int, n: int, options: dict[str, Any], budget: int, sampled: bool, basis: int
) -> ProductCount:
    """The label of a point in too many variables for the matrix, unless nothing else settles it."""
    tolerance, counting = options["negative_tol"], options["count"]
    # At a minimum of small λ_min the relative error allowed is negative_tol·top/(top + negative_tol·top).
    proof = steps_for(active, tolerance / (1 + tolerance), options["confidence"]) + 4
    why = (
        f"at a minimum, to miss no eigenvalue below −{tolerance:g}·‖H‖ with probability "
        f"{options['confidence']:g} ({2 * proof + REGION_HVPS} or more if the gradient is not zero); "
        f"{SADDLE} at a saddle"
    )
    if sampled:
        proof, why = proof + SAMPLE, why + f"; {SAMPLE} of them for the noise of the data"
    most = budget
    last_call = active <= DENSE_COUNT and budget >= n + LAST_CALL + 3 and memory.eigh_fits(n)
    if last_call:
        most = budget - n - LAST_CALL - 3
        why += f"; {budget} where {most} settle nothing: the dense matrix is then formed"
    matrices = EIGH_MATRICES if last_call else 0
    if counting:
        why = f"{proof} for the label; counting continues until no eigenvalue is left or the budget is spent"
        return ProductCount(budget, budget, EVALUATIONS, max(basis, COUNT_BASIS), matrices, why)
    if proof > most:
        why = f"a minimum would take {proof} and stays undetermined; about {SADDLE} at a saddle"
        if last_call:
            why = (
                f"at a minimum, where the dense matrix of {n} variables is formed; about {SADDLE} at a saddle"
            )
        proof = budget
    return ProductCount(proof, budget, EVALUATIONS, basis, matrices, why)


def escape_products(objective: Objective, options: dict[str, Any]) -> ProductCount:
    """The label of a point, and a line search."""
    label = classify_products(objective, OPTIONS["classify"] | options)
    return label._replace(evaluations=label.evaluations + LINE_SEARCH)


def _rows(basis: int, products: int) -> int:
    """Rows of storage for a basis: while it grows, the old storage exists too."""
    rows = segment(min(basis, products) + 1)
    return rows + segment(max(rows // 2, 1)) if rows > 16 else rows


JOBS = {
    "classify": classify_products,
    "escape": escape_products,
    "eigsh": eigsh_products,
    "dense": dense_products,
}
