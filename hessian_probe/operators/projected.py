"""A symmetric map restricted to the complement of a few orthonormal vectors."""

from __future__ import annotations

from hessian_probe.arrays import Basis, Vector, add_scaled, coefficients, combine
from hessian_probe.operators.symmetric import DerivedOperator, SymmetricOperator


class ProjectedOperator(DerivedOperator):
    """P A P, where P projects onto the complement of k orthonormal rows.

    Args:
        op: the map A.
        rows: the orthonormal vectors, a basis of k rows.
    """

    def __init__(self, op: SymmetricOperator, rows: Basis) -> None:
        super().__init__([op])
        self.rows = rows

    def search_dimension(self, active: tuple[bool, ...]) -> int:
        """Dimension of the searched space."""
        return self.parts[0].search_dimension(active) - len(self.rows[0])

    def project(self, v: Vector) -> Vector:
        """Multiply P and a vector."""
        return self.parts[0].project(add_scaled(v, -1.0, combine(self.rows, coefficients(self.rows, v))))

    def product(self, v: Vector) -> Vector:
        """Multiply P A P and a vector; the caller counts."""
        return self.project(self.parts[0].product(self.project(v)))
