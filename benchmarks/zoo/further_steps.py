"""Further plants: troubles of the optimiser and the surface.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import optax

from benchmarks.zoo.fresh_steps import top
from benchmarks.zoo.further_steps_models import (
    absolute,
    alcohol,
    flowers,
    likelihood,
    log_cosh,
    mixture,
    places,
    strokes,
    unlikely,
    wide_kernel,
)
from benchmarks.zoo.models import Params, dense, pooled
from benchmarks.zoo.samples import diabetes, split
from benchmarks.zoo.training import Plant, Run, fit, squared


def unsure_runaway(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A network that tells a mean and a variance: at large steps the variance shrinks to nothing."""
    optimizer = optax.sgd(rate * (0.01 if cured else 0.5), 0.9)
    parts = diabetes(seed)
    return fit(dense((10, 16, 2), "tanh"), *parts, optimizer, 200, seed, objective=likelihood)


def bouncing_medians(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Regression by absolute errors: their slope keeps its size near the solution, and so do the steps."""
    optimizer = optax.sgd(rate * (0.02 if cured else 1.0))
    return fit(dense((4, 1), "gelu", 0.3), *strokes(seed), optimizer, 200, seed, objective=absolute)


def lars_small(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """LARS (You et al. 2017) takes a thousandth of its rate, which is made for rates of 1 and more."""
    optimizer = optax.lars(rate * (2.0 if cured else 0.05))
    return fit(pooled("gelu", 6, 10), *split("digits", seed, 400), optimizer, 200, seed, batch=100)


def few_pixels(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A photograph as a function of the place, learnt by AMSGrad from two pixels per step."""
    optimizer = optax.amsgrad(0.08 * rate)
    batch = 60 if cured else 2
    return fit(
        dense((12, 16, 3), "tanh"), *places(seed), optimizer, 4000, seed, objective=squared, batch=batch
    )


def wide_kernels(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Kernel regression by gradient descent with a kernel so wide that its columns are nearly alike."""
    train, test = wide_kernel(seed, cured)
    optimizer = optax.sgd(0.7 * rate / top(train[0]), 0.3)
    return fit(dense((80, 1), "gelu", 0.1), train, test, optimizer, 100, seed, objective=squared)


def one_start(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A mixture of three groups whose means start at one place, and stay together."""
    optimizer = optax.sgd(0.03 * rate, 0.8)
    return fit(mixture(3, not cured), *flowers(seed), optimizer, 300, seed, objective=unlikely)


def layerwise_decay(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Each layer's rate is a thousandth of that of the layer above, in a network that starts from scratch."""

    def label(params: Params) -> Params:
        return [str(number) for number in range(len(params))]

    factor = 1.0 if cured else 1e-3
    each = {str(number): optax.adam(0.01 * rate * factor ** (2 - number)) for number in range(3)}
    optimizer = optax.multi_transform(each, label)
    return fit(dense((64, 6, 6, 10), "tanh"), *split("digits", seed, 400), optimizer, 400, seed, batch=100)


def soft_error(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Regression of a wine's alcohol by the log-cosh of the errors, trained until nothing moves."""
    optimizer = optax.sgd(0.3 * rate, 0.9)
    return fit(dense((12, 1), "gelu", 0.3), *alcohol(seed), optimizer, 3000, seed, objective=log_cosh)


STEPS = (
    Plant("variance runs away", "divergence", unsure_runaway, "further", ("oscillation",)),
    Plant("absolute errors that bounce", "oscillation", bouncing_medians, "further", (), True),
    Plant("LARS at a small rate", "slow", lars_small, "further", (), True),
    Plant("two pixels per step", "noise", few_pixels, "further", ("oscillation",), True),
    Plant("wide kernels", "ill_conditioned", wide_kernels, "further", (), True),
    Plant("groups that start as one", "saddle", one_start, "further", (), True),
    Plant("rates by layer", "optimization", layerwise_decay, "further", (), True),
    Plant("log-cosh, at rest", "minimum", soft_error, "further", ("model_bias",)),
)
