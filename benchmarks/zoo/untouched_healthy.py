"""Untouched plants: healthy runs.  `rate` multiplies the learning rate of the run."""

from __future__ import annotations

import optax

from benchmarks.zoo.models import dense
from benchmarks.zoo.samples import split
from benchmarks.zoo.training import Run, fit, squared
from benchmarks.zoo.untouched_models import coder, gated, linear_units, transformer
from benchmarks.zoo.untouched_samples import flower_parts


def healthy_transformer(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 6e-3 * rate, 30, 240)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))
    return fit(transformer(), *split("digits", seed, 1200), optimizer, 240, seed, batch=100)


def healthy_gated(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=8e-3 * rate)
    return fit(gated(32), *split("digits", seed, 1200), optimizer, 300, seed, batch=100)


def healthy_coder(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    parts = [(x, x) for x, _ in split("digits", seed, 1000)]
    optimizer = optax.adam(optax.exponential_decay(5e-3 * rate, 100, 0.6))
    return fit(coder(12, 24), *parts, optimizer, 400, seed, objective=squared, batch=100)


def healthy_petals(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """An autoencoder of a smooth photograph's squares."""
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.005 * rate, 500), 0.9, nesterov=True)
    model = dense((36, 24, 8, 24, 36), "elu")
    return fit(model, *flower_parts(seed), optimizer, 500, seed, objective=squared, batch=60)


def healthy_gathered(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Gradients of four small batches are gathered for each step of RMSProp."""
    optimizer = optax.MultiSteps(optax.rmsprop(4e-3 * rate), 4)
    parts = split("digits", seed, 1200)
    return fit(linear_units(64, 24, 10), *parts, optimizer, 1200, seed, batch=25)
