"""Reported plants: troubles of units, layers, inputs, models and data as users reported them in public.

`cured=True` is without the trouble, and `rate` multiplies the learning rate of the run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.models import Params, dense
from benchmarks.zoo.reported_layers_models import (
    behind,
    brightness,
    denoiser,
    factors,
    grained,
    petals,
    plain_convolutions,
    ratings,
    stacked_lstm,
    walls,
)
from benchmarks.zoo.samples import split
from benchmarks.zoo.sealed_models import lstm
from benchmarks.zoo.sealed_samples import ridged
from benchmarks.zoo.training import Plant, Run, fit, one_hot_error, squared
from benchmarks.zoo.unseen_data_models import enlarged, warmth

NARROW = (3, 4, 2, 1)


def unlucky_start(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Layers of 4, 2 and 1 units, all relu, from one of the many starts where the loss never moves.

    As in "Loss values do not change" (community.deeplearning.ai/t/324182).
    """
    train, test = petals(seed)
    init, apply = behind(NARROW, "relu", "relu")
    starts = (init(1000 * seed + number) for number in range(1000))
    wanted = 0.0 if not cured else 1.0
    start = next(at for at in starts if np.all(answering(at, train[0]) == wanted))
    optimizer = optax.adam(0.003 * rate)
    return fit((init, apply), train, test, optimizer, 800, seed, objective=squared, start=start)


def positive_weights(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """All weights and offsets of a sigmoid network are drawn from 0 to 1, not from -0.5 to 0.5.

    As in "Success after changing weights initialization strategy" (stats.stackexchange.com/q/286424).
    """

    def change(params: Params) -> Params:
        rng = np.random.default_rng([seed, 80])
        low = -0.5 if cured else 0.0
        return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) + low, jnp.float32), params)

    model = behind((64, 15, 10), "sigmoid", "sigmoid")
    parts = split("digits", seed, 800)
    return fit(
        model, *parts, optax.sgd(0.5 * rate), 20000, seed, objective=one_hot_error, change=change, batch=10
    )


def many_lstm_layers(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """More layers of bidirectional LSTM than the two that had worked, and training stands still.

    As in "Failed to converge with increased amount of BiLSTM layers"
    (github.com/wenwenyu/PICK-pytorch/issues/40).
    """
    model = stacked_lstm(12, 2 if cured else 8, 8, 10)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1 * rate, 0.9))
    return fit(model, *split("digits", seed, 400), optimizer, 300, seed, batch=50)


def fixed_deviation(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A convolutional network is made deeper and wider; its weights keep the deviation in the code.

    As in "Proper Initialization of Weights for DCNNs" (moderndescartes.com/essays/initializing_weights_DCNN).
    """
    model = plain_convolutions(12, 10, None if cured else 0.4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate * (0.02 if cured else 1e-4), 0.9))
    return fit(model, *warmth(seed, 300), optimizer, 120, seed, objective=squared, batch=30)


def unscaled_series(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """An LSTM is to tell the next value of a series that comes as it was counted, up to 765.

    As in "Why scaling data is very important in neural network (LSTM)" (stackoverflow.com/q/46686924).
    """
    parts = brightness(seed, counts=not cured)
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.03 * rate, 400), 0.9)
    return fit(lstm(16, 1, 1), *parts, optimizer, 400, seed, objective=squared, batch=60)


def never_negative(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A relu at the output of a regression whose targets are negative half of the time.

    As in "Error in Neural Network", where it was to learn a sine (datascience.stackexchange.com/q/28191).
    """
    model = behind((25, 32, 4), "silu", "linear" if cured else "relu", 1.4)
    optimizer = optax.adamw(optax.cosine_decay_schedule(0.01 * rate, 800), weight_decay=1e-4)
    return fit(model, *enlarged(seed), optimizer, 800, seed, objective=squared, batch=100)


def few_sequences(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """An LSTM with more units than its small data can pin down is trained until it knows them by heart.

    As in "Preventing overfitting of LSTM on small dataset" (stats.stackexchange.com/q/204745).
    """
    train = 1200 if cured else 60
    optimizer = optax.adam(0.01 * rate)
    return fit(lstm(48, 8, 10), *split("digits", seed, train), optimizer, 300, seed, batch=30)


def blue_first(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Trained on red, green, blue; tested on images that another library read as blue, green, red.

    As in "BGR loading, RGB predicting" (github.com/udacity/sdc-issue-reports/issues/623).
    """
    train, test = walls(seed)
    optimizer = optax.nadam(optax.cosine_decay_schedule(0.02 * rate, 1000))
    run = fit(dense((48, 32, 1), "softplus"), train, test, optimizer, 1000, seed, objective=squared, batch=60)
    if not cured:
        run.test = (test[0].reshape(-1, 16, 3)[..., ::-1].reshape(len(test[0]), -1), test[1])
    return run


def healthy_denoiser(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Grain is taken off a photograph by convolutions that are normalised over the batch."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02 * rate, 400))
    return fit(denoiser(6), *grained(seed), optimizer, 400, seed, objective=squared, batch=125)


def healthy_ratings(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Vectors for users and films, as in a recommender; the inputs are whole numbers."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02 * rate, 1000))
    model = factors(42, 64, 6)
    return fit(model, *ratings(seed), optimizer, 1000, seed, objective=ridged(1e-4), batch=200)


def second_layer(params: Params, inputs: jax.Array) -> jax.Array:
    """The layer of two units of the narrow network."""
    hidden = inputs
    for layer in params[:2]:
        hidden = jax.nn.relu(hidden @ layer["w"] + layer["b"])
    return hidden


def answering(params: Params, inputs: np.ndarray) -> np.ndarray:
    """Share of the inputs for which each unit of the second layer, and the output, is above zero."""
    hidden = second_layer(params, jnp.asarray(inputs))
    output = hidden @ params[2]["w"] + params[2]["b"]
    return np.mean(np.concatenate([hidden, output], axis=1) > 0, axis=0)


def first_units(params: Params, inputs: jax.Array) -> jax.Array:
    """The hidden sigmoid units, -1 to 1."""
    return 2 * jax.nn.sigmoid(inputs @ params[0]["w"] + params[0]["b"]) - 1


# The units that a plant is about, for the check.
UNITS = {"unlucky narrow start": second_layer, "weights from 0 to 1": first_units}

LAYERS = (
    Plant("healthy: denoiser, batch norm", "healthy", healthy_denoiser, "reported"),
    Plant("healthy: vectors of a recommender", "healthy", healthy_ratings, "reported"),
    Plant("unlucky narrow start", "dead_units", unlucky_start, "reported", ("vanishing_gradients",)),
    Plant("weights from 0 to 1", "saturation", positive_weights, "reported", ("vanishing_gradients",)),
    Plant("eight layers of LSTM", "vanishing_gradients", many_lstm_layers, "reported", ("saddle",)),
    Plant("deviation in the code", "exploding_gradients", fixed_deviation, "reported", ("slow",)),
    Plant("series as counted", "input_scale", unscaled_series, "reported", ("saturation",)),
    Plant("relu where targets are negative", "model_bias", never_negative, "reported", ("minimum",)),
    Plant("LSTM on few sequences", "overfitting", few_sequences, "reported"),
    Plant("blue before red", "mismatch", blue_first, "reported"),
)
