"""Eigenpairs by the dense route: n products, then LAPACK in float64."""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import Basis, tangent
from hessian_probe.operators.base import SymmetricOperator
from hessian_probe.operators.hessian import HessianOperator, unflatten_rows
from hessian_probe.spectrum.result import EigenResult


def dense_eigh(operator: SymmetricOperator) -> tuple[np.ndarray, np.ndarray]:
    """Return all eigenvalues (n,), ascending, and eigenvectors (n, n) by column, float64.

    Raises:
        FloatingPointError: the matrix holds a NaN or an infinity.
        MemoryError: the matrix does not fit.
    """
    matrix = operator.dense()
    if not np.all(np.isfinite(matrix)):
        raise FloatingPointError("a Hessian-vector product is not finite")
    values, vectors = np.linalg.eigh(matrix)
    return values, vectors


def columns_to_basis(operator: SymmetricOperator, columns: np.ndarray) -> Basis:
    """Write columns (n, k) as a basis of k rows."""
    return unflatten_rows(operator.layout, columns.T)


def empty_result(op: HessianOperator, num_hvps: int, method: str, rtol: float, status: str) -> EigenResult:
    """Return a result without pairs, for operators that give no finite product."""
    zero = np.zeros(0)
    basis = columns_to_basis(op, np.zeros((op.size, 0)))
    return EigenResult(
        eigenvalues=zero,
        eigenvectors=tangent(op.layout, basis, op.objective.rest, 0),
        residual_norms=zero,
        converged=zero.astype(bool),
        num_lowest=0,
        num_hvps=num_hvps,
        status=status,
        method=method,
        norm=0.0,
        rtol=rtol,
        size=op.size,
        message="no pair is given: a Hessian-vector product is not finite at these parameters",
    )
