"""Eigenpairs by the dense route: n products, then LAPACK in float64."""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import tangent, unflatten_rows
from hessian_probe.operators import memory
from hessian_probe.operators.dense import ENDS_INSTEAD
from hessian_probe.operators.symmetric import SymmetricOperator
from hessian_probe.operators.thresholds import EIGH_MATRICES, MEMORY_SHARE
from hessian_probe.spectrum.result import EigenResult

EMPTY = {
    "nonfinite": "a Hessian-vector product is not finite at these parameters",
    "max_hvps": "the budget leaves no products to search with; raise max_hvps",
    "interrupted": "interrupted before the first product",
    "skipped": "no product was computed; the point's evidence says why",
}


def dense_eigh(operator: SymmetricOperator) -> tuple[np.ndarray, np.ndarray]:
    """Return all eigenvalues (n,), ascending, and eigenvectors (n, n) by column, float64.

    Where a null space of k dimensions is excluded, these are the n − k pairs of its complement.

    Raises:
        FloatingPointError: the matrix contains a NaN or an infinity.
        MemoryError: the matrix does not fit.
    """
    n = operator.size
    needed, limit = memory.matrix_bytes(n, EIGH_MATRICES), 2 * MEMORY_SHARE * memory.free_bytes()
    memory.require(needed, limit, f"the whole spectrum of {n} variables", ENDS_INSTEAD)
    matrix = operator.dense(max_bytes=needed)
    if not np.all(np.isfinite(matrix)):
        raise FloatingPointError("a Hessian-vector product is not finite")
    complement = getattr(operator, "complement", None)
    values, vectors = np.linalg.eigh(matrix if complement is None else complement.T @ matrix @ complement)
    return values, vectors if complement is None else complement @ vectors


def ends(count: int, lowest: int, highest: int) -> np.ndarray:
    """Indices of the lowest and the highest of ascending values, each once."""
    return np.arange(count) if lowest + highest >= count else np.r_[0:lowest, count - highest : count]


def empty_result(
    op: SymmetricOperator, num_hvps: int, method: str, rtol: float, status: str, wanted: int = 1
) -> EigenResult:
    """Return a result without any pair, with the reason in its evidence."""
    zero = np.zeros(0)
    basis = unflatten_rows(op.layout, np.zeros((0, op.size)))
    return EigenResult(
        eigenvalues=zero,
        eigenvectors=tangent(op.layout, basis, op.non_variables, 0),
        residual_norms=zero,
        converged=zero.astype(bool),
        num_lowest=0,
        num_hvps=num_hvps,
        status=status,
        method=method,
        norm=0.0,
        rtol=rtol,
        size=op.size,
        variables=str(op.layout),
        evidence=(f"0 of {wanted} pairs: {EMPTY.get(status, 'no product was computed')}",),
    )
