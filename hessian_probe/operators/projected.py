"""A symmetric map restricted to the complement of a few orthonormal vectors."""

from __future__ import annotations

from hessian_probe.arrays import Basis, Vector, add_scaled, coefficients, combine
from hessian_probe.operators.symmetric import SymmetricOperator


class ProjectedOperator(SymmetricOperator):
    """P A P, where P projects onto the complement of k orthonormal rows.

    Args:
        op: the map A.
        rows: the orthonormal vectors, a basis of k rows.
    """

    def __init__(self, op: SymmetricOperator, rows: Basis) -> None:
        super().__init__(op.layout, op.x, op.non_variables, active=op.active, eps=op.eps, cost=op.cost.part())
        self._op, self.rows = op, rows

    def search_dimension(self, active: tuple[bool, ...]) -> int:
        """Dimension of the searched space."""
        return self._op.search_dimension(active) - len(self.rows[0])

    def project(self, v: Vector) -> Vector:
        """Multiply P and a vector."""
        return self._op.project(add_scaled(v, -1.0, combine(self.rows, coefficients(self.rows, v))))

    def product(self, v: Vector) -> Vector:
        """Multiply P A P and a vector; the caller counts."""
        return self.project(self._op.product(self.project(v)))
