"""Products and gradients batch by batch, and the Hessian of some of the batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np

from hessian_probe.arrays import Float, Vector, dot
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.results import Cost


def select_batches(op: HessianOperator, start: int, step: int) -> HessianOperator:
    """Return the Hessian of the mean over every `step`-th batch from `start` on, at the same parameters.

    A stored linearisation is shared, not computed again.  The products are entered in a ledger of their own;
    `charge_share` enters them in that of the whole.
    """
    objective = copy.copy(op.objective)
    objective.data = op.objective.data.part(start, step)
    objective.cost = Cost()
    return op.sharing(objective, slice(start, None, step))


def charge_share(op: HessianOperator, parts: Sequence[HessianOperator]) -> None:
    """Enter the products of parts in the whole's ledger: each costs its share of the batches; rounded up."""
    whole = op.objective.data.count
    spent = sum(p.objective.cost.num_hvps * p.objective.data.count / whole for p in parts)
    op.cost.add(hvps=math.ceil(spent))
    for one in parts:
        one.objective.cost.clear()


def rayleigh_quotients(
    op: HessianOperator, vectors: Sequence[Vector]
) -> tuple[Float[np.ndarray, " batches"], Float[np.ndarray, "batches vectors"]]:
    """Rayleigh quotients vᵀH_b v of unit vectors on every batch b.

    Returns:
        Weights of the batches, shape (batches,), of sum 1; quotients, shape (batches, vectors).

    Cost:
        One product a vector, and one pass over the data.
    """
    weights, rows = [], []
    for weight, product in op.batch_products():
        weights.append(weight)
        rows.append([dot(v, product(v)) for v in vectors])
    op.cost.add(hvps=len(vectors))
    return np.array(weights), np.array(rows, np.float64).reshape(len(weights), len(vectors))


def batch_gradients(op: HessianOperator) -> Iterator[tuple[float, Vector]]:
    """Weight and gradient of every batch at the operator's parameters; one evaluation in all."""
    op.cost.add(gradients=1)
    for batch in op.objective.data:
        yield batch.weight, op.objective.gradient_of(batch, op.x)[1]
