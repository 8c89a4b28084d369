"""What makes two problems the same: loss, layout, parameters and data, each as a short print."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.operators.data import Batch, Data
from hessian_probe.operators.hessian import HessianOperator


def digest(arrays: Iterable[Any]) -> str:
    """Digest of arrays with their dtypes and shapes (random keys by their bits)."""
    total = hashlib.blake2b(digest_size=16)
    for leaf in arrays:
        keys = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        array = np.asarray(jax.random.key_data(leaf) if keys else leaf)
        total.update(f"{array.dtype.name}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def fingerprint(op: HessianOperator) -> dict[str, Any]:
    """Describe the problem that an operator belongs to.

    Args:
        op: the operator, at its parameters.

    Returns:
        "layout", "params", "loss" and "data", as JSON can hold them.

    Cost:
        One pass over the data and the parameters.
    """
    layout = op.layout
    structure = re.sub(r"0x[0-9a-f]+", "", str(layout.treedef))
    return {
        "layout": [structure, list(map(list, layout.shapes)), list(layout.dtypes)],
        "params": digest((*op.x, *op.objective.non_variables)),
        "loss": op.objective.loss.fingerprint,
        "data": _data(op.objective.data),
    }


def _data(data: Data) -> dict[str, Any]:
    """Print of the data; of what may be shuffled from pass to pass, what no shuffling changes."""
    if data.source is None:
        return {}
    if data.is_single or isinstance(data.source, list):
        return {"prints": [digest((*batch.arrays, np.float64(batch.weight))) for batch in data]}
    batches = list(map(_samples, data))
    weights = list(getattr(data.source, "weights", ()))
    return {"batches": len(batches), "samples": sum(batches) % 2**128, "weights": weights}


def _samples(batch: Batch) -> int:
    """Sum of the digests of a batch's samples: the same in any order, in any batches."""
    leaves = [np.asarray(leaf) for leaf in batch.arrays if np.ndim(leaf)]
    count = len(leaves[0]) if leaves else 0
    rows = [leaf for leaf in leaves if len(leaf) == count]
    return sum(int(digest(leaf[index] for leaf in rows), 16) for index in range(count))
