"""The protocol of symmetric linear operators, whichever curvature they stand for."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Float, Layout, Vector, add_scaled, coefficients, combine


@runtime_checkable
class SymmetricOperator(Protocol):
    """A symmetric linear map on the vectors of a layout."""

    @property
    def num_hvps(self) -> int:
        """Products computed so far."""

    @property
    def layout(self) -> Layout:
        """Layout of the parameters."""

    @property
    def active(self) -> tuple[bool, ...]:
        """For each leaf, whether the map can be non-zero there."""

    @property
    def size(self) -> int:
        """Number of scalar variables."""

    @property
    def dtype(self) -> Any:
        """Lowest precision in which products are computed."""

    def apply(self, v: Vector) -> Vector:
        """Multiply a vector."""

    def dense(self, *, max_bytes: int | None = None) -> Float[np.ndarray, "n n"]:
        """Form the matrix, float64, shape (n, n)."""


def unit_roundoff(op: SymmetricOperator) -> float:
    """Machine epsilon of the lowest precision that products are computed in."""
    return float(getattr(op, "eps", jnp.finfo(op.dtype).eps))


def search_dimension(operator: SymmetricOperator, active: tuple[bool, ...]) -> int:
    """Dimension of the searched space: the variables of active leaves, minus that of a given null space."""
    flags = zip(active, operator.layout.shapes, strict=True)
    null = getattr(operator, "null_basis", None)
    return int(sum(np.prod(s, dtype=np.int64) for on, s in flags if on)) - (
        0 if null is None else len(null[0])
    )


def project_out_null_space(operator: SymmetricOperator, v: Vector) -> Vector:
    """Project onto the searched space: the complement of a null space, if one is given."""
    null = getattr(operator, "null_basis", None)
    return v if null is None else add_scaled(v, -1.0, combine(null, coefficients(null, v)))
