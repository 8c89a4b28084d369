"""What makes two problems the same: loss, layout, parameters and data, each as a short print."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.operators.data import SAME_DATA, Data
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
        "params": digest((*op.x, *op.objective.rest)),
        "loss": op.objective.loss.fingerprint,
        "data": _data(op.objective.data),
    }


def _data(data: Data) -> dict[str, Any]:
    """Print of the data; of what may be shuffled from pass to pass, what no shuffling changes."""
    if data.source is None:
        return {}
    if data.is_single or isinstance(data.source, list):
        return {"prints": [digest((*batch.arrays, np.float64(batch.weight))) for batch in data]}
    sums = [[float(np.sum(np.abs(np.asarray(x, np.float64)))) for x in b.arrays if _real(x)] for b in data]
    return {"batches": len(sums), "sums": np.sum(sums, axis=0).tolist()}


def _real(leaf: Any) -> bool:
    return isinstance(leaf.dtype, np.dtype) and leaf.dtype.kind in "fiub"


def same_data(saved: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether two prints are of the same data, as far as shuffling lets see."""
    if saved.get("batches") != here.get("batches") or "sums" not in saved:
        return saved == here
    sums = np.asarray(saved["sums"]), np.asarray(here["sums"])
    return sums[0].shape == sums[1].shape and bool(np.allclose(*sums, rtol=SAME_DATA, atol=0.0))
