"""A symmetric linear map on a pytree of parameters: what every operator of this package is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import (
    Basis,
    Float,
    Layout,
    PyTree,
    Vector,
    flatten,
    from_tangent,
    generator,
    random_normal,
    row,
    tangent,
    unflatten,
)
from hessian_probe.operators.dense import symmetric_matrix
from hessian_probe.operators.self_check import OperatorCheck, check_products
from hessian_probe.operators.thresholds import CHECK_TOLERANCE
from hessian_probe.results import Cost

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class SymmetricOperator:
    """A symmetric linear map A on pytrees like params, known by its products; made by functions, not by hand.

    `hp.hessian`, `hp.gauss_newton` and `hp.linear_map` return one, and so do the methods below.  Whatever
    takes an operator (`hp.eigsh`, `hp.trace`, …) takes any of them.

    Attributes:
        layout: layout of the parameters.
        active: for each variable leaf, whether the map reads it; elsewhere it is zero.
        size: number of scalar variables n; the map is n by n.
        dtype: lowest precision among the variables.
        eps: relative spacing of the coarsest numbers that are computed with; sets every tolerance.
        x: the variables at which the map is taken.
        non_variables: the arrays of params that are not varied.
        cost: what was computed so far, the products of the self-check left out.
        unchecked: the self-check has not been made; the first product makes it.
    """

    def __init__(
        self,
        layout: Layout,
        x: Vector,
        non_variables: tuple[Any, ...],
        *,
        active: tuple[bool, ...] | None = None,
        eps: float | None = None,
        cost: Cost | None = None,
    ) -> None:
        self.layout, self.x, self.non_variables = layout, x, non_variables
        self.active = tuple(bool(np.prod(s)) for s in layout.shapes) if active is None else active
        self.size, self.dtype = layout.size, layout.dtype
        self.eps = float(jnp.finfo(layout.dtype).eps) if eps is None else eps
        self.cost = Cost() if cost is None else cost
        self.unchecked = False

    @property
    def precision(self) -> str:
        """Precision of the parameters and, where products are computed in less, that too."""
        return np.dtype(self.dtype).name

    @property
    def num_hvps(self) -> int:
        """Products computed so far, those of the self-check left out."""
        return self.cost.num_hvps

    @property
    def suspect(self) -> str:
        """Where the self-check seeks the cause of a defect: in the "loss", its "batches", or a "matvec"."""
        return "loss"

    @property
    def check_tolerance(self) -> float:
        """Largest relative defect that the self-check allows."""
        return CHECK_TOLERANCE

    def search_dimension(self, active: tuple[bool, ...]) -> int:
        """Dimension of the searched space: the variables of active leaves, without a given null space."""
        flags = zip(active, self.layout.shapes, strict=True)
        return int(sum(np.prod(shape, dtype=np.int64) for on, shape in flags if on))

    def project(self, v: Vector) -> Vector:
        """Project onto the searched space: the complement of a null space, if one is given."""
        return v

    def product(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space; the caller counts."""
        raise NotImplementedError

    def product_again(self, v: Vector) -> Vector:
        """Multiply a vector with everything read and computed a second time; the caller counts."""
        return self.product(v)

    def apply(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space, after the self-check if it has not been made."""
        if self.unchecked:
            self.check().require()
        self.cost.add(hvps=1)
        return self.product(v)

    def __call__(self, v: PyTree) -> PyTree:
        """Multiply: a pytree like params in, a pytree like params out (at least float32).

        Args:
            v: pytree like params.

        Returns:
            The product A·v.

        Raises:
            ValueError: structure or shapes of `v` are not those of params.
        """
        return tangent(self.layout, self.apply(from_tangent(self.layout, v, "v")), self.non_variables)

    def check(self) -> OperatorCheck:
        """Check that products are repeatable, symmetric and linear.

        Returns:
            The relative defects; call `require()` on them to raise on a failure.

        Cost:
            Four products, which are not counted; for a Hessian one more linearisation of the gradient.

        >>> import hessian_probe as hp
        >>> hp.hessian(lambda x: jnp.sum(x**3), jnp.ones(2)).check().cause
        ''
        """
        self.unchecked = False
        rng = generator()
        u, v = (random_normal(rng, self.layout, self.active) for _ in range(2))
        return check_products(
            u, v, self.product, self.product_again, tolerance=self.check_tolerance, suspect=self.suspect
        )

    def dense(self, *, max_bytes: int | None = None) -> Float[np.ndarray, "n n"]:
        """Form the whole matrix.

        Args:
            max_bytes: refuse above this many bytes; None means a quarter of the free memory.

        Returns:
            The symmetric part, float64, shape (n, n); variables in the order of `jax.tree.leaves`.

        Raises:
            MemoryError: the matrix does not fit; the message says how many bytes it needs.

        Cost:
            n products and 8 n² bytes.

        >>> import hessian_probe as hp
        >>> hp.hessian(lambda x: x[0] * x[1], jnp.ones(2)).dense().tolist()
        [[0.0, 1.0], [1.0, 0.0]]
        """
        return symmetric_matrix(self.layout, self._block, max_bytes)

    def _block(self, vectors: Basis) -> Basis:
        """Products with the rows of a basis."""
        rows = [self.apply(row(vectors, index)) for index in range(len(vectors[0]))]
        return tuple(jnp.stack(leaf) for leaf in zip(*rows, strict=True))

    def to_scipy(self) -> LinearOperator:
        """Return a `scipy.sparse.linalg.LinearOperator` on flat float64 arrays of shape (n,).

        >>> import hessian_probe as hp
        >>> hp.hessian(lambda x: jnp.sum(x**3), jnp.ones(2)).to_scipy().matvec(np.ones(2))
        array([6., 6.])
        """
        from scipy.sparse.linalg import LinearOperator

        def matvec(flat: np.ndarray) -> np.ndarray:
            return flatten(self.apply(unflatten(self.layout, jnp.ravel(jnp.asarray(flat)))))

        return LinearOperator((self.size, self.size), matvec=matvec, rmatvec=matvec, dtype=np.float64)

    def _described(self) -> str:
        """How products are computed, for printing; empty where there is nothing to say."""
        return ""

    def __repr__(self) -> str:
        parts = (np.dtype(self.dtype).name, self._described(), f"{self.num_hvps} products so far")
        return f"{type(self).__name__}({', '.join(filter(None, parts))}; {self.layout})"


def require_operator(op: Any) -> None:
    """Refuse what is no operator.

    Raises:
        TypeError: `op` is none.
    """
    if not isinstance(op, SymmetricOperator):
        raise TypeError(
            f"op is a {type(op).__name__}; expected an operator, as hp.hessian(loss, params, data), "
            "hp.gauss_newton or hp.linear_map(matvec, like) return it"
        )
