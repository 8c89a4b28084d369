"""Reported plants: healthy runs, and troubles of the optimiser and the surface that users told of.

Each imitates a report in public, named in its docstring.  `cured=True` is without the trouble, and `rate`
multiplies the learning rate of the run.
"""

from __future__ import annotations

import optax

from benchmarks.zoo.fresh_steps import top
from benchmarks.zoo.models import dense, pooled
from benchmarks.zoo.reported_steps_models import (
    averaged_again,
    batch_normed,
    centred,
    denoiser,
    even,
    factors,
    first_cultivar,
    grainy,
    largest_radius,
    raw_progress,
    squared_hinge,
    stacked,
    worse_half,
    worst_sizes,
)
from benchmarks.zoo.samples import split
from benchmarks.zoo.training import Plant, Run, binary, fit, one_hot_error, squared
from benchmarks.zoo.unseen_models import gru


def healthy_denoiser(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Convolutions take noise out of squares of a photograph; AdaBelief with a cosine."""
    optimizer = optax.adabelief(optax.cosine_decay_schedule(0.01 * rate, 400))
    return fit(denoiser(6), *grainy(seed), optimizer, 400, seed, objective=squared, batch=40)


def healthy_batch_normed(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A batch-normalised network tells a tumour's worst sizes; NAdam with a falling rate."""
    optimizer = optax.nadam(optax.linear_schedule(0.02 * rate, 0.0, 400))
    model = batch_normed(20, 8, 2)
    return fit(model, *worst_sizes(seed), optimizer, 400, seed, objective=squared, batch=80)


def unscaled_targets(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Targets in the hundreds and SGD at its default of 0.01: the loss is no number after some steps.

    Reported: Cross Validated 418955, "Why is deep neural net with linear activation diverges".
    """
    parts = raw_progress(seed, cured)
    return fit(stacked(10, 16), *parts, optax.sgd(0.01 * rate), 120, seed, objective=squared, batch=30)


def bouncing_margin(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Gradient descent on a linear SVM (squared hinge): in the end its cost goes up and down.

    Reported: Stack Overflow, a question on a linear SVC built from scratch whose hinge cost fluctuates.
    """
    train, test = worse_half(seed)
    optimizer = optax.sgd(rate * (0.2 if cured else 1.9) / top(train[0]))
    return fit(dense((10, 1), "gelu", 0.3), train, test, optimizer, 200, seed, objective=squared_hinge)


def averaged_twice(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The mean loss is divided by the size of the batch once more, and with it the steps.

    Reported: GitHub, williamleif/GraphSAGE, issue 12, "Double division by batch size".
    """
    optimizer = optax.sgd(0.1 * rate * (50 if cured else 1), 0.9)
    parts = split("digits", seed, 400)
    return fit(pooled("silu", 6, 10), *parts, optimizer, 160, seed, objective=averaged_again(50), batch=50)


def single_sequences(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A recurrent network gets one sequence per step, and its loss jumps about.

    Reported: Cross Validated, "Why does the loss/accuracy fluctuate during the training? (Keras, LSTM)".
    """
    optimizer = optax.sgd(0.15 * rate, 0.9)
    return fit(gru(16, 8, 10), *split("digits", seed, 400), optimizer, 900, seed, batch=50 if cured else 1)


def like_columns(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Batch gradient descent on nearly equal columns does not come to the weights of least squares.

    Reported: Cross Validated 338844, "sklearn Linear Regression vs Batch Gradient Descent".
    """
    train, test = largest_radius(seed, cured)
    optimizer = optax.sgd(1.3 * rate / top(train[0]))
    return fit(dense((29, 1), "gelu", 0.3), train, test, optimizer, 150, seed, objective=squared)


def zero_factors(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The factors of a factorisation machine start at zero, where their gradient is zero too.

    Reported: GitHub, aksnzhy/xlearn, issue 98, on the initial values of latent factors.
    """
    model = factors(64, 4, 0.1 if cured else 0.0)
    return fit(model, *even(seed), optax.sgd(0.02 * rate, 0.9), 300, seed, objective=squared)


def never_cleared(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Nobody clears the gradients, so each step goes along the sum of all so far.

    Reported: Stack Overflow 48001598, "Why do we need to call zero_grad() in PyTorch?".
    """
    optimizer = optax.chain(optax.trace(0.0 if cured else 1.0), optax.sgd(rate * (0.1 if cured else 0.03)))
    parts = centred(seed, 1000)
    return fit(dense((64, 10), "elu"), *parts, optimizer, 500, seed, objective=one_hot_error)


def smoothed_labels(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """With smoothed labels the loss stops well above zero, though nothing is left to learn.

    Reported: Reddit, r/MachineLearning 2019, "Minimum cost is not zero when calculating cross-entropy on
    soft labels".
    """
    optimizer = optax.sgd(1.0 * rate, 0.9)
    return fit(
        dense((13, 1), "gelu", 0.1), *first_cultivar(seed, 0.1), optimizer, 3000, seed, objective=binary
    )


STEPS = (
    Plant("healthy: noise out of a photo", "healthy", healthy_denoiser, "reported"),
    Plant("healthy: batch-normalised", "healthy", healthy_batch_normed, "reported"),
    Plant("targets in the hundreds", "divergence", unscaled_targets, "reported", ("oscillation",)),
    Plant("margin from scratch", "oscillation", bouncing_margin, "reported", (), True),
    Plant("averaged twice", "slow", averaged_twice, "reported", (), True),
    Plant("one sequence per step", "noise", single_sequences, "reported", ("oscillation",), True),
    Plant("nearly equal columns", "ill_conditioned", like_columns, "reported", (), True),
    Plant("factors at zero", "saddle", zero_factors, "reported", ("vanishing_gradients",), True),
    Plant("gradients never cleared", "optimization", never_cleared, "reported", ("oscillation",), True),
    Plant("smoothed labels, at rest", "minimum", smoothed_labels, "reported"),
)
