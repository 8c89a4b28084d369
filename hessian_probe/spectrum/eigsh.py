"""`eigsh`: both ends of a symmetric spectrum from one Krylov space, with true residuals."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree, Vector, add_scaled, from_tangent, generator, tangent, unflatten_rows
from hessian_probe.jobs.checkpoint import Job, Saving
from hessian_probe.jobs.state import random_state
from hessian_probe.operators import memory
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.symmetric import SymmetricOperator, require_operator
from hessian_probe.spectrum.dense import dense_eigh, empty_result, ends
from hessian_probe.spectrum.result import EigenResult
from hessian_probe.spectrum.standard_errors import eigenvalue_errors
from hessian_probe.spectrum.thick_restart import EigenOptions, EigenSearch
from hessian_probe.spectrum.thresholds import DENSE_MANY, LAPACK_SIZE


def eigsh(
    op: SymmetricOperator,
    *,
    lowest: int = 1,
    highest: int = 1,
    rtol: float = 1e-3,
    max_hvps: int | None = None,
    key: jax.Array | None = None,
    initial: PyTree | EigenResult | None = None,
    max_basis: int | None = None,
    progress: Callable[[str], None] | None = None,
    standard_errors: bool = False,
    save_to: str | os.PathLike[str] | None = None,
    save_every: float = 30.0,
    resume: bool | str | os.PathLike[str] = True,
) -> EigenResult:
    """Estimate the algebraically smallest and largest eigenpairs of a symmetric map.

    Both ends come from one Krylov space, grown by Lanczos with full re-orthogonalisation and bounded
    by thick restarts.  Where more than one pair is wanted at an end, further runs start from fresh vectors
    orthogonal to the pairs found, until a run finds nothing new: repeated eigenvalues are counted.  Small
    problems are solved densely.

    Args:
        op: an operator of this package: of `hp.hessian`, `hp.gauss_newton`, `hp.linear_map`, …
        lowest: pairs wanted at the lower end, 0 or more.
        highest: pairs wanted at the upper end, 0 or more.
        rtol: a pair has converged when ‖Hv − λv‖ ≤ rtol·‖H‖ (‖H‖: largest Ritz value in magnitude).
        max_hvps: products allowed; None means 20·(lowest + highest) + 1000.
        key: random key of the start vector; None means `jax.random.key(0)`.
        initial: start vector: a pytree like params (an eigenvector found earlier), or an earlier
            EigenResult, of which all vectors are used.  A small random vector is added, so that the start
            is orthogonal to no eigenvector.  After a small change of the parameters this saves products:
            8 instead of 26 at rtol 1e-3, 29 instead of 38 at 1e-5 on an 8,970-parameter network.
        max_basis: basis vectors held at most; None means 128 or what fits in memory.
        progress: called with a line of text every few products.
        standard_errors: measure the standard error of each eigenvalue over the data, batch by batch;
            the data must be a sequence of at least two batches.
        save_to: file to which the search is saved while it runs, when it is interrupted and when it ends.
            A search by the dense route is not saved.
        save_every: seconds between two saves (more where saving would take over 2 % of the time).
        resume: True continues from `save_to` if that file exists, to the answer of an uninterrupted search;
            a path continues from that file; False starts over and overwrites.

    Returns:
        EigenResult with lowest + highest pairs (all n where these overlap).  Fewer only with status
        "max_hvps", "interrupted" or "nonfinite", and evidence that says so.

    Raises:
        ValueError: counts negative, both zero, or above the number of variables; rtol not positive;
            standard errors of data that are one batch.
        CheckpointError: the file to continue from is cut off, damaged, or of another search.

    Cost:
        On the Hessian of an 85,002-parameter network about 40 products for rtol 1e-3 and 90 for
        1e-5, plus one product per pair for the true residuals; max_basis·n numbers of memory.
        n products by the dense route.  One more product per pair for standard errors.  The operator's
        self-check, at its first use, is not counted.

    Source:
        K. Wu and H. Simon, SIAM J. Matrix Anal. Appl. 22, 2000, doi:10.1137/S0895479898334605.

    Example:
        >>> import jax.numpy as jnp
        >>> import hessian_probe as hp
        >>> def loss(x):
        ...     return x[0] ** 2 - 0.5 * x[1] ** 2 + jnp.sum(x) ** 2
        >>> eig = hp.eigsh(hp.hessian(loss, jnp.zeros(3)))
        >>> [f"{value:.4f}" for value in eig.eigenvalues], eig.status
        (['-0.6056', '6.6056'], 'converged')
    """
    options = EigenOptions(lowest, highest, rtol, max_hvps, max_basis, progress)
    _check(op, options)
    if standard_errors and (not isinstance(op, HessianOperator) or op.objective.data.count < 2):
        raise ValueError(
            "standard_errors=True needs a Hessian or a Gauss–Newton matrix whose data are a sequence of at "
            "least two batches: one batch does not show how much the data scatter; pass a list of batches"
        )
    saving = Saving(save_to, save_every, resume)
    rng = generator(key)
    start = None if initial is None else _start(op, initial)
    counted = op.num_hvps
    if standard_errors and max_hvps is not None:
        options = options._replace(max_hvps=max(max_hvps - min(options.wanted, op.size), 1))
    try:
        op.require_checked()
        found = _search(op, options, rng, start, saving)
    except KeyboardInterrupt:
        return empty_result(op, op.num_hvps - counted, "lanczos", rtol, "interrupted", options.wanted)
    return _with_errors(op, found) if isinstance(op, HessianOperator) and standard_errors else found


def _search(
    op: SymmetricOperator,
    options: EigenOptions,
    rng: np.random.Generator,
    start: Vector | None,
    saving: Saving,
) -> EigenResult:
    """Search by the cheaper route."""
    n = op.size
    if (options.max_hvps is None or options.max_hvps >= n) and takes_dense(n, options.wanted):
        return _dense(op, options)
    asked = {name: getattr(options, name) for name in ("lowest", "highest", "rtol", "max_basis")}
    job = Job("eigsh", op, {**asked, "key": random_state(rng), "initial": start}, saving)
    return EigenSearch(op, options, rng, job).run(start)


def _start(op: SymmetricOperator, initial: PyTree | EigenResult) -> Vector:
    """Read a start: one vector, or the sum of several, each as long as the others."""
    if not isinstance(initial, EigenResult):
        return from_tangent(op.layout, initial, "initial")
    count = len(initial.eigenvalues)
    if not count:
        raise ValueError("initial is an EigenResult without any pair; leave it out")
    vectors = (from_tangent(op.layout, initial.vector(index), "initial") for index in range(count))
    return reduce(lambda total, vector: add_scaled(total, 1.0, vector), vectors)


def takes_dense(size: int, wanted: int) -> bool:
    """Whether n products and LAPACK are cheaper than Lanczos, and the matrix fits."""
    many = 4 * wanted >= size and size <= DENSE_MANY
    return (size <= LAPACK_SIZE or many) and memory.eigh_fits(size)


def _with_errors(op: HessianOperator, found: EigenResult) -> EigenResult:
    """Measure the standard error of each eigenvalue over the batches."""
    if found.status == "interrupted":
        return found
    before = op.num_hvps
    vectors = [from_tangent(op.layout, found.vector(index)) for index in range(len(found.eigenvalues))]
    try:
        errors = np.array([estimate.error for estimate in eigenvalue_errors(op, vectors)])
    except KeyboardInterrupt:
        evidence = (*found.evidence, "interrupted before the standard errors")
        return dataclasses.replace(found, evidence=evidence)
    spent = found.num_hvps + op.num_hvps - before
    return dataclasses.replace(found, standard_errors=errors, num_hvps=spent)


def _check(op: Any, options: EigenOptions) -> None:
    """Refuse misuse that is visible before the first product."""
    lowest, highest, rtol, max_hvps, max_basis, _ = options
    require_operator(op)
    for name, count in (("lowest", lowest), ("highest", highest), ("max_hvps", max_hvps)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int | np.integer)):
            raise TypeError(f"{name}={count!r}; expected a whole number")
    for name, count in (("lowest", lowest), ("highest", highest)):
        if count < 0 or count > op.size:
            raise ValueError(f"{name}={count}; expected 0 to {op.size}, the number of variables")
    if lowest + highest == 0:
        raise ValueError("lowest and highest are both 0; ask for at least one pair")
    if not rtol > 0:
        raise ValueError(f"rtol={rtol}; expected a positive number")
    if max_hvps is not None and max_hvps < 1:
        raise ValueError(f"max_hvps={max_hvps}; expected at least 1")
    if max_basis is not None and max_basis < lowest + highest + 2:
        raise ValueError(f"max_basis={max_basis}; expected at least lowest + highest + 2")


def _dense(op: SymmetricOperator, options: EigenOptions) -> EigenResult:
    """Compute the whole spectrum, and keep the wanted ends."""
    before, n = op.num_hvps, op.size
    lowest, highest, rtol = options.lowest, options.highest, options.rtol
    try:
        values, vectors = dense_eigh(op)
    except FloatingPointError:
        return empty_result(op, op.num_hvps - before, "dense", rtol, "nonfinite", lowest + highest)
    chosen, overlap = ends(n, lowest, highest), lowest + highest > n
    basis, top = unflatten_rows(op.layout, vectors[:, chosen].T), float(np.max(np.abs(values)))
    rounding = op.eps * np.sqrt(n) * top
    good = rounding <= rtol * top
    return EigenResult(
        eigenvalues=values[chosen],
        eigenvectors=tangent(op.layout, basis, op.non_variables, len(chosen)),
        residual_norms=np.full(len(chosen), rounding),
        converged=np.full(len(chosen), good),
        num_lowest=lowest,
        num_hvps=op.num_hvps - before,
        status="converged" if good else "stagnated",
        method="dense",
        norm=top,
        rtol=rtol,
        size=n,
        variables=str(op.layout),
        evidence=(f"the ends overlap: each of the {n} pairs is given once",) if overlap else (),
    )
