"""The whole matrix of a symmetric linear map, from its products with blocks of unit vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hessian_probe.arrays import Basis, Float, Layout, flatten_rows, unflatten_rows
from hessian_probe.operators import memory
from hessian_probe.operators.thresholds import DENSE_BLOCK, MEMORY_SHARE

ENDS_INSTEAD = "hp.eigsh finds the ends of the spectrum without the matrix, hp.classify the label"


def symmetric_matrix(
    layout: Layout, products: Callable[[Basis], Basis], max_bytes: int | None
) -> Float[np.ndarray, "n n"]:
    """Return the symmetric part, float64, of the map that `products` applies to the rows of a basis.

    Raises:
        MemoryError: it takes more than `max_bytes`; None means a quarter of the free memory.
    """
    n = layout.size
    limit = memory.free_bytes() * MEMORY_SHARE if max_bytes is None else max_bytes
    what = f"the dense Hessian of {n} variables"
    memory.require(memory.matrix_bytes(n), limit, what, ENDS_INSTEAD)
    matrix = np.zeros((n, n))
    for start in range(0, n, DENSE_BLOCK):
        units = np.eye(min(DENSE_BLOCK, n - start), n, start)
        matrix[start : start + len(units)] = flatten_rows(products(unflatten_rows(layout, units)))
    for start in range(0, n, DENSE_BLOCK):  # in place: there may be no room for another matrix
        rows, rest = slice(start, start + DENSE_BLOCK), slice(start, None)
        mean = 0.5 * (matrix[rows, rest] + matrix[rest, rows].T)
        matrix[rows, rest], matrix[rest, rows] = mean, mean.T
    return matrix
