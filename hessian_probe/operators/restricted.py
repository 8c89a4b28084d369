"""A Hessian restricted to the complement of a null space that the user knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import (
    Basis,
    Float,
    PyTree,
    Vector,
    add_scaled,
    coefficients,
    combine,
    flatten,
    flatten_rows,
    from_tangent,
    merge,
    unflatten_rows,
)
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.thresholds import INDEPENDENT

Generator = Callable[[PyTree], PyTree]
NullSpace = PyTree | Generator | Sequence[Generator]


class NullDirections:
    """A user's null space, at any parameters.

    Args:
        objective: the loss.
        given: a pytree like params with a leading axis of k vectors; or one generator of a symmetry or
            several, functions from params to a pytree like them.

    Raises:
        TypeError: neither vectors nor functions.
        ValueError: structure or shapes are not those of params; an entry is not finite; all are zero.
    """

    def __init__(self, objective: Objective, given: NullSpace) -> None:
        self.objective = objective
        self.generators: tuple[Generator, ...] = ()
        if callable(given):
            self.generators = (given,)
        elif isinstance(given, list | tuple) and given and all(map(callable, given)):
            self.generators = tuple(given)
        self.fixed = not self.generators  # whether the directions are the same everywhere
        self._rows = self._vectors(given) if self.fixed else np.zeros((0, 0))
        self.basis(objective.variables)

    def generator(self, index: int, x: Vector) -> Vector:
        """One generator's direction at x."""
        layout = self.objective.layout
        found = self.generators[index](merge(layout, x, self.objective.non_variables))
        return self._active(from_tangent(layout, found, "null_space's generator"))

    def name(self, index: int) -> str:
        """Name of a direction in messages."""
        if self.fixed:
            return f"null_space[{index}]"
        return f"generator {index} of null_space ({getattr(self.generators[index], '__name__', 'unnamed')})"

    def directions(self, x: Vector) -> Float[np.ndarray, "k n"]:
        """The directions at x as given, of unit length (or zero), as float64 rows."""
        rows = self._rows
        if self.generators:
            rows = np.stack([flatten(self.generator(i, x)) for i in range(len(self.generators))])
        if not np.all(np.isfinite(rows)):
            raise ValueError("null_space holds a NaN or an infinity; give finite directions")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1.0)

    def basis(self, x: Vector) -> Basis:
        """Orthonormal basis of the directions at x, as rows."""
        layout = self.objective.layout
        _, sizes, axes = np.linalg.svd(self.directions(x), full_matrices=False)
        kept = sizes > INDEPENDENT * max(float(np.max(sizes, initial=0.0)), 1e-300)
        if not np.any(kept & (sizes > 0)):
            raise ValueError(
                "null_space holds only zero vectors at these parameters; give at least one direction"
            )
        flags = zip(self.objective.active, layout.shapes, strict=True)
        if np.sum(kept) >= sum(int(np.prod(shape)) for on, shape in flags if on):
            raise ValueError(
                "null_space spans all variables that the loss reads; nothing is left to classify"
            )
        return unflatten_rows(layout, axes[kept])

    def _vectors(self, given: PyTree) -> Float[np.ndarray, "k n"]:
        """Read vectors, without their entries along leaves that the loss ignores."""
        leaves = jax.tree.leaves(given)
        if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
            raise TypeError(
                "null_space must be vectors (a pytree like params with a leading axis) or functions of "
                f"params; got {type(given).__name__}"
            )
        counts = {np.shape(leaf)[0] for leaf in leaves if np.ndim(leaf)}
        if len(counts) != 1 or any(np.ndim(leaf) == 0 for leaf in leaves):
            raise ValueError(
                f"null_space's leaves have leading axes {sorted(counts)}; expected one for all, the number "
                "of vectors (a single vector v: jax.tree.map(lambda leaf: leaf[None], v))"
            )
        rows = []
        for index in range(counts.pop()):
            one = jax.tree.map(lambda leaf, i=index: leaf[i], given)
            vector = self._active(from_tangent(self.objective.layout, one, f"null_space[{index}]"))
            rows.append(flatten(vector))
        if not rows:
            raise ValueError("null_space holds no vector; leave it out or give at least one")
        return np.stack(rows)

    def _active(self, vector: Vector) -> Vector:
        flags = zip(vector, self.objective.active, strict=True)
        return tuple(leaf if on else jnp.zeros_like(leaf) for leaf, on in flags)


class RestrictedHessian(HessianOperator):
    """P H P, where P projects onto the complement of k given directions.

    Attributes:
        null: the directions.
        null_basis: their orthonormal basis here, k rows.
    """

    def __init__(
        self,
        objective: Objective,
        null: NullDirections,
        x: Vector | None = None,
        *,
        max_residual_bytes: int | None = None,
    ) -> None:
        super().__init__(objective, x, max_residual_bytes=max_residual_bytes)
        self.null = null
        self.null_basis = null.basis(self.x)

    def _like(self, objective: Objective, x: Vector) -> RestrictedHessian:
        """The same restriction, with the generators' directions at x."""
        return type(self)(objective, self.null, x, max_residual_bytes=self._max_residual_bytes)

    @property
    def complement(self) -> Float[np.ndarray, "n m"]:
        """Orthonormal basis of the space searched, by column, shape (n, n − k)."""
        rows = flatten_rows(self.null_basis)
        return np.linalg.qr(rows.T, mode="complete")[0][:, len(rows) :]

    def search_dimension(self, active: tuple[bool, ...]) -> int:
        """Dimension of the searched space."""
        return super().search_dimension(active) - len(self.null_basis[0])

    def project(self, v: Vector) -> Vector:
        """Multiply P and a vector."""
        return add_scaled(v, -1.0, combine(self.null_basis, coefficients(self.null_basis, v)))

    def product(self, v: Vector) -> Vector:
        """Multiply P H P and a vector; the caller counts."""
        return self.project(super().product(self.project(v)))

    def multiply_whole(self, v: Vector) -> Vector:
        """Multiply H itself and a vector."""
        self.cost.add(hvps=1)
        return super().product(v)
