"""Untouched plants: troubles of the optimiser.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import jax
import optax

from benchmarks.zoo.models import Params, dense
from benchmarks.zoo.samples import cancer, diabetes, mislabelled, raw_wine, split, whitened
from benchmarks.zoo.training import Run, fit, squared
from benchmarks.zoo.untouched_models import coder, linear_units, separable, transformer
from benchmarks.zoo.untouched_samples import binary, bits, flower_parts, robust


def warmed_too_far(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A warm-up whose aim the autoencoder does not stand: the loss falls at first, and then is no number."""
    rate = rate * (0.005 if cured else 0.05)
    optimizer = optax.sgd(optax.linear_schedule(0.0, rate, 60), 0.9, nesterov=True)
    model = dense((36, 24, 8, 24, 36), "elu")
    return fit(model, *flower_parts(seed), optimizer, 120, seed, objective=squared)


def hot_transformer(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """AdamW at 1, where 0.005 is usual: the loss ends far above its start."""
    optimizer = optax.adamw(rate * (5e-3 if cured else 1.0))
    return fit(transformer(), *split("digits", seed, 400), optimizer, 80, seed, batch=100)


def robust_bounce(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Far from its kink a robust error is linear, so that steps past the limit bounce and do not run away."""
    optimizer = optax.sgd(rate * (0.05 if cured else 1.0))
    return fit(dense((10, 1), "gelu"), *diabetes(seed), optimizer, 150, seed, objective=robust)


def hopping_coder(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Adam's steps keep their size near the solution; full batches, so it is no noise."""
    parts = [(x, x) for x, _ in whitened(raw_wine(seed))]
    optimizer = optax.adam(rate * (0.01 if cured else 0.1), b1=0.0)
    return fit(dense((13, 13), "gelu", 0.3), *parts, optimizer, 200, seed, objective=squared)


def tight_clip(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Clipping at a thousandth of the gradient's norm leaves steps of a thousandth."""
    clip = optax.clip_by_global_norm(1e3 if cured else 1e-3)
    optimizer = optax.chain(clip, optax.sgd(0.1 * rate, 0.9))
    return fit(linear_units(30, 16, 2), *whitened(cancer(seed)), optimizer, 200, seed, batch=50)


def adagrad_default(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Adagrad at 0.001, a framework's default, and its steps shrink as gradients add up."""
    optimizer = optax.adagrad(rate * (0.1 if cured else 1e-3))
    parts = [(x, x) for x, _ in split("digits", seed, 400)]
    return fit(coder(8, 16), *parts, optimizer, 150, seed, objective=squared, batch=100)


def noisy_units(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """RMSProp on batches of three, a quarter of the samples mislabelled."""
    train, test = split("digits", seed, 480)
    parts = (mislabelled(train, seed, 0.25, 10), test)
    optimizer = optax.rmsprop(0.04 * rate)
    return fit(linear_units(64, 16, 10), *parts, optimizer, 800, seed, batch=60 if cured else 3)


def noisy_momentum(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Momentum of 0.97 on pairs of patients: a step adds up the noise of more than thirty."""
    optimizer = optax.sgd(0.01 * rate, 0.97, nesterov=True)
    batch = 75 if cured else 2
    model = dense((10, 8, 1), "tanh")
    return fit(model, *diabetes(seed), optimizer, 900, seed, objective=squared, batch=batch)


def decayed_away(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A decay of weights of 3 in AdamW (usual: 0.01) holds them near zero, at whatever rate."""
    optimizer = optax.adamw(5e-3 * rate, weight_decay=1e-2 if cured else 3.0)
    return fit(separable(6, 10), *split("digits", seed, 400), optimizer, 300, seed, batch=100)


def only_biases(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A mask meant to spare biases from something trains nothing but them."""

    def label(params: Params) -> Params:
        return jax.tree.map(lambda leaf: "train" if cured or leaf.ndim == 1 else "hold", params)

    kinds = {"train": optax.adam(1e-2 * rate), "hold": optax.set_to_zero()}
    optimizer = optax.multi_transform(kinds, label)
    parts = [bits(part) for part in split("digits", seed, 400)]
    return fit(dense((64, 24, 4), "silu"), *parts, optimizer, 300, seed, objective=binary)
