"""Both ends by the dense route: the whole spectrum is computed, so a minimum is proved."""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import Vector, row
from hessian_probe.operators.base import search_dimension
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.extreme_eigenpairs import Eigenpair, ExtremeEigenpairs
from hessian_probe.points.rounding import ProductNoise
from hessian_probe.spectrum.dense import columns_to_basis, dense_eigh


def dense_ends(op: HessianOperator, noise: ProductNoise, asymmetry: float) -> ExtremeEigenpairs:
    """Compute the whole spectrum of the leaves that the loss reads.

    Args:
        op: the Hessian.
        noise: of its products, measured.
        asymmetry: of its products, as far as Lanczos has seen it.

    Returns:
        Both ends, with every eigenpair.
    """
    count = search_dimension(op, op.active)
    values, vectors = dense_eigh(op)
    if count < len(values):
        values, vectors = _drop_ignored(op, count, values, vectors)
    low, high = (
        measured(noise, float(values[i]), row(columns_to_basis(op, vectors[:, [i]]), 0)) for i in (0, -1)
    )
    top = float(np.max(np.abs(values)))
    band = noise.band(op, top, asymmetry)
    return ExtremeEigenpairs(
        low,
        high,
        top,
        band,
        int(np.sum(values < -band)),
        int(np.sum(values > band)),
        True,
        True,
        low.value,
        high.value,
        count,
        None,
        (values, vectors),
        asymmetry,
        "converged",
    )


def measured(noise: ProductNoise, value: float, vector: Vector) -> Eigenpair:
    """Multiply a Ritz vector once more, a rounding away: its residual and its noise."""
    _, residual = noise.rayleigh(vector, value)
    return Eigenpair(value, vector, residual)


def _drop_ignored(
    op: HessianOperator, count: int, values: np.ndarray, vectors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the exact zeros that belong to leaves which the loss does not read."""
    widths = [int(np.prod(shape)) for shape in op.layout.shapes]
    mask = np.repeat(np.asarray(op.active, bool), widths)
    inside = np.sum(np.square(vectors[mask]), axis=0)
    chosen = np.sort(np.argsort(-inside, kind="stable")[:count])
    return values[chosen], vectors[:, chosen]
