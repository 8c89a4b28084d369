"""scikit-learn's handwritten digits for the examples: 1,500 to train on, in shuffled batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

Batch = tuple[np.ndarray, np.ndarray]


def batches(size: int = 250, *, steps: int, seed: int = 0) -> Iterator[Batch]:
    """Yield `steps` batches of inputs (size, 64) in [0, 1] and labels (size,)."""
    x, y = load_digits(return_X_y=True)
    x, y = (x[:1500] / 16).astype(np.float32), y[:1500].astype(np.int32)
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < size:
            order = rng.permutation(len(x)).tolist()
        chosen, order = order[:size], order[size:]
        yield x[chosen], y[chosen]
