"""Sealed plants: troubles of the optimiser.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import optax

from benchmarks.zoo.models import dense
from benchmarks.zoo.samples import mislabelled, raw_wine, split, whitened
from benchmarks.zoo.sealed_models import lstm, mixer
from benchmarks.zoo.sealed_samples import signed_parity
from benchmarks.zoo.training import Run, fit, squared


def endless_range(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A range test of rates (Smith 2017) that nobody stopped: they grow until the loss is above its start."""
    schedule = optax.exponential_decay(1e-3 * rate, 170, 2e4)
    optimizer = optax.sgd(0.3 * rate if cured else schedule, 0.9)
    return fit(lstm(16, 8, 10), *split("digits", seed, 400), optimizer, 170, seed, batch=100)


def one_length(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Steps of one length however short the gradient: near the bottom they hop from side to side."""
    optimizer = optax.chain(optax.normalize_by_update_norm(), optax.sgd(rate * (0.04 if cured else 2.0)))
    parts = [mislabelled(part, seed, 0.15, 3) for part in whitened(raw_wine(seed))]
    return fit(dense((13, 3), "gelu"), *parts, optimizer, 300, seed)


def adadelta_small(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Adadelta (Zeiler 2012) is made for a rate of 1; a fiftieth of it crawls."""
    optimizer = optax.adadelta(rate * (1.0 if cured else 0.02))
    return fit(mixer(12), *split("digits", seed, 400), optimizer, 200, seed, batch=100)


def noisy_yogi(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Yogi (Zaheer et al. 2018) on pairs of digits, a fifth of them mislabelled, read row by row."""
    train, test = split("digits", seed, 800)
    parts = (mislabelled(train, seed, 0.2, 10), test)
    batch = 50 if cured else 2
    return fit(lstm(16, 8, 10), *parts, optax.yogi(0.05 * rate), 900, seed, batch=batch)


def kept_positive(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """What should keep one layer's weights from going below zero is applied to all of them."""
    keep = optax.identity() if cured else optax.keep_params_nonnegative()
    optimizer = optax.chain(optax.adam(0.01 * rate), keep)
    parts = signed_parity(seed)
    return fit(dense((64, 16, 1), "tanh"), *parts, optimizer, 300, seed, objective=squared, batch=100)
