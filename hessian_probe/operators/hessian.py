"""The Hessian of a loss as a symmetric linear map on the parameters' pytree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hessian_probe.arrays import Basis, PyTree, Vector, add_scaled, cast, tangent
from hessian_probe.operators import derivatives, memory
from hessian_probe.operators.objective import Objective, accumulate
from hessian_probe.operators.symmetric import SymmetricOperator
from hessian_probe.operators.thresholds import CHECK_TOLERANCE, CHECK_TOLERANCE_DIFFERENCES, MEMORY_SHARE
from hessian_probe.operators.tracing import DIFFERENCES, FORWARD


def hessian(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
    max_residual_bytes: int | None = None,
    check: bool = True,
) -> HessianOperator:
    """Make the Hessian of a loss a linear map.

    `op(v)` is ∇²loss(params)·v.  With data in batches, loss and Hessian are the means over all
    batches, weighted by sample count.  The gradient is linearised once and reused for every product
    where its residuals fit in memory; otherwise each product recomputes it.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; the leaves that are not varied are passed on as they are.
        data: None, one batch (array, tuple, dict, registered pytree), or a list or other re-iterable
            of batches.  A batch weighs as many samples as the leading axis of its arrays;
            `Batches(batches, weights)` overrides that, and is needed where batches differ in size and their
            arrays disagree on that axis (sparse matrices, graphs, padded samples).
        trainable: which leaves are varied.  None: floating-point arrays, without those that a framework keeps
            beside what it trains (batch statistics, caches, random state); no Python numbers.  A function
            of (leaf), such as `eqx.is_inexact_array`, or of (path, leaf), the path as it is printed
            ("params['w'][0]"): the leaves for which it returns True.  A mask, a pytree prefix of booleans as
            for `optax.masked`: True at a leaf asks for it, True above several for those that None takes.
        max_residual_bytes: memory that the stored linearisation may take, in bytes; None means a
            quarter of what is free, 0 recomputes always.
        check: at the first product, check that products are repeatable, symmetric and linear.

    Returns:
        The operator, at `params`.

    Raises:
        TypeError: `loss` is not callable or returns no real scalar; a leaf is complex, or asked for and not
            floating-point; data can be read only once.
        ValueError: `params` has no variable; `trainable` does not fit it; data is empty or irregular.  At the
            first product also `OperatorCheckError`, which names the likely cause of a failed check.

    Cost:
        One gradient with its linearisation, and four products for the check, at the first use; then
        a product is about 1.2 gradients where stored, 1.7 where recomputed.

    Source:
        B. A. Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6, 1994,
        doi:10.1162/neco.1994.6.1.147.

    Examples:
        >>> import jax.numpy as jnp
        >>> op = hessian(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]))
        >>> op(jnp.ones(2)).tolist()
        [6.0, 12.0]
        >>> op.dense().tolist()
        [[6.0, 0.0], [0.0, 12.0]]
    """
    op = HessianOperator(
        Objective(loss, params, data, trainable=trainable), max_residual_bytes=max_residual_bytes
    )
    op.unchecked = check
    return op


class HessianOperator(SymmetricOperator):
    """A Hessian at fixed parameters, as `hessian` returns it.

    Attributes:
        objective: the loss with its data; its ledger holds the costs of all its operators.
    """

    def __init__(
        self, objective: Objective, x: Vector | None = None, *, max_residual_bytes: int | None = None
    ) -> None:
        super().__init__(
            objective.layout,
            objective.variables if x is None else x,
            objective.non_variables,
            active=objective.active,
            eps=objective.eps,
            cost=objective.cost.part(),
        )
        self.objective = objective
        self._max_residual_bytes = max_residual_bytes
        self._found: tuple[float, Vector] | None = None
        self._maps: list[tuple[float, Any]] | None = None

    @property
    def route(self) -> str:
        """How products are computed: which derivatives, and whether the linearisation is stored."""
        self._prepare()
        kind = "linearised once" if self._maps is not None else "recomputed for every product"
        return f"{self.objective.route.name}, {kind}"

    @property
    def precision(self) -> str:
        """Precision of the parameters and, where the loss computes in less, that too."""
        return self.objective.precision

    @property
    def check_tolerance(self) -> float:
        """Largest relative defect that the self-check allows."""
        exact = self.objective.route is not DIFFERENCES
        return CHECK_TOLERANCE if exact else CHECK_TOLERANCE_DIFFERENCES

    @property
    def suspect(self) -> str:
        """Where the self-check seeks the cause of a defect."""
        return "batches" if self.objective.data.is_sequence else "loss"

    @property
    def accuracy(self) -> str:
        """Accuracy of the products, in words."""
        return self.objective.route.accuracy

    @property
    def evaluated(self) -> bool:
        """Whether loss and gradient have been computed."""
        return self._found is not None

    @property
    def value(self) -> float:
        """Loss at the operator's parameters."""
        return self._prepare()[0]

    @property
    def gradient_vector(self) -> Vector:
        """Gradient at the operator's parameters, as a vector."""
        return self._prepare()[1]

    @property
    def gradient(self) -> PyTree:
        """Gradient at the operator's parameters, a pytree like them, in loss / params."""
        return tangent(self.layout, self.gradient_vector, self.objective.non_variables)

    @property
    def x_vector(self) -> Vector:
        """Variables in working dtypes."""
        return cast(self.x, self.layout.work_dtypes)

    def moved(self, step: Vector, factor: Any = 1.0) -> HessianOperator:
        """Return the same Hessian after a step, a multiple of a vector."""
        return self.at(add_scaled(self.x_vector, factor, step))

    def at(self, x: Vector) -> HessianOperator:
        """Return the same Hessian at other variables (a vector); nothing is compiled again."""
        return self._like(self.objective, cast(x, self.layout.dtypes))

    def _like(self, objective: Objective, x: Vector) -> HessianOperator:
        """An operator with the same options."""
        return type(self)(objective, x, max_residual_bytes=self._max_residual_bytes)

    def product(self, v: Vector) -> Vector:
        """Multiply a vector of the parameter space; the caller counts."""
        total: Vector | None = None
        for weight, product in self.batch_products():
            total = accumulate(total, weight, product(v))
        assert total is not None
        return total

    def product_again(self, v: Vector) -> Vector:
        """Multiply with the gradient linearised and the data read a second time; the caller counts."""
        return self.at(self.x).product(v)

    def batch_products(self) -> Iterator[tuple[float, Callable[[Vector], Vector]]]:
        """For each batch its weight and its product; the caller counts."""
        if self._maps is None:
            self._prepare()
        if self._maps is None:
            for batch in self.objective.data:
                yield batch.weight, self.objective.product_of(batch, self.x)
            return
        for weight, tangent_map in self._maps:
            yield weight, partial(derivatives.apply_linearized, tangent_map)

    def sharing(self, objective: Objective, batches: slice) -> HessianOperator:
        """Return the Hessian of an objective of some of the batches; stored linearisations are shared."""
        other = self._like(objective, self.x)
        if self._maps is not None:
            chosen = self._maps[batches]
            total = sum(weight for weight, _ in chosen)
            other._maps = [(weight / total, tangent_map) for weight, tangent_map in chosen]
        return other

    def product_rows(self, vectors: Basis) -> Basis:
        """Multiply every row of a basis; one compiled program where the map is stored.  The caller counts."""
        self._prepare()
        if self._maps is not None and len(self._maps) == 1:
            return derivatives.apply_to_rows(self._maps[0][1], vectors)
        return super().product_rows(vectors)

    def _described(self) -> str:
        return self.objective.route.name

    def _prepare(self) -> tuple[float, Vector]:
        """Loss and gradient, evaluated once; the linearisation is kept if it fits."""
        if self._found is None:
            stored = self._linearize() if self.objective.route is FORWARD else None
            self._found = stored or self.objective.value_and_gradient(self.x)
        return self._found

    def _linearize(self) -> tuple[float, Vector] | None:
        limit = self._max_residual_bytes
        room = memory.free_bytes() * MEMORY_SHARE if limit is None else limit
        maps, total, gradient = [], 0.0, None
        for batch in self.objective.data:
            room -= memory.tree_bytes(self.objective.abstract_linearized(batch, self.x)[2])
            if room < 0:
                return None
            value, g, tangent_map = self.objective.linearized(batch, self.x)
            total += batch.weight * float(value)
            gradient = accumulate(gradient, batch.weight, g)
            maps.append((batch.weight, tangent_map))
        self.cost.add(gradients=1)
        self._maps = maps
        assert gradient is not None
        return total, gradient
