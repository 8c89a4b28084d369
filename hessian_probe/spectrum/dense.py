"""Eigenpairs by the dense route: n products, then LAPACK in float64."""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import Basis
from hessian_probe.operators.base import SymmetricOperator
from hessian_probe.operators.hessian import unflatten_rows


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
