"""A user's own symmetric map as an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hessian_probe.arrays import PyTree, Vector, from_tangent, split, tangent
from hessian_probe.operators.symmetric import SymmetricOperator


def linear_map(
    matvec: Callable[[PyTree], PyTree], like: PyTree, *, trainable: Any = None, check: bool = True
) -> LinearMap:
    """Make a symmetric map on pytrees an operator.

    Args:
        matvec: function of a pytree like `like` that returns its product, another one; linear and symmetric.
            Leaves that are no variables are zeros in both.  It is called as it is, with arrays in at least
            float32: compile it yourself (`jax.jit`) where that helps.
        like: pytree with the structure, shapes and dtypes of the vectors; its numbers do not matter.
        trainable: which leaves are variables, as for `hp.hessian`.
        check: at the first product, check that products are repeatable, symmetric and linear.

    Returns:
        The operator; whatever takes an operator of this package takes it.

    Raises:
        TypeError: `matvec` is not callable; a leaf is complex, or asked for and not floating-point.
        ValueError: `like` has no variable; `trainable` does not fit it.  At a product, matvec returned
            another structure or other shapes than `like`.  At the first product also `OperatorCheckError`,
            where the map is not repeatable, symmetric or linear.

    Cost:
        Four products for the check, at the first use.

    Examples:
        >>> import jax.numpy as jnp
        >>> import hessian_probe as hp
        >>> swap = hp.linear_map(lambda v: {"a": v["b"], "b": v["a"]}, {"a": jnp.ones(2), "b": jnp.ones(2)})
        >>> hp.eigsh(swap, lowest=2, highest=2).eigenvalues.round(6).tolist()
        [-1.0, -1.0, 1.0, 1.0]
    """
    if not callable(matvec):
        raise TypeError(f"matvec must be a function of a pytree; got {type(matvec).__name__}")
    layout, variables, non_variables = split(like, trainable=trainable)
    op = LinearMap(layout.require_variables(), variables, non_variables)
    op.matvec, op.unchecked = matvec, check
    return op


class LinearMap(SymmetricOperator):
    """A user's symmetric map, as `linear_map` returns it.

    Attributes:
        matvec: the user's function.
    """

    matvec: Callable[[PyTree], PyTree]

    @property
    def suspect(self) -> str:
        """Where the self-check seeks the cause of a defect."""
        return "matvec"

    def product(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space; the caller counts."""
        found = self.matvec(tangent(self.layout, v, self.non_variables))
        return from_tangent(self.layout, found, "what matvec returned")
