"""The search of `saddle_search`, without random restarts, compiled for the host; `Monitor` probes with it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Identity, Layout, PyTree, Vector, add_scaled, cast, merge, split, widest
from hessian_probe.operators.data import Batch, Data
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.tracing import FORWARD, LossKey
from hessian_probe.results import Cost
from hessian_probe.training.descent import DescentState, descend
from hessian_probe.training.saddle_search import LocalLoss, SearchResult

# Products of a search with products, as in `escape_saddles`.
NUM_PRODUCTS = 16


class CompiledSearch:
    """Search for a lower loss that training does not reach by itself, and descend from lower points.

    Args:
        objective: the loss, at parameters of the layout that will be searched around.
    """

    def __init__(self, objective: Objective) -> None:
        self._loss, self._layout = objective.loss, objective.layout
        self._has_products = objective.route is FORWARD

    def __call__(
        self,
        params: PyTree,
        batch: PyTree,
        cost: Cost,
        *,
        key: jax.Array,
        decrease: float,
        with_products: bool,
    ) -> PyTree | None:
        """Return a lower point by `LocalLoss.search`, with products where the loss has any, or None."""
        layout, x, rest, data = self._read(params, batch)
        products = self._num_products(with_products)
        bar = jnp.asarray(decrease, widest(layout.work_dtypes))
        found = _search(self._loss, layout, data.layout, products, x, rest, data.arrays, key, bar)
        cost.add(hvps=int(found.num_hvps), gradients=int(found.num_gradients), losses=int(found.num_losses))
        return _moved(layout, x, found.step, rest) if float(found.gain) > 0 else None

    def continue_from(self, params: PyTree, lower: PyTree, batch: PyTree, cost: Cost) -> PyTree | None:
        """Continue downhill from a lower point, see `descend`; None where nothing is lower."""
        layout, x, rest, data = self._read(params, batch)
        there = self._variables(lower)[1]
        step = add_scaled(cast(there, layout.work_dtypes), -1.0, cast(x, layout.work_dtypes))
        found = _descend(self._loss, layout, data.layout, x, rest, data.arrays, step)
        cost.add(gradients=int(found.num_passes), losses=int(found.num_losses) + 2)
        return _moved(layout, x, found.step, rest) if int(found.num_passes) > 1 else None

    def price(self, with_products: bool) -> float:
        """Gradients that a search which finds nothing costs at most."""
        local = LocalLoss(_function(self._loss), self._layout, (), (), None, None)
        products = self._num_products(with_products)
        return local.price(products, products > 0)

    def _num_products(self, with_products: bool) -> int:
        return NUM_PRODUCTS if with_products and self._has_products else 0

    def _read(self, params: PyTree, batch: PyTree) -> tuple[Layout, Vector, Any, Batch]:
        return *self._variables(params), next(iter(Data(batch)))

    def _variables(self, params: PyTree) -> tuple[Layout, Vector, Any]:
        """Split parameters like those of the objective: Python numbers may have to stay numbers."""
        found = split(params)
        if found[0].kinds != self._layout.kinds:
            found = split(params, static_numbers=True)
        return found


def _function(loss: LossKey) -> Any:
    return loss.function.value if isinstance(loss.function, Identity) else loss.function


def _local_loss(
    loss: LossKey, layout: Layout, batch_layout: Any, x: Vector, rest: Any, arrays: Any
) -> LocalLoss:
    batch = None if batch_layout is None else merge(batch_layout, (), arrays)
    work = layout.work_dtypes
    return LocalLoss(_function(loss), layout, cast(x, work), rest, batch, widest(work))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _search(
    loss: LossKey,
    layout: Layout,
    batch_layout: Any,
    products: int,
    x: Vector,
    rest: Any,
    arrays: Any,
    key: jax.Array,
    decrease: jax.Array,
) -> SearchResult:
    local = _local_loss(loss, layout, batch_layout, x, rest, arrays)
    return local.search(key, decrease, products, jnp.ones((), jnp.bool_))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(
    loss: LossKey, layout: Layout, batch_layout: Any, x: Vector, rest: Any, arrays: Any, step: Vector
) -> DescentState:
    local = _local_loss(loss, layout, batch_layout, x, rest, arrays)
    with jax.default_matmul_precision("highest"):
        before, value = local.value(local.x), local.value(add_scaled(local.x, 1.0, step))
        return descend(local.value, local.x, before, step, value, value < before)


def _moved(layout: Layout, x: Vector, step: Vector, rest: Any) -> PyTree:
    there = add_scaled(cast(x, layout.work_dtypes), 1.0, step)
    return merge(layout, cast(there, layout.dtypes), rest)
