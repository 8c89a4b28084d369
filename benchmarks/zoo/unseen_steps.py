"""Unseen plants: healthy runs, and troubles of the optimiser and the surface.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import optax

from benchmarks.zoo.models import dense
from benchmarks.zoo.samples import contrast, diabetes, mislabelled, raw_wine, split, whitened
from benchmarks.zoo.training import Run, fit, squared
from benchmarks.zoo.unseen_models import (
    boxed,
    causal,
    experts,
    gamma,
    graph,
    gru,
    halved,
    heights,
    levelling,
    lines,
    progress,
    summed,
    upscaler,
)


def healthy_upscaler(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A photograph at twice its resolution; Adan."""
    optimizer = optax.adan(optax.cosine_decay_schedule(0.02 * rate, 500))
    return fit(upscaler(8), *halved(seed), optimizer, 500, seed, objective=squared, batch=60)


def healthy_causal(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Every next pixel of a line from those before it; Adamax with a falling rate."""
    optimizer = optax.adamax(optax.polynomial_schedule(0.02 * rate, 0.0, 2, 500))
    return fit(causal(10), *lines(seed), optimizer, 500, seed, objective=squared, batch=60)


def summed_loss(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The loss is a sum over the batch, and the rate is one that was meant for a mean."""
    optimizer = optax.sgd(0.1 * rate / (60 if cured else 1), 0.5)
    return fit(experts(10, 3, 1, 6), *diabetes(seed), optimizer, 150, seed, objective=summed, batch=60)


def large_fromage(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Fromage (Bernstein et al. 2020) turns each array by an angle that does not shrink with the gradient."""
    parts = [mislabelled(part, seed, 0.15, 3) for part in whitened(raw_wine(seed))]
    return fit(experts(13, 3, 3), *parts, optax.fromage(rate * (0.01 if cured else 0.25)), 300, seed)


def large_epsilon(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Adam with an epsilon of 0.1, far above the gradients: next to nothing is left of the rate."""
    optimizer = optax.adam(5e-3 * rate, eps=1e-8 if cured else 0.1)
    return fit(gru(16, 8, 10), *split("digits", seed, 400), optimizer, 200, seed, batch=100)


def noisy_experts(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Adan (Xie et al. 2022) on pairs of patients, of whom each has much that the inputs do not tell."""
    optimizer = optax.adan(0.05 * rate)
    batch = 75 if cured else 2
    model = experts(10, 3, 1, 6)
    return fit(model, *diabetes(seed), optimizer, 900, seed, objective=squared, batch=batch)


def levelling_line(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Heights along a line from differences of neighbours: what is far apart hardly hears of each other."""
    train = levelling(seed, 240)
    optimizer = optax.sgd(rate * len(train[0]) / (1.0 if cured else 4.0))
    return fit(heights(240, cured), train, None, optimizer, 200, seed, objective=squared)


def copied_experts(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Experts that are copies of one (Komatsuzaki et al. 2023) without noise, and a router at zero."""
    model = experts(25, 4, 1, copied=not cured)
    return fit(model, *contrast(seed), optax.sgd(0.03 * rate, 0.9), 800, seed, objective=squared)


def boxed_weights(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Weights are cut at ±0.2 after each step, as a critic's are (Arjovsky et al. 2017), in a classifier."""
    optimizer = optax.chain(optax.adam(5e-3 * rate), boxed(10.0 if cured else 0.2))
    return fit(graph(12), *split("digits", seed, 400), optimizer, 300, seed, batch=100)


def gamma_regression(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Gamma regression of the progression of diabetes, trained until nothing moves."""
    optimizer = optax.sgd(0.3 * rate, 0.9, nesterov=True)
    return fit(dense((10, 1), "gelu", 0.1), *progress(seed), optimizer, 3000, seed, objective=gamma)
