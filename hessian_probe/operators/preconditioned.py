"""A Hessian as an optimiser sees it: scaled by each variable's step, and shifted."""

from __future__ import annotations

import jax.numpy as jnp

from hessian_probe.arrays import Basis, Vector
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.symmetric import SymmetricOperator


class PreconditionedOperator(HessianOperator):
    """The map v ↦ D^½ H D^½ v + K v with diagonal D ≥ 0 and K.

    It is similar to D H + K where D > 0, so its eigenvalues are those that an update x − (D∇f + Kx)
    meets, and it is symmetric.

    Args:
        op: the Hessian; its stored linearisation is shared.
        gain: the diagonal of D, a vector without negative entries.
        shift: the diagonal of K; None means zero.
    """

    def __init__(self, op: HessianOperator, gain: Vector, shift: Vector | None = None) -> None:
        super().__init__(op.objective, op.x)
        self.cost = op.cost.part()
        self._op, self.gain, self.shift = op, gain, shift
        self._root = tuple(jnp.sqrt(leaf) for leaf in gain)

    def at(self, x: Vector) -> PreconditionedOperator:
        """Return the same scaling of the Hessian at other variables."""
        return type(self)(self._op.at(x), self.gain, self.shift)

    def product(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space; the caller counts."""
        product = self._op.product(tuple(r * leaf for r, leaf in zip(self._root, v, strict=True)))
        scaled = tuple(r * leaf for r, leaf in zip(self._root, product, strict=True))
        if self.shift is None:
            return scaled
        return tuple(s + k * leaf for s, k, leaf in zip(scaled, self.shift, v, strict=True))

    def _block(self, vectors: Basis) -> Basis:
        return SymmetricOperator._block(self, vectors)
