"""A symmetric map as an optimiser sees it: scaled by each variable's step, and shifted."""

from __future__ import annotations

import jax.numpy as jnp

from hessian_probe.arrays import Vector
from hessian_probe.operators.symmetric import DerivedOperator, SymmetricOperator


class PreconditionedOperator(DerivedOperator):
    """The map v ↦ D^½ A D^½ v + K v with diagonal D ≥ 0 and K; `hp.precondition` returns P^-½ A P^-½.

    It is similar to D A + K where D > 0, so for a Hessian its eigenvalues are those that an update
    x − (D∇f + Kx) meets, and it is symmetric.

    Args:
        op: the map A, for instance a Hessian, whose stored linearisation is shared.
        gain: the diagonal of D, a vector without negative entries.
        shift: the diagonal of K; None means zero.
        formula: what P is, in words; "" for none.
    """

    def __init__(
        self, op: SymmetricOperator, gain: Vector, shift: Vector | None = None, formula: str = ""
    ) -> None:
        super().__init__([op])
        self.gain, self.shift, self.formula = gain, shift, formula
        self._root = tuple(jnp.sqrt(leaf) for leaf in gain)

    def product(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space; the caller counts."""
        (op,) = self.parts
        product = op.product(tuple(r * leaf for r, leaf in zip(self._root, v, strict=True)))
        scaled = tuple(r * leaf for r, leaf in zip(self._root, product, strict=True))
        if self.shift is None:
            return scaled
        return tuple(s + k * leaf for s, k, leaf in zip(scaled, self.shift, v, strict=True))

    def _described(self) -> str:
        return f"P = {self.formula}" if self.formula else ""
