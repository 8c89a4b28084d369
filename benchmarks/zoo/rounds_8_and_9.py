"""Rounds 8 and 9: like round 7; every trouble of round 8 imitates one that users report in public."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import adam, adamw, sgd

from benchmarks.zoo import losses
from benchmarks.zoo import models as nets
from benchmarks.zoo import photographs as photos
from benchmarks.zoo import samples as data
from benchmarks.zoo.image_models import convolutional, denoiser, normed_denoiser, pooled
from benchmarks.zoo.layers import Model, Params
from benchmarks.zoo.models import dense
from benchmarks.zoo.recipes import at, clipped, cosine, same
from benchmarks.zoo.sequence_models import gru, lstm, stacked_lstm
from benchmarks.zoo.training import Failure, Run, Setup, fit

# Width of the vectors of tokens that are added up.
TOKENS = 16


def unlucky_start(c: Setup) -> Run:
    """Layers of 4, 2 and 1 units, all relu, from one of the many starts where the loss never moves.

    As in "Loss values do not change" (community.deeplearning.ai/t/324182).
    """
    (x, _), (x_test, _) = data.raw_iris(c.seed)
    samples = (x[:, :3], x[:, 3:]), (x_test[:, :3], x_test[:, 3:])
    init, apply = dense((3, 4, 2, 1), "relu", last="relu")
    starts = (init(1000 * c.seed + number) for number in range(1000))
    start = next(at for at in starts if np.all(answering(at, samples[0][0]) == c.pick(0.0, 1.0)))
    return fit(c, (init, apply), samples, adam(0.003 * c.rate), 800, start=start)


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


def uniform_start(params: Params, seed: int, low: float) -> Params:
    """All weights and offsets are drawn from an interval of length 1."""
    rng = np.random.default_rng([seed, 80])
    return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) + low, jnp.float32), params)


def plain_convolutions(deviation: float | None) -> Model:
    """Ten convolutions of a coloured square; their weights' deviation, or He's."""
    fans = (9 * 3, *(9 * 12,) * 9)
    gain = tuple(np.sqrt(2) if deviation is None else deviation * np.sqrt(fan) for fan in fans)
    return convolutional(
        channels=(12,) * 10, gain=gain, image=(6, 6, 3), stride=1, averaged=True, outputs=1, stream=86
    )


def after_large_steps(c: Setup) -> Run:
    """Goes on from a checkpoint whose first steps were far too long: they pushed all units below zero."""
    model, samples = dense((12, 24, 1), "relu", 1.4), data.proline(c.seed)

    def change(params: Params) -> Params:
        slope = jax.grad(losses.squared(model[1]))
        for _ in range(c.pick(5, 0)):
            params = jax.tree.map(lambda at, move: at - 1.0 * move, params, slope(params, samples[0]))
        return params

    optimizer = sgd(0.01 * c.rate, 0.9)
    return fit(c, model, samples, optimizer, 500, change=change, batch=40)


def rates_by_layer(c: Setup) -> optax.GradientTransformation:
    """Each layer's rate is a thousandth of that of the layer above, in a network that starts from scratch."""
    factor = c.pick(1e-3, 1.0)
    each = {str(number): adam(0.01 * c.rate * factor ** (2 - number)) for number in range(3)}
    return optax.multi_transform(each, lambda params: [str(number) for number in range(len(params))])


# fmt: off
row = partial(Failure, 8, "9c6f60f")
curable = partial(row, curable=True)
ROUND_8 = (
    row("healthy: noise out of a photo", "healthy", "", lambda c: fit(c, denoiser(6), photos.grainy,
        optax.adabelief(cosine(0.01 * c.rate, 400)), 400, batch=40)),
    # A tumour's worst sizes; NAdam with a falling rate.
    row("healthy: batch-normalised", "healthy", "", lambda c: fit(c, nets.batch_normed(20, 8, 2),
        data.worst_sizes, optax.nadam(optax.linear_schedule(0.02 * c.rate, 0.0, 400)), 400, batch=80)),
    # With SGD at its default of 0.01 the loss is no number after some steps.
    # Reported: Cross Validated 418955, "Why is deep neural net with linear activation diverges".
    row("targets in the hundreds", "divergence", "oscillation",
        lambda c: fit(c, dense((10, 16, 1), stream=101),
            data.diabetes(c.seed, target=c.pick(same, data.standard)), sgd(0.01 * c.rate), 120, batch=30)),
    # Gradient descent on a linear SVM (squared hinge): in the end its cost goes up and down.
    # Reported: Stack Overflow, a question on a linear SVC built from scratch whose hinge cost fluctuates.
    curable("margin from scratch", "oscillation", "", lambda c: fit(c, dense((10, 1), gain=0.3),
        data.diabetes(c.seed, target=lambda y: np.where(y > np.median(y), 1.0, -1.0)),
        lambda x: sgd(c.rate * c.pick(1.9, 0.2) / data.top(x)), 200, loss=losses.squared_hinge)),
    # The mean loss is divided by the size of the batch once more, and with it the steps.
    # Reported: GitHub, williamleif/GraphSAGE, issue 12, "Double division by batch size".
    curable("averaged twice", "slow", "",
        lambda c: fit(c, pooled("silu", 6, 10), data.digits, sgd(0.1 * c.rate * c.pick(1, 50), 0.9), 160,
            loss=losses.divided(losses.cross_entropy, 50), batch=50)),
    # Reported: Cross Validated, "Why does the loss/accuracy fluctuate during the training? (Keras, LSTM)".
    curable("one sequence per step", "noise", "oscillation",
        lambda c: fit(c, gru(16, 8, 10), data.digits, sgd(0.15 * c.rate, 0.9), 900, batch=c.pick(1, 50))),
    # Batch gradient descent on nearly equal columns does not come to the weights of least squares.
    # Reported: Cross Validated 338844, "sklearn Linear Regression vs Batch Gradient Descent".
    curable("nearly equal columns", "ill_conditioned", "", lambda c: fit(c, dense((29, 1), gain=0.3),
        data.largest_radius(c.seed, c.cured), lambda x: sgd(1.3 * c.rate / data.top(x)), 150)),
    # Reported: GitHub, aksnzhy/xlearn, issue 98, on the initial values of latent factors.
    curable("factors at zero", "saddle", "vanishing_gradients",
        lambda c: fit(c, nets.pairwise_factors(64, 4, c.pick(0.0, 0.1)), data.even(data.centred(c.seed, 500)),
            sgd(0.02 * c.rate, 0.9), 300)),
    # So each step goes along the sum of all so far.
    # Reported: Stack Overflow 48001598, "Why do we need to call zero_grad() in PyTorch?".
    curable("gradients never cleared", "optimization", "oscillation",
        lambda c: fit(c, dense((64, 10)), data.centred(c.seed, 1000),
            optax.chain(optax.trace(c.pick(1.0, 0.0)), sgd(c.rate * c.pick(0.03, 0.1))), 500,
            loss=losses.one_hot_error)),
    # With smoothed labels the loss stops well above zero, though nothing is left to learn.
    # Reported: Reddit, r/MachineLearning 2019, "Minimum cost is not zero when calculating cross-entropy on
    # soft labels".
    row("smoothed labels, at rest", "minimum", "", lambda c: fit(c, dense((13, 1), gain=0.1),
        data.targets_by(lambda y: data.column((y == 0) * 0.9 + 0.05), data.wine(c.seed)),
        sgd(1.0 * c.rate, 0.9), 3000, loss=losses.binary)),
    row("healthy: denoiser, batch norm", "healthy", "", lambda c: fit(c, normed_denoiser(6), photos.grained,
        adam(cosine(0.02 * c.rate, 400)), 400, batch=125)),
    row("healthy: vectors of a recommender", "healthy", "",
        lambda c: fit(c, nets.recommender(42, 64, 6), photos.ratings, adam(cosine(0.02 * c.rate, 1000)), 1000,
            loss=losses.penalised(losses.squared, 1e-4), batch=200)),
    row("unlucky narrow start", "dead_units", "vanishing_gradients", unlucky_start),
    # A sigmoid network, and its weights should be from -0.5 to 0.5.
    # Reported: "Success after changing weights initialization strategy" (stats.stackexchange.com/q/286424).
    row("weights from 0 to 1", "saturation", "vanishing_gradients",
        lambda c: fit(c, dense((64, 15, 10), "sigmoid", last="sigmoid"), data.digits(c.seed, 800),
            sgd(0.5 * c.rate), 20000, loss=losses.one_hot_error, batch=10,
            change=partial(uniform_start, seed=c.seed, low=c.pick(0.0, -0.5)))),
    # More layers of bidirectional LSTM than the two that had worked, and training stands still.
    # Reported: "Failed to converge with increased amount of BiLSTM layers"
    # (github.com/wenwenyu/PICK-pytorch/issues/40).
    row("eight layers of LSTM", "vanishing_gradients", "saddle",
        lambda c: fit(c, stacked_lstm(12, c.pick(8, 2), 8, 10), data.digits,
            clipped(1.0, sgd(0.1 * c.rate, 0.9)), 300, batch=50)),
    # A convolutional network is made deeper and wider; its weights keep the deviation in the code.
    # Reported: "Proper Initialization of Weights for DCNNs"
    # (moderndescartes.com/essays/initializing_weights_DCNN).
    row("deviation in the code", "exploding_gradients", "slow",
        lambda c: fit(c, plain_convolutions(c.pick(0.4, None)), photos.warmth(c.seed, 300),
            clipped(1.0, sgd(c.rate * c.pick(1e-4, 0.02), 0.9)), 120, batch=30)),
    # An LSTM is to predict the next value of a series that comes as it was counted, up to 765.
    # Reported: "Why scaling data is very important in neural network (LSTM)" (stackoverflow.com/q/46686924).
    row("series as counted", "input_scale", "saturation", lambda c: fit(c, lstm(16, 1, 1),
        photos.brightness(c.seed, counts=not c.cured), sgd(cosine(0.03 * c.rate, 400), 0.9), 400, batch=60)),
    # A relu at the output of a regression whose targets are negative half of the time.
    # Reported: "Error in Neural Network", about learning a sine (datascience.stackexchange.com/q/28191).
    row("relu where targets are negative", "model_bias", "minimum",
        lambda c: fit(c, dense((25, 32, 4), "silu", 1.4, c.pick("relu", "none")), photos.enlarged,
            adamw(cosine(0.01 * c.rate, 800), weight_decay=1e-4), 800, batch=100)),
    # With more units than its small data can pin down it is trained until it knows them by heart.
    # Reported: "Preventing overfitting of LSTM on small dataset" (stats.stackexchange.com/q/204745).
    row("LSTM on few sequences", "overfitting", "", lambda c: fit(c, lstm(48, 8, 10),
        data.digits(c.seed, c.pick(60, 1200)), adam(0.01 * c.rate), 300, batch=30)),
    # Trained on red, green, blue; tested on images that another library read as blue, green, red.
    # Reported: "BGR loading, RGB predicting" (github.com/udacity/sdc-issue-reports/issues/623).
    row("blue before red", "mismatch", "", lambda c: fit(c, dense((48, 32, 1), "softplus"),
        data.test_by(c.pick(lambda x: x.reshape(-1, 16, 3)[..., ::-1].reshape(len(x), -1), same),
            photos.walls(c.seed)), optax.nadam(cosine(0.02 * c.rate, 1000)), 1000, batch=60)),
)

row = partial(Failure, 9, "8a9e293")
curable = partial(row, curable=True)
ROUND_9 = (
    # A network that predicts a mean and a variance: at large steps the variance shrinks to nothing.
    row("variance runs away", "divergence", "oscillation", lambda c: fit(c, dense((10, 16, 2), "tanh"),
        data.diabetes, sgd(c.rate * c.pick(0.5, 0.01), 0.9), 200, loss=losses.likelihood)),
    # Their slope keeps its size near the solution, and so do the steps.
    curable("absolute errors that bounce", "oscillation", "", lambda c: fit(c, dense((4, 1), gain=0.3),
        data.strokes, sgd(c.rate * c.pick(1.0, 0.02)), 200, loss=losses.absolute)),
    # LARS (You et al. 2017) takes a thousandth of its rate, which is made for rates of 1 and more.
    curable("LARS at a small rate", "slow", "", lambda c: fit(c, pooled("gelu", 6, 10), data.digits,
        optax.lars(c.rate * c.pick(0.05, 2.0)), 200, batch=100)),
    curable("two pixels per step", "noise", "oscillation", lambda c: fit(c, dense((12, 16, 3), "tanh"),
        photos.place_waves, optax.amsgrad(0.08 * c.rate), 4000, batch=c.pick(2, 60))),
    # Kernel regression by gradient descent with a kernel so wide that its columns are nearly alike.
    curable("wide kernels", "ill_conditioned", "", lambda c: fit(c, dense((80, 1), gain=0.1),
        data.wide_kernel(c.seed, c.cured), lambda x: sgd(0.7 * c.rate / data.top(x), 0.3), 100)),
    # A mixture of three groups whose means start at one place, and stay together.
    curable("groups that start as one", "saddle", "", lambda c: fit(c, nets.normal_mixture(3, not c.cured),
        data.alone(data.iris(c.seed)), sgd(0.03 * c.rate, 0.8), 300, loss=losses.unlikely)),
    curable("rates by layer", "optimization", "",
        lambda c: fit(c, dense((64, 6, 6, 10), "tanh"), data.digits, rates_by_layer(c), 400, batch=100)),
    # Of a wine's alcohol, trained until nothing moves.
    row("log-cosh, at rest", "minimum", "model_bias", lambda c: fit(c, dense((12, 1), gain=0.3), data.alcohol,
        sgd(0.3 * c.rate, 0.9), 3000, loss=losses.log_cosh)),
    row("healthy: margin on random cosines", "healthy", "",  # A support vector machine.
        lambda c: fit(c, nets.random_cosines(250, 0.3), data.digits(c.seed, 1400),
            adam(cosine(0.01 * c.rate, 800)), 800, loss=losses.class_hinge, batch=140)),
    row("after steps too long", "dead_units", "vanishing_gradients", after_large_steps),
    # Of deviation 1 for 64 tokens, multiplied by √width, and tanh is behind it.
    row("sum of 64 vectors", "saturation", "vanishing_gradients",
        lambda c: fit(c, nets.token_sum(TOKENS, c.pick(1.0, 0.02), np.sqrt(TOKENS)), data.levels(c.seed, 500),
            sgd(0.005 * c.rate, 0.9), 400, batch=50)),
    # A deep autoencoder of silu layers whose weights have a library's default deviation, 1 / √(3 inputs).
    row("default weights, deep", "vanishing_gradients", "saddle",
        lambda c: fit(c, dense((25, 24, 20, 16, 12, 16, 20, 24, 25), "silu", c.pick(3**-0.5, 1.9)),
            photos.copied_patches(c.seed, 400), clipped(1.0, sgd(0.05 * c.rate)), 300, loss=losses.averaged,
            batch=100)),
    # Eight graph convolutions add up their neighbours, and nobody divides by how many there are.
    row("sum of neighbours", "exploding_gradients", "slow",
        lambda c: fit(c, nets.deep_graph(12, 8, scaled=c.cured), data.digits(c.seed, 300),
            clipped(1.0, sgd(c.rate * c.pick(1e-5, 0.02), 0.9)), 150, batch=100)),
    # How bright a place is from its latitude and longitude, which differ in the fourth digit.
    row("latitude and longitude", "input_scale", "ill_conditioned",
        lambda c: fit(c, dense((2, 32, 32, 1), "elu", 1.4), photos.survey(c.seed, degrees=not c.cured),
            adam(cosine(0.01 * c.rate, 1000)), 1000, change=at(lambda w: 0.0 * w, (-1, "w")))),
    # Three layers without anything between them, for a kind of flower that lies between two others.
    row("no activations", "model_bias", "minimum",
        lambda c: fit(c, dense((4, 16, 16, 1), c.pick("none", "tanh"), 1.4),
            data.targets_by(lambda y: data.column(y == 1), data.iris(c.seed)),
            adam(cosine(0.01 * c.rate, 1500)), 1500, loss=losses.binary)),
    # All products of up to three of ten columns are more weights than there are patients.
    row("products of three columns", "overfitting", "",
        lambda c: fit(c, lambda x: dense((x.shape[1], 1), gain=0.1), data.powered(c.seed, c.pick(3, 1)),
            adam(0.01 * c.rate), 10000)),
    # The last rows of a file are kept for the test, and the file is sorted by class.
    row("last rows of a sorted file", "mismatch", "", lambda c: fit(c, dense((13, 24, 3), "silu"),
        data.sorted_wine(c.seed, shuffled=c.cured), optax.adamax(cosine(0.01 * c.rate, 400)), 400)),
)
# fmt: on
FAILURES = ROUND_8 + ROUND_9
