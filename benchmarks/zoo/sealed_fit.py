"""Sealed plants: troubles of the surface, the model and the data.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import numpy as np
import optax

from benchmarks.zoo.fresh_steps import top
from benchmarks.zoo.models import dense
from benchmarks.zoo.samples import diabetes
from benchmarks.zoo.sealed_models import branched, siamese
from benchmarks.zoo.sealed_samples import binned, mosaic, pairs, palette, signed_parity
from benchmarks.zoo.training import Run, binary, fit, squared


def closed_branch(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A branch's gate and its last weights both start at zero, where neither has a gradient."""
    model = branched(64, 24, 1.0 if cured else 0.0)
    optimizer = optax.sgd(0.1 * rate, 0.9)
    return fit(model, *signed_parity(seed), optimizer, 600, seed, objective=squared)


def rare_colours(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A table of colours of which one is common and most are rare, at the largest rate that it stands."""
    parts = palette(seed)
    if cured:
        scale = np.sqrt(parts[0][0].mean(axis=0))
        parts = [((x / scale).astype(np.float32), y) for x, y in parts]
    optimizer = optax.sgd(rate / top(parts[0][0]))
    model = dense((parts[0][0].shape[1], 1), "gelu", 0.1)
    return fit(model, *parts, optimizer, 60, seed, objective=squared)


def blind_to_order(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Which of two digits is greater, by a model that sees their distance alone: swapped, it is the same."""
    optimizer = optax.adamw(0.01 * rate, weight_decay=1e-4)
    return fit(siamese(16, cured), *pairs(seed), optimizer, 400, seed, objective=binary)


def many_bins(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Ten columns cut into 25 bins each are more weights than there are patients."""
    train, test = diabetes(seed, 120) if cured else binned(seed, 120, 25)
    model = dense((train[0].shape[1], 1), "gelu", 0.1)
    return fit(model, train, test, optax.adam(0.02 * rate), 800, seed, objective=squared)


def dead_column(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A column of the sensor gives nothing in the test: its pixels are black."""
    model, parts = dense((25, 24, 2), "tanh"), mosaic(seed)
    optimizer = optax.adabelief(3e-3 * rate)
    run = fit(model, *parts, optimizer, 800, seed, objective=squared, batch=100)
    if not cured:
        images = run.test[0].reshape(-1, 5, 5).copy()
        images[:, :, 3] = parts[0][0].min()
        run.test = (images.reshape(-1, 25), run.test[1])
    return run
