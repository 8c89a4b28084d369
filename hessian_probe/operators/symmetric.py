"""A symmetric linear map on a pytree of parameters: what every operator of this package is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import (
    Basis,
    Float,
    Layout,
    PyTree,
    Vector,
    add_scaled,
    flatten,
    from_tangent,
    generator,
    random_normal,
    row,
    scale,
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

    `hp.hessian`, `hp.gauss_newton` and `hp.linear_map` return one.  Sums `A + B`, differences `A - B`
    (the residual of Gauss–Newton is `H - G`), multiples `2 * A`, `A / 2`, `-A` and `A.shifted(sigma)` are
    operators again.  Whatever takes an operator (`hp.eigsh`, `hp.trace`, …) takes any of them.

    A product of a combination counts as one there, and as one more of each operator that it is made of.

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

    def product_rows(self, vectors: Basis) -> Basis:
        """Multiply every row of a basis; the caller counts."""
        rows = [self.product(row(vectors, index)) for index in range(len(vectors[0]))]
        return tuple(jnp.stack(leaf) for leaf in zip(*rows, strict=True))

    def require_checked(self) -> None:
        """Make the self-check if it has not been made."""
        if self.unchecked:
            self.check().require()

    def apply(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space, after the self-check if it has not been made."""
        self.require_checked()
        self.cost.add(hvps=1)
        return self.product(v)

    def apply_rows(self, vectors: Basis) -> Basis:
        """Multiply every row of a basis, as `apply` does."""
        self.require_checked()
        self.cost.add(hvps=len(vectors[0]))
        return self.product_rows(vectors)

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
        return symmetric_matrix(self.layout, self.apply_rows, max_bytes)

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

    # NumPy's numbers leave `number * operator` to the operator.
    __array_ufunc__ = None

    def shifted(self, sigma: float) -> LinearCombination:
        """Return A + σI, on all variables.

        Raises:
            TypeError: sigma is no real number.
            ValueError: sigma is not finite.

        >>> import hessian_probe as hp
        >>> hp.hessian(lambda x: x[0] ** 2, jnp.ones(2)).shifted(-0.5).dense().tolist()
        [[1.5, 0.0], [0.0, -0.5]]
        """
        return LinearCombination([(1.0, self)], _finite_number(sigma, "sigma"))

    def __add__(self, other: SymmetricOperator) -> LinearCombination:
        return self._plus(other, 1.0)

    def __sub__(self, other: SymmetricOperator) -> LinearCombination:
        return self._plus(other, -1.0)

    def __neg__(self) -> LinearCombination:
        return self * -1.0

    def __mul__(self, factor: float) -> LinearCombination:
        if isinstance(factor, SymmetricOperator):
            raise TypeError("a product of two operators need not be symmetric; expected a number times one")
        return LinearCombination([(_finite_number(factor, "the factor"), self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> LinearCombination:
        return self * (1.0 / _finite_number(divisor, "the divisor"))

    def _plus(self, other: Any, sign: float) -> LinearCombination:
        if not isinstance(other, SymmetricOperator):
            raise TypeError(
                f"an operator and a {type(other).__name__} have no sum; expected another operator: a "
                "multiple of the identity is added by op.shifted(sigma)"
            )
        return LinearCombination([(1.0, self), (sign, other)])

    def _described(self) -> str:
        """How products are computed, for printing; empty where there is nothing to say."""
        return ""

    def __repr__(self) -> str:
        parts = (np.dtype(self.dtype).name, self._described(), f"{self.num_hvps} products so far")
        return f"{type(self).__name__}({', '.join(filter(None, parts))}; {self.layout})"


class DerivedOperator(SymmetricOperator):
    """A map that is computed from products with others, its parts; it has their ledgers, too.

    Args:
        parts: the operators, all of one layout; one that a product uses k times is entered k times.

    Attributes:
        parts: each operator once.
    """

    def __init__(
        self,
        parts: Sequence[SymmetricOperator],
        *,
        layout: Layout | None = None,
        x: Vector | None = None,
        non_variables: tuple[Any, ...] | None = None,
        active: tuple[bool, ...] | None = None,
    ) -> None:
        first = parts[0]
        read = tuple(map(any, zip(*(part.active for part in parts), strict=True)))
        super().__init__(
            first.layout if layout is None else layout,
            first.x if x is None else x,
            first.non_variables if non_variables is None else non_variables,
            active=read if active is None else active,
            eps=max(p.eps for p in parts),
            cost=Cost(wholes=tuple(p.cost for p in parts)),
        )
        self.parts = tuple(dict.fromkeys(parts))

    @property
    def precision(self) -> str:
        """Lowest precision of the parts."""
        return max(self.parts, key=lambda part: part.eps).precision

    def require_checked(self) -> None:
        """Make the self-checks of those parts for which it has not been made."""
        for part in self.parts:
            part.require_checked()

    def check(self) -> OperatorCheck:
        """Check the parts; of parts that cancel each other, what is left may be rounding error alone.

        Returns:
            The relative defects of the worst part.
        """
        checks = [part.check() for part in self.parts]
        return max(checks, key=lambda c: (c.cause, c.repeatability, c.asymmetry, c.nonlinearity))


class LinearCombination(DerivedOperator):
    """Σ wᵢAᵢ + σI, as sums, differences, multiples and `shifted` return it.

    Args:
        terms: pairs of a factor and an operator; of a combination, its own terms count.
        shift: σ.

    Attributes:
        terms: pairs (wᵢ, Aᵢ); no Aᵢ is a combination.
        shift: σ.

    Raises:
        ValueError: the operators have other variables.
    """

    def __init__(self, terms: Sequence[tuple[float, SymmetricOperator]], shift: float = 0.0) -> None:
        self.terms: list[tuple[float, SymmetricOperator]] = []
        self.shift = shift
        for weight, op in terms:
            nested = op.terms if isinstance(op, LinearCombination) else [(1.0, op)]
            self.terms += [(weight * inner, part) for inner, part in nested]
            self.shift += weight * op.shift if isinstance(op, LinearCombination) else 0.0
        first, *others = (op for _, op in self.terms)
        for other in others:
            if _variables(first.layout) != _variables(other.layout):
                raise ValueError(
                    f"operators of other variables have no sum: {first.layout}, and {other.layout}; make "
                    "both with the same params and trainable="
                )
        every = tuple(bool(np.prod(shape)) for shape in first.layout.shapes)
        super().__init__([first, *others], active=every if self.shift else None)

    def product(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space; the caller counts."""
        return self._sum(v, lambda op: op.product(v))

    def product_again(self, v: Vector) -> Vector:
        """Multiply a vector with everything read and computed a second time; the caller counts."""
        return self._sum(v, lambda op: op.product_again(v))

    def product_rows(self, vectors: Basis) -> Basis:
        """Multiply every row of a basis; the caller counts."""
        return self._sum(vectors, lambda op: op.product_rows(vectors))

    def _sum(self, v: Vector, image: Callable[[SymmetricOperator], Vector]) -> Vector:
        total = scale(self.shift, v)
        for weight, op in self.terms:
            total = add_scaled(total, weight, image(op))
        return total

    def _described(self) -> str:
        text = " ".join(f"{weight:+g} {type(op).__name__}" for weight, op in self.terms)
        return text + (f" {self.shift:+g} identity" if self.shift else "")


def _variables(layout: Layout) -> tuple[Any, ...]:
    """What two layouts must share where vectors of one are those of the other."""
    kinds = tuple(kind == "variable" for kind in layout.kinds)
    return layout.treedef, kinds, layout.shapes, layout.work_dtypes


def _finite_number(value: Any, name: str) -> float:
    """Return a real number, or an array that holds one."""
    if not (isinstance(value, Real) or (hasattr(value, "dtype") and np.shape(value) == ())):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a real number")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{name} is {number}; expected a finite number")
    return number


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
