"""Fresh plants: healthy runs, troubles of the model and the data.  `cured=True` is without the trouble."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.models import dense, pooled, recurrent, two_heads
from benchmarks.zoo.samples import cancer as raw_cancer
from benchmarks.zoo.samples import (
    centre,
    contrast,
    data,
    diabetes,
    iris,
    mislabelled,
    raw_wine,
    split,
    whitened,
)
from benchmarks.zoo.training import Run, fit, squared


def healthy_iris(seed: int) -> Run:
    return fit(dense((4, 10, 3), "gelu"), *iris(seed), optax.rmsprop(3e-3), 250, seed)


def healthy_cancer(seed: int) -> Run:
    schedule = optax.cosine_decay_schedule(0.02, 250)
    parts = whitened(raw_cancer(seed))
    return fit(dense((30, 16, 2), "elu"), *parts, optax.sgd(schedule, 0.9), 250, seed, batch=50)


def healthy_centre(seed: int) -> Run:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 50, 600)
    model = dense((24, 16, 1), "softplus")
    return fit(model, *centre(seed), optax.adam(schedule), 600, seed, objective=squared, batch=100)


def healthy_few_digits(seed: int) -> Run:
    """The digits 0 to 4 alone."""
    return fit(pooled("gelu", 8, 5), *five_digits(seed), optax.adagrad(0.1), 300, seed, batch=50)


def healthy_heads(seed: int) -> Run:
    return fit(two_heads(), *split("digits", seed, 900), optax.adamw(3e-3), 200, seed, batch=100)


def healthy_recurrent(seed: int) -> Run:
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9, nesterov=True))
    return fit(recurrent(32, "tanh"), *split("digits", seed, 900), optimizer, 100, seed, batch=100)


def five_digits(seed: int) -> Any:
    """Training and test part with the digits 0 to 4."""
    inputs, labels = data("digits")
    rows = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(labels < 5))
    return tuple((inputs[i], labels[i]) for i in (rows[:600], rows[600:]))


def least_squares(seed: int, cured: bool = False) -> Run:
    """Linear regression at its one minimum, by the normal equations; nobody gave an `apply` or test data."""
    train, test = diabetes(seed, 250 + 50 * cured)
    rows = np.concatenate([train[0], np.ones((len(train[0]), 1))], axis=1).astype(np.float64)
    best = np.linalg.lstsq(rows, train[1].astype(np.float64), rcond=None)[0].astype(np.float32)
    start = [{"w": jnp.asarray(best[:-1]), "b": jnp.asarray(best[-1])}]
    run = fit(dense((10, 1), "gelu"), train, test, optax.sgd(0.1), 50, seed, objective=squared, start=start)
    run.apply = run.test = None
    return run


def parity(seed: int, cured: bool = False) -> Run:
    """Odd or even digits by a linear model, at its minimum; 40 hidden units end far lower."""
    parts = [(x, (y % 2).astype(np.int32)) for x, y in split("digits", seed, 1000)]
    model = dense((64, 40, 2) if cured else (64, 2), "elu")
    return fit(model, *parts, optax.adam(1e-2 if cured else 5e-2), 1500, seed)


def linear_contrast(seed: int, cured: bool = False) -> Run:
    """Contrast does not change when all signs do, and a linear model's output does: it cannot follow."""
    model = dense((25, 32, 1) if cured else (25, 1), "gelu", 1.0 if cured else 0.1)
    return fit(model, *contrast(seed), optax.adam(1e-2), 1500, seed, objective=squared)


def few_patients(seed: int, cured: bool = False) -> Run:
    """Fifty patients and 64 hidden units; ten inputs explain half of the variance at best."""
    parts = diabetes(seed, 50)
    if cured:
        return fit(dense((10, 1), "gelu", 0.1), *parts, optax.adam(1e-2), 150, seed, objective=squared)
    return fit(dense((10, 64, 1), "gelu"), *parts, optax.adam(1e-2), 1000, seed, objective=squared)


def learnt_by_heart(seed: int, cured: bool = False) -> Run:
    """A quarter of the labels are wrong, and the network fits them too."""
    parts = [mislabelled(part, seed, 0.25, 2) for part in whitened(raw_cancer(seed, 150))]
    return fit(dense((30, 48, 2), "elu"), *parts, optax.adam(1e-2), 15 if cured else 800, seed)


def unstandardised_test(seed: int, cured: bool = False) -> Run:
    """The test inputs were not standardised."""
    run = healthy_cancer(seed)
    if not cured:
        run.test = raw_cancer(seed)[1]
    return run


def upside_down(seed: int, cured: bool = False) -> Run:
    """The test images stand on their heads."""
    run = healthy_heads(seed)
    if not cured:
        images = run.test[0].reshape(-1, 8, 8)[:, ::-1, ::-1]
        run.test = (np.ascontiguousarray(images).reshape(-1, 64), run.test[1])
    return run


def other_columns(seed: int, cured: bool = False) -> Run:
    """The test file has its columns in another order."""
    train, test = whitened(raw_wine(seed))
    run = fit(dense((13, 10, 3), "softplus"), train, test, optax.adam(1e-2), 200, seed)
    if not cured:
        run.test = (np.roll(test[0], 1, axis=1), test[1])
    return run


def deeper_is_worse(seed: int, cured: bool = False) -> Run:
    """Twenty layers end above what three reach on the same data: not the model (He et al. 2016, fig. 1).

    More layers can do what fewer do; only the losses are handed over, and no optimiser.
    """
    parts = split("digits", seed, 500)
    deep, shallow = (dense((64, *(12,) * depth, 10), "tanh") for depth in (19, 2))
    run = fit(shallow if cured else deep, *parts, optax.sgd(0.05), 300, seed)
    if not cured:
        other = fit(shallow, *parts, optax.sgd(0.05), 300, seed)
        run.baseline = float(other.loss(other.params, parts[0]))
    run.optimizer = run.opt_state = None
    return run
