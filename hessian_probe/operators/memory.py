"""How much memory is free, and what fits into it."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.operators.thresholds import EIGH_MATRICES, MEMORY_SHARE


def free_bytes() -> int:
    """Free memory, in bytes, of the default device (of the machine where that is the CPU)."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # a system that does not report it
        return 4 * 2**30


def vectors_that_fit(vector_bytes: int) -> int:
    """Number of vectors in the share of the free memory that a basis may take."""
    return int(free_bytes() * MEMORY_SHARE / max(vector_bytes, 1))


def tree_bytes(tree: Any) -> int:
    """Bytes that the arrays (or abstract arrays) of a pytree take."""
    return sum(
        int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "shape") and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    )


def matrix_bytes(size: int, count: int = 1) -> int:
    """Bytes of `count` float64 matrices of size n by n."""
    return 8 * count * size * size


def eigh_fits(size: int) -> bool:
    """Whether all eigenpairs of a dense matrix can be computed in half of the free memory."""
    return matrix_bytes(size, EIGH_MATRICES) <= 2 * MEMORY_SHARE * free_bytes()


def require(needed: float, limit: float, what: str, instead: str) -> None:
    """Raise MemoryError where `what` needs more bytes than are allowed, and say what to do instead."""
    if needed > limit:
        raise MemoryError(
            f"{what} needs {readable(needed)}; {readable(limit)} are allowed, {readable(free_bytes())} are "
            f"free: {instead}"
        )


def readable(count: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
