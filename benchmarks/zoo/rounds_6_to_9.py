"""Rounds 6 to 9: like round 5 with other models, data and failures, and stricter healthy runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import adam, adamw, sgd

from benchmarks.zoo import image_models as images
from benchmarks.zoo import losses
from benchmarks.zoo import models as nets
from benchmarks.zoo import photographs as photos
from benchmarks.zoo import samples as data
from benchmarks.zoo.layers import Model, Params, linear, zeros
from benchmarks.zoo.models import dense
from benchmarks.zoo.sequence_models import causal, column_tokens, gru, lstm, stacked_lstm
from benchmarks.zoo.training import Run, Setup, at, clipped, cosine, cut_to, fit, nesterov, rows_of, same

# How many times too sharp the forks of a soft tree are.
SHARP = 100.0
# Width of the vectors of tokens that are added up.
TOKENS = 16


def without_column(parts: data.Parts) -> data.Parts:
    """A column of the sensor gives nothing in the test: its pixels are black."""
    black = np.tile(np.arange(5) == 3, 5)
    return data.test_by(lambda x: np.where(black, parts[0][0].min(), x), parts)


def narrow_bumps(c: Setup) -> Run:
    """A bump on each of 120 patients, so narrow that no other patient is under it."""
    samples = data.diabetes(c.seed, 120)
    start = {"centres": jnp.asarray(samples[0][0]), "w": zeros(120, 1), "b": zeros(1)}
    return fit(c, nets.radial_bases(c.pick(1.0, 6.0)), samples, adam(0.01 * c.rate), 600, start=start)


def unlucky_start(c: Setup) -> Run:
    """As in "Loss values do not change" (community.deeplearning.ai/t/324182): all units start dead."""
    (x, _), (x_test, _) = data.raw_iris(c.seed)
    samples = (x[:, :3], x[:, 3:]), (x_test[:, :3], x_test[:, 3:])
    init, apply = dense((3, 4, 2, 1), "relu", last="relu")
    starts = (init(1000 * c.seed + number) for number in range(1000))
    start = next(at for at in starts if np.all(answering(at, samples[0][0]) == c.pick(0.0, 1.0)))
    return fit(c, (init, apply), samples, adam(0.003 * c.rate), 800, start=start)


def second_layer(params: Params, inputs: jax.Array) -> jax.Array:
    """The layer of two units of the narrow network."""
    return jax.nn.relu(linear(params[1], jax.nn.relu(linear(params[0], inputs))))


def answering(params: Params, inputs: np.ndarray) -> np.ndarray:
    """Share of the inputs for which each unit of the second layer, and the output, is above zero."""
    hidden = second_layer(params, jnp.asarray(inputs))
    return np.mean(np.concatenate([hidden, linear(params[2], hidden)], axis=1) > 0, axis=0)


def uniform_start(params: Params, seed: int, low: float) -> Params:
    """All weights and offsets are drawn from an interval of length 1."""
    rng = np.random.default_rng([seed, 80])
    return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) + low, jnp.float32), params)


def plain_convolutions(deviation: float | None) -> Model:
    """Ten convolutions of a coloured square; their weights' deviation, or He's."""
    fans = (9 * 3, *(9 * 12,) * 9)
    gain = tuple(np.sqrt(2) if deviation is None else deviation * np.sqrt(fan) for fan in fans)
    return images.convolutional(
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

    return fit(c, model, samples, sgd(0.01 * c.rate, 0.9), 500, change=change, batch=40)


def rates_by_layer(c: Setup) -> optax.GradientTransformation:
    """Each layer's rate is a thousandth of that of the layer above, in a network that starts from scratch."""
    factor = c.pick(1e-3, 1.0)
    each = {str(number): adam(0.01 * c.rate * factor ** (2 - number)) for number in range(3)}
    return optax.multi_transform(each, lambda params: [str(number) for number in range(len(params))])


# fmt: off
row, curable, healthy = rows_of(6, "496d2af")
ROUND_6 = (
    healthy("forecast of a row", lambda c: fit(c, lstm(24, 6, 6), photos.next_row,
        optax.amsgrad(cosine(0.02 * c.rate, 500)), 500, batch=60)),
    healthy("depthwise, Lion", lambda c: fit(c, images.depthwise(10), data.digits(c.seed, 1300),
        optax.lion(cosine(0.02 * c.rate, 400), weight_decay=2.2), 400, batch=100)),
    # A photograph by sines of the place (Sitzmann et al. 2020); the last batch is a small one.
    healthy("sines, one cycle", lambda c: fit(c, dense((2, 48, 48, 1), "sin", (4.0, 2.0, 1.0), stream=54),
        photos.blurred, nesterov(optax.cosine_onecycle_schedule(1600, 0.5 * c.rate), 0.9), 1600,
        loss=losses.huber, batch=96)),
    healthy("hole in a photo", lambda c: fit(c, images.mixer(8, 4), photos.holes,
        optax.MultiSteps(optax.lamb(optax.linear_schedule(0.02 * c.rate, 0.0, 200)), 2), 400,
        loss=losses.penalised(losses.squared, 1e-4), batch=80)),
    healthy("mosaic of a sensor", lambda c: fit(c, dense((25, 16, 2), "elu", 0.5), photos.mosaic,
        optax.adafactor(cosine(0.05 * c.rate, 600)), 600, batch=80)),
    # A range test of rates (Smith 2017) that nobody stopped.
    row("range test without end", "divergence", "oscillation saturation",
        lambda c: fit(c, lstm(16, 8, 10), data.digits,
            sgd(c.pick(optax.exponential_decay(1e-3 * c.rate, 170, 2e4), 0.3 * c.rate), 0.9), 170,
            batch=100)),
    curable("steps of one length", "oscillation", "",
        lambda c: fit(c, dense((13, 3)), data.mislabelled(data.wine(c.seed), c.seed, 0.15, 3),
            optax.chain(optax.normalize_by_update_norm(), sgd(c.rate * c.pick(2.0, 0.04))), 300)),
    # Adadelta (Zeiler 2012) is made for a rate of 1; a fiftieth of it crawls.
    curable("Adadelta at 0.02", "slow", "", lambda c: fit(c, images.mixer(12), data.digits,
        optax.adadelta(c.rate * c.pick(0.02, 1.0)), 200, batch=100)),
    curable("Yogi on pairs", "noise", "oscillation", lambda c: fit(c, lstm(16, 8, 10),
        data.mislabelled(data.digits(c.seed, 800), c.seed, 0.2, 10, test=False), optax.yogi(0.05 * c.rate),
        900, batch=c.pick(2, 50))),
    # What should keep one layer's weights from going below zero is applied to all of them.
    curable("weights kept above zero", "optimization", "",
        lambda c: fit(c, dense((64, 16, 1), "tanh"), data.signed_parity,
            optax.chain(adam(0.01 * c.rate), c.pick(optax.keep_params_nonnegative(), optax.identity())), 300,
            batch=100)),
    row("threshold above all codes", "dead_units", "vanishing_gradients",
        lambda c: fit(c, nets.sparse_coder(24, c.pick(5.0, 0.1)), data.copied(data.digits(c.seed, 500)),
            adam(5e-3 * c.rate), 300, batch=100)),
    # Biases of -30 shut the gates of all channels: what they multiply is lost.
    row("channels shut", "saturation", "vanishing_gradients",
        lambda c: fit(c, images.excited(8), data.digits, optax.nadam(5e-3 * c.rate), 200, batch=100,
            change=at(lambda b: b - c.pick(30.0, 0.0), ("gate", "b")))),
    # A gate lets half of the signal through, and sixteen of them in a row leave next to nothing.
    row("halved by gates", "vanishing_gradients", "saddle",
        lambda c: fit(c, nets.gated_layers((13, *(16,) * 16, 3), stream=56, gain=c.pick(1.0, 1.6)), data.wine,
            clipped(1.0, sgd(cosine(0.03 * c.rate, 200), 0.9)), 200)),
    # Layers of products square the size of the signal each, and it starts above 1.
    row("products of products", "exploding_gradients", "slow ill_conditioned",
        lambda c: fit(c,
            nets.gated_layers((25, 16, 16, 16, 1), stream=57, gate="none", gain=c.pick(2.5, 1.0)),
            photos.contrast, clipped(1.0, sgd(c.rate * c.pick(5e-5, 0.01), 0.9)), 200)),
    row("missing is -999", "input_scale", "ill_conditioned", lambda c: fit(c, dense((13, 3), gain=0.1),
        data.gaps(c.seed, 0.03, c.pick(-999.0, 0.0)), lambda x: sgd(2 * c.rate / data.top(x)), 200)),
    # A branch's gate and its last weights both start at zero, where neither has a gradient.
    curable("gate and branch at zero", "saddle", "", lambda c: fit(c, nets.branched(64, 24, c.pick(0.0, 1.0)),
        data.signed_parity, sgd(0.1 * c.rate, 0.9), 600)),
    # A table of colours of which one is common and most are rare, at the largest rate that it stands.
    curable("rare colours", "ill_conditioned", "",
        lambda c: fit(c, lambda x: dense((x.shape[1], 1), gain=0.1),
            data.scaled(photos.palette(c.seed), scale=lambda x: c.pick(1.0, np.sqrt(x.mean(axis=0)))),
            lambda x: sgd(c.rate / data.top(x)), 60)),
    # Which of two digits is greater, by a model that sees their distance alone: swapped, it is the same.
    row("distance for an order", "model_bias", "minimum", lambda c: fit(c, nets.siamese(16, c.cured),
        data.pairs, adamw(0.01 * c.rate, weight_decay=1e-4), 400, loss=losses.binary)),
    row("columns in bins", "overfitting", "", lambda c: fit(c, lambda x: dense((x.shape[1], 1), gain=0.1),
        c.pick(data.binned(c.seed, 120, 25), data.diabetes(c.seed, 120)), adam(0.02 * c.rate), 800)),
    row("dead column of the sensor", "mismatch", "", lambda c: fit(c, dense((25, 24, 2), "tanh"),
        c.pick(without_column, same)(photos.mosaic(c.seed)), optax.adabelief(3e-3 * c.rate), 800, batch=100)),
)

row, curable, healthy = rows_of(7, "abf417f")
ROUND_7 = (
    healthy("upscaled photo, Adan", lambda c: fit(c, images.upscaler(8), photos.halved,
        optax.adan(cosine(0.02 * c.rate, 500)), 500, batch=60)),
    healthy("causal convolutions", lambda c: fit(c, causal(10), photos.lines,
        optax.adamax(optax.polynomial_schedule(0.02 * c.rate, 0.0, 2, 500)), 500, batch=60)),
    # The loss is a sum over the batch, and the rate is one that was meant for a mean.
    row("sum instead of mean", "divergence", "oscillation", lambda c: fit(c, nets.soft_experts(10, 3, 1, 6),
        data.diabetes, sgd(0.1 * c.rate / c.pick(1, 60), 0.5), 150, loss=losses.summed, batch=60)),
    # It turns each array by an angle that does not shrink with the gradient (Bernstein et al. 2020).
    curable("Fromage at 0.25", "oscillation", "",
        lambda c: fit(c, nets.soft_experts(13, 3, 3), data.mislabelled(data.wine(c.seed), c.seed, 0.15, 3),
            optax.fromage(c.rate * c.pick(0.25, 0.01)), 300)),
    curable("Adam with epsilon 0.1", "slow", "", lambda c: fit(c, gru(16, 8, 10), data.digits,
        adam(5e-3 * c.rate, eps=c.pick(0.1, 1e-8)), 200, batch=100)),
    curable("Adan on pairs", "noise", "", lambda c: fit(c, nets.soft_experts(10, 3, 1, 6), data.diabetes,
        optax.adan(0.05 * c.rate), 900, batch=c.pick(2, 75))),
    # Heights along a line from differences of neighbours: what is far apart hardly affects each other.
    curable("line of levels", "ill_conditioned", "", lambda c: fit(c, nets.heights(240, c.cured),
        (photos.levelling(c.seed, 240), None), lambda x: sgd(c.rate * len(x) / c.pick(4.0, 1.0)), 200)),
    # Copies of one (Komatsuzaki et al. 2023) without noise, and a router at zero.
    curable("experts are copies", "saddle", "",
        lambda c: fit(c, nets.soft_experts(25, 4, 1, copied=not c.cured), photos.contrast,
            sgd(0.03 * c.rate, 0.9), 800)),
    # At ±0.2 after each step (Arjovsky et al. 2017), in a classifier.
    curable("weights cut as a critic's", "optimization", "", lambda c: fit(c, nets.graph(12), data.digits,
        optax.chain(adam(5e-3 * c.rate), cut_to(c.pick(0.2, 10.0))), 300, batch=100)),
    row("gamma regression, at rest", "minimum", "model_bias", lambda c: fit(c, dense((10, 1), gain=0.1),
        data.diabetes(c.seed, target=lambda values: values / values.mean()), nesterov(0.3 * c.rate, 0.9),
        3000, loss=losses.gamma)),
    healthy("four experts, ridge", lambda c: fit(c, nets.routed_experts(4, 24, 64, 10, one=False),
        data.digits(c.seed, 1400), nesterov(cosine(0.1 * c.rate, 800), 0.9), 800,
        loss=losses.penalised(losses.cross_entropy, 1e-4), batch=100)),
    healthy("enlarged photo", lambda c: fit(c, images.finer(8), photos.enlarged,
        optax.adamax(optax.linear_schedule(0.02 * c.rate, 0.0, 600)), 600, batch=80)),
    # A router that asks the likeliest expert starts with a bias of 25 for one of sixteen.
    row("all to one expert", "dead_units", "", lambda c: fit(c, nets.routed_experts(16, 2, 64, 10, one=True),
        data.digits(c.seed, 800), adam(cosine(0.02 * c.rate, 400)), 400, batch=100,
        change=c.pick(at(lambda b: b.at[0].add(25.0), ("router", "b")), same))),
    # The forks of a soft tree are a hundred times too sharp: each is 0 or 1, and only leaves learn.
    row("forks too sharp", "saturation", "vanishing_gradients",
        lambda c: fit(c, nets.soft_tree(4, 64, 10, c.pick(SHARP, 1.0)),
            data.inputs_by(lambda x: x - 0.3, data.digits(c.seed, 600)),
            clipped(1.0, sgd(c.rate * c.pick(0.05, 2.0), 0.9)), 400, batch=100)),
    # Over a table's columns with GPT-2's weights of 0.02, and the skips are forgotten.
    row("attention without skips", "vanishing_gradients", "saddle",
        lambda c: fit(c, column_tokens(13, 16, 4, 3, skip=c.cured), data.wine, sgd(0.1 * c.rate, 0.9), 200)),
    # A neural differential equation runs to 18, as the clock says in seconds, where 1 was meant.
    row("clock in seconds", "exploding_gradients", "slow ill_conditioned",
        lambda c: fit(c, nets.flow(10, 12, c.pick(18.0, 1.0)), data.diabetes,
            clipped(1.0, sgd(c.rate * c.pick(5e-6, 0.02), 0.9)), 200)),
    row("places in pixels", "input_scale", "ill_conditioned",
        lambda c: fit(c, dense((2, 32, 32, 1), "silu", 1.4), photos.thumbnail(c.seed, counted=not c.cured),
            adam(cosine(0.01 * c.rate, 800)), 800, change=at(lambda w: 0.0 * w, (-1, "w")))),
    row("row plus column", "model_bias", "minimum",
        lambda c: fit(c, c.pick(nets.additive(2, 24), dense((2, 64, 64, 1), "tanh", 2.0)),
            photos.thumbnail(c.seed, counted=False), adam(cosine(0.02 * c.rate, 1500)), 1500)),
    row("bumps too narrow", "overfitting", "", narrow_bumps),
    # By its light there is less than half of the blue in the test images.
    row("taken under a lamp", "mismatch", "",
        lambda c: fit(c,
            images.convolutional("silu", (8, 8), image=(6, 6, 3), stride=1, padding="VALID", outputs=1,
                name="kernels", stream=78),
            data.test_by(c.pick(lambda x: (x + 1) * np.tile(np.float32([1.0, 0.8, 0.4]), 36) - 1, same),
                photos.warmth(c.seed)), adam(cosine(5e-3 * c.rate, 500)), 500, batch=100)),
)

row, curable, healthy = rows_of(8, "9c6f60f")
ROUND_8 = (
    healthy("noise out of a photo", lambda c: fit(c, images.denoiser(6), photos.grainy,
        optax.adabelief(cosine(0.01 * c.rate, 400)), 400, batch=40)),
    healthy("batch-normalised", lambda c: fit(c, nets.batch_normed(20, 8, 2), data.worst_sizes,
        optax.nadam(optax.linear_schedule(0.02 * c.rate, 0.0, 400)), 400, batch=80)),
    # Reported: Cross Validated 418955, "Why is deep neural net with linear activation diverges".
    row("targets in the hundreds", "divergence", "oscillation",
        lambda c: fit(c, dense((10, 16, 1), stream=101),
            data.diabetes(c.seed, target=c.pick(same, data.standard)), sgd(0.01 * c.rate), 120, batch=30)),
    # Reported: Stack Overflow, a question on a linear SVC built from scratch whose hinge cost fluctuates.
    curable("margin from scratch", "oscillation", "", lambda c: fit(c, dense((10, 1), gain=0.3),
        data.diabetes(c.seed, target=lambda y: np.where(y > np.median(y), 1.0, -1.0)),
        lambda x: sgd(c.rate * c.pick(1.9, 0.2) / data.top(x)), 200, loss=losses.squared_hinge)),
    # Reported: GitHub, williamleif/GraphSAGE, issue 12, "Double division by batch size".
    curable("averaged twice", "slow", "",
        lambda c: fit(c, images.pooled("silu", 6, 10), data.digits, sgd(0.1 * c.rate * c.pick(1, 50), 0.9),
            160, loss=losses.divided(losses.cross_entropy, 50), batch=50)),
    # Reported: Cross Validated, "Why does the loss/accuracy fluctuate during the training? (Keras, LSTM)".
    curable("one sequence per step", "noise", "oscillation",
        lambda c: fit(c, gru(16, 8, 10), data.digits, sgd(0.15 * c.rate, 0.9), 900, batch=c.pick(1, 50))),
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
    # Reported: r/MachineLearning 2019, "Minimum cost is not zero when calculating cross-entropy on soft ...".
    row("smoothed labels, at rest", "minimum", "", lambda c: fit(c, dense((13, 1), gain=0.1),
        data.targets_by(lambda y: data.column((y == 0) * 0.9 + 0.05), data.wine(c.seed)),
        sgd(1.0 * c.rate, 0.9), 3000, loss=losses.binary)),
    healthy("denoiser, batch norm", lambda c: fit(c, images.normed_denoiser(6), photos.grained,
        adam(cosine(0.02 * c.rate, 400)), 400, batch=125)),
    healthy("vectors of a recommender", lambda c: fit(c, nets.recommender(42, 64, 6), photos.ratings,
        adam(cosine(0.02 * c.rate, 1000)), 1000, loss=losses.penalised(losses.squared, 1e-4), batch=200)),
    row("unlucky narrow start", "dead_units", "vanishing_gradients", unlucky_start),
    # A sigmoid network, and its weights should be from -0.5 to 0.5.
    # Reported: "Success after changing weights initialization strategy" (stats.stackexchange.com/q/286424).
    row("weights from 0 to 1", "saturation", "vanishing_gradients",
        lambda c: fit(c, dense((64, 15, 10), "sigmoid", last="sigmoid"), data.digits(c.seed, 800),
            sgd(0.5 * c.rate), 20000, loss=losses.one_hot_error, batch=10,
            change=partial(uniform_start, seed=c.seed, low=c.pick(0.0, -0.5)))),
    # More layers of bidirectional LSTM than the two that had worked, and training stands still.
    # Reported: "Failed to converge with increased amount of BiLSTM layers" (wenwenyu/PICK-pytorch, issue 40).
    row("eight layers of LSTM", "vanishing_gradients", "saddle",
        lambda c: fit(c, stacked_lstm(12, c.pick(8, 2), 8, 10), data.digits,
            clipped(1.0, sgd(0.1 * c.rate, 0.9)), 300, batch=50)),
    # A convolutional network is made deeper and wider; its weights keep the deviation in the code.
    # Reported: "Proper Initialization of Weights for DCNNs" (moderndescartes.com).
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
    # Reported: "Preventing overfitting of LSTM on small dataset" (stats.stackexchange.com/q/204745).
    row("LSTM on few sequences", "overfitting", "", lambda c: fit(c, lstm(48, 8, 10),
        data.digits(c.seed, c.pick(60, 1200)), adam(0.01 * c.rate), 300, batch=30)),
    # Trained on red, green, blue; tested on images that another library read as blue, green, red.
    # Reported: "BGR loading, RGB predicting" (github.com/udacity/sdc-issue-reports/issues/623).
    row("blue before red", "mismatch", "", lambda c: fit(c, dense((48, 32, 1), "softplus"),
        data.test_by(c.pick(lambda x: x.reshape(-1, 16, 3)[..., ::-1].reshape(len(x), -1), same),
            photos.walls(c.seed)), optax.nadam(cosine(0.02 * c.rate, 1000)), 1000, batch=60)),
)

row, curable, healthy = rows_of(9, "8a9e293")
ROUND_9 = (
    row("variance runs away", "divergence", "oscillation", lambda c: fit(c, dense((10, 16, 2), "tanh"),
        data.diabetes, sgd(c.rate * c.pick(0.5, 0.01), 0.9), 200, loss=losses.likelihood)),
    curable("absolute errors that bounce", "oscillation", "", lambda c: fit(c, dense((4, 1), gain=0.3),
        data.strokes, sgd(c.rate * c.pick(1.0, 0.02)), 200, loss=losses.absolute)),
    # LARS (You et al. 2017) takes a thousandth of its rate, which is made for rates of 1 and more.
    curable("LARS at a small rate", "slow", "", lambda c: fit(c, images.pooled("gelu", 6, 10), data.digits,
        optax.lars(c.rate * c.pick(0.05, 2.0)), 200, batch=100)),
    curable("two pixels per step", "noise", "oscillation", lambda c: fit(c, dense((12, 16, 3), "tanh"),
        photos.place_waves, optax.amsgrad(0.08 * c.rate), 4000, batch=c.pick(2, 60))),
    curable("wide kernels", "ill_conditioned", "", lambda c: fit(c, dense((80, 1), gain=0.1),
        data.wide_kernel(c.seed, c.cured), lambda x: sgd(0.7 * c.rate / data.top(x), 0.3), 100)),
    curable("groups that start as one", "saddle", "", lambda c: fit(c, nets.normal_mixture(3, not c.cured),
        data.alone(data.iris(c.seed)), sgd(0.03 * c.rate, 0.8), 300, loss=losses.unlikely)),
    curable("rates by layer", "optimization", "",
        lambda c: fit(c, dense((64, 6, 6, 10), "tanh"), data.digits, rates_by_layer(c), 400, batch=100)),
    row("log-cosh, at rest", "minimum", "model_bias", lambda c: fit(c, dense((12, 1), gain=0.3), data.alcohol,
        sgd(0.3 * c.rate, 0.9), 3000, loss=losses.log_cosh)),
    healthy("margin on random cosines",  # A support vector machine.
        lambda c: fit(c, nets.random_cosines(250, 0.3), data.digits(c.seed, 1400),
            adam(cosine(0.01 * c.rate, 800)), 800, loss=losses.class_hinge, batch=140)),
    row("after steps too long", "dead_units", "vanishing_gradients", after_large_steps),
    row("sum of 64 vectors", "saturation", "vanishing_gradients",
        lambda c: fit(c, nets.token_sum(TOKENS, c.pick(1.0, 0.02), np.sqrt(TOKENS)), data.levels(c.seed, 500),
            sgd(0.005 * c.rate, 0.9), 400, batch=50)),
    row("default weights, deep", "vanishing_gradients", "saddle",
        lambda c: fit(c, dense((25, 24, 20, 16, 12, 16, 20, 24, 25), "silu", c.pick(3**-0.5, 1.9)),
            photos.copied_patches(c.seed, 400), clipped(1.0, sgd(0.05 * c.rate)), 300, loss=losses.averaged,
            batch=100)),
    row("sum of neighbours", "exploding_gradients", "slow",
        lambda c: fit(c, nets.deep_graph(12, 8, scaled=c.cured), data.digits(c.seed, 300),
            clipped(1.0, sgd(c.rate * c.pick(1e-5, 0.02), 0.9)), 150, batch=100)),
    # How bright a place is from its latitude and longitude, which differ in the fourth digit.
    row("latitude and longitude", "input_scale", "ill_conditioned",
        lambda c: fit(c, dense((2, 32, 32, 1), "elu", 1.4), photos.survey(c.seed, degrees=not c.cured),
            adam(cosine(0.01 * c.rate, 1000)), 1000, change=at(lambda w: 0.0 * w, (-1, "w")))),
    row("no activations", "model_bias", "minimum",
        lambda c: fit(c, dense((4, 16, 16, 1), c.pick("none", "tanh"), 1.4),
            data.targets_by(lambda y: data.column(y == 1), data.iris(c.seed)),
            adam(cosine(0.01 * c.rate, 1500)), 1500, loss=losses.binary)),
    row("products of three columns", "overfitting", "",
        lambda c: fit(c, lambda x: dense((x.shape[1], 1), gain=0.1), data.powered(c.seed, c.pick(3, 1)),
            adam(0.01 * c.rate), 10000)),
    row("last rows of a sorted file", "mismatch", "", lambda c: fit(c, dense((13, 24, 3), "silu"),
        data.sorted_wine(c.seed, shuffled=c.cured), optax.adamax(cosine(0.01 * c.rate, 400)), 400)),
)
# fmt: on
FAILURES = ROUND_6 + ROUND_7 + ROUND_8 + ROUND_9
