"""Rounds 1 to 3: thresholds were chosen on round 1, failures of round 2 changed them, round 3 came later."""

import jax.numpy as jnp
import numpy as np
import optax
from optax import adam, adamw, rmsprop, sgd

from benchmarks.zoo import losses
from benchmarks.zoo import photographs as photos
from benchmarks.zoo import samples as data
from benchmarks.zoo.image_models import convolutional
from benchmarks.zoo.layers import Params
from benchmarks.zoo.models import dense, mean_of_inputs, residual
from benchmarks.zoo.sequence_models import attention, scanned
from benchmarks.zoo.training import Run, Setup, at, clipped, cosine, fit, nesterov, rows_of


def healthy_dense(c: Setup, samples: object = None) -> Run:
    """The first healthy run; `samples` may have other test data."""
    return fit(c, dense((64, 32, 10), "tanh"), samples or data.digits(c.seed, 800), adam(3e-3), 400)


def noisy(x: np.ndarray, seed: int) -> np.ndarray:
    """Images with noise."""
    return (x + 0.7 * np.random.default_rng([seed, 6]).standard_normal(x.shape)).astype(np.float32)


def equal_units(params: Params) -> Params:
    """All hidden units are the first one."""
    first, last = params
    first = {**first, "w": jnp.tile(first["w"][:, :1], (1, 8))}
    return [first, {**last, "w": jnp.tile(last["w"][:1], (8, 1))}]


def codes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Wine, standardised, for autoencoders."""
    return data.alone(data.wine(seed))


def other_labels(seed: int) -> data.Parts:
    """Wine whose test file numbers its classes differently."""
    train, (x, y) = data.wine(seed)
    return train, (x, ((y + 1) % 3).astype(np.int32))


# fmt: off
row, curable, healthy = rows_of(1, "5d3540f")
ROUND_1 = (
    healthy("dense", healthy_dense),
    healthy("convolutional",
        lambda c: fit(c, convolutional(), data.digits(c.seed, 800), adam(1e-2), 300, batch=100)),
    healthy("attention", lambda c: fit(c, attention(), data.digits(c.seed, 800), adam(3e-3), 400, batch=100)),
    # The loss rises above its start and stays there, or is not finite.
    row("rate too large, dense", "divergence", "oscillation",
        lambda c: fit(c, dense((64, 32, 10), "relu", 1.4), data.digits, sgd(20.0), 60,
            loss=losses.one_hot_error)),
    # Cross-entropy is nearly linear far out, so steps beyond the limit bounce instead of running away.
    curable("bouncing, linear", "oscillation", "", lambda c: fit(c, dense((64, 10)),
        data.mislabelled(data.digits(c.seed), c.seed, 0.3, 10), sgd(4.0), 200)),
    curable("rate too small, dense", "slow", "",
        lambda c: fit(c, dense((64, 32, 10), "relu", 1.4), data.digits, sgd(1e-3, 0.9), 200)),
    curable("small start, dense", "saddle", "slow vanishing_gradients",
        lambda c: fit(c, dense((64, 16, 10), "silu", 1e-3), data.digits, sgd(0.05), 150)),
    row("dead units, dense", "dead_units", "", lambda c: fit(c, dense((64, 32, 10), "relu", 1.4), data.digits,
        adam(1e-3), 200, change=at(lambda b: b - 8.0, (0, "b")))),
    row("saturated tanh", "saturation", "slow", lambda c: fit(c, dense((64, 16, 16, 10), "tanh"), data.digits,
        sgd(0.01), 150, change=at(lambda w: 100.0 * w, (0, "w"), (1, "w")))),
    row("deep sigmoid", "vanishing_gradients", "saddle slow",
        lambda c: fit(c, dense((64, *(16,) * 7, 10), "sigmoid"), data.digits, sgd(0.1), 200)),
    row("deep relu, large weights", "exploding_gradients", "slow",
        lambda c: fit(c, dense((64, *(16,) * 7, 10), "relu", 4.5), data.digits, sgd(1e-12), 50)),
    row("raw units", "input_scale", "saturation ill_conditioned oscillation slow",
        lambda c: fit(c, dense((30, 16, 2), "tanh"), data.raw_cancer, sgd(0.05, 0.9), 200)),
    curable("batches of two, dense", "noise", "oscillation",
        lambda c: fit(c, dense((64, 32, 10), "tanh"), data.digits, sgd(0.3), 600, batch=2)),
    # Cumulative sums of the digits' pixels, which are strongly correlated.
    curable("long valley, linear", "ill_conditioned", "slow", lambda c: fit(c, dense((64, 10)),
        data.inputs_by(lambda x: np.cumsum(x - data.all_digits()[0].mean(0), axis=1) / 8,
            data.digits(c.seed)), lambda x: sgd(1.0 / data.top_covariance(x)), 300,
        loss=losses.one_hot_error)),
    row("bottleneck", "model_bias", "minimum ill_conditioned",
        lambda c: fit(c, dense((64, 1, 10), "tanh"), data.digits, adam(1e-2), 3000)),
    row("few samples, dense", "overfitting", "",
        lambda c: fit(c, dense((64, 64, 10), "relu", 1.4), data.digits(c.seed, 60), adam(3e-3), 600)),
    row("inverted test images", "mismatch", "",
        lambda c: healthy_dense(c, data.test_by(lambda x: 1 - x, data.digits(c.seed, 800)))),
)

row, curable, healthy = rows_of(2, "5d3540f")
ROUND_2 = (
    healthy("dense on wine",
        lambda c: fit(c, dense((13, 8, 3), "relu", 1.4), data.wine_of_all, sgd(0.1, 0.9), 400)),
    row("rate too large, convolutional", "divergence", "oscillation dead_units",
        lambda c: fit(c, convolutional(), data.digits, adam(3.0), 60)),
    curable("bouncing, logistic", "oscillation", "", lambda c: fit(c, dense((30, 2)),
        data.mislabelled(data.cancer(c.seed), c.seed, 0.3, 2), sgd(2.0), 200)),
    curable("rate too small, convolutional", "slow", "",
        lambda c: fit(c, convolutional(), data.digits, adam(2e-5), 200)),
    curable("small start, deeper", "saddle", "slow vanishing_gradients",
        lambda c: fit(c, dense((64, 16, 16, 10), "tanh", 3e-2), data.digits, sgd(0.05), 150,
            loss=losses.one_hot_error)),
    row("dead units, convolutional", "dead_units", "", lambda c: fit(c, convolutional(), data.digits,
        adam(1e-3), 200, change=at(lambda b: b - 10.0, ("conv", 1, "b")))),
    row("saturated sigmoid", "saturation", "slow", lambda c: fit(c, dense((64, 32, 10), "sigmoid"),
        data.digits, adam(1e-3), 200, change=at(lambda b: b + 12.0, (0, "b")))),
    row("deep tanh, small weights", "vanishing_gradients", "saddle slow",
        lambda c: fit(c, dense((64, *(16,) * 7, 10), "tanh", 0.3), data.digits, sgd(0.1), 200)),
    row("deep convolutional, large", "exploding_gradients", "slow",
        lambda c: fit(c, convolutional("relu", (8,) * 6, 5.0), data.digits, sgd(1e-12), 50)),
    # As temperatures in kelvin are; the rate is what they can stand.
    row("inputs around 100", "input_scale", "ill_conditioned oscillation slow",
        lambda c: fit(c, dense((64, 32, 10), "relu", 1.4),
            data.inputs_by(lambda x: x + 100, data.digits(c.seed)), sgd(1e-6, 0.9), 200)),
    curable("batches of two, convolutional", "noise", "oscillation",
        lambda c: fit(c, convolutional("tanh", (4, 4)),
            data.mislabelled(data.digits(c.seed), c.seed, 0.3, 10, test=False), sgd(0.2), 800, batch=2)),
    curable("long valley, dense", "ill_conditioned", "slow input_scale",
        lambda c: fit(c, dense((64, 32, 10), "tanh", 0.3),
            data.inputs_by(lambda x: x - data.all_digits()[0].mean(0) + 3.0, data.digits(c.seed)), sgd(0.01),
            400, loss=losses.one_hot_error)),
    row("linear on rings", "model_bias", "minimum",  # Only the distance from the centre counts.
        lambda c: fit(c, dense((2, 2)), data.rings, adam(3e-2), 1500)),
    row("few samples, attention", "overfitting", "",
        lambda c: fit(c, attention(), data.digits(c.seed, 80), adam(3e-3), 600)),
    row("moved test images", "mismatch", "", lambda c: fit(c, convolutional(),
        data.test_by(lambda x: np.roll(x.reshape(-1, 8, 8), 2, axis=2).reshape(-1, 64),
            data.digits(c.seed, 800)), adam(1e-2), 300, batch=100)),
)

row, curable, healthy = rows_of(3, "8406f73")
ROUND_3 = (
    healthy("tanh convolutional", lambda c: fit(c, convolutional("tanh", (8, 8), 1.0),
        data.digits(c.seed, 800), sgd(0.1, 0.9), 400, batch=50)),
    curable("rate too small, attention", "slow", "",
        lambda c: fit(c, attention(), data.digits, sgd(2e-4, 0.9), 200)),
    # The layer after attention has no bias; negative weights on its positive inputs do the same.
    row("dead units, attention", "dead_units", "", lambda c: fit(c, attention(), data.digits, adam(1e-4), 100,
        change=lambda at: {**at, "place": at["place"] + 5.0, "up": -jnp.abs(at["up"])})),
    row("deep sigmoid on wine", "vanishing_gradients", "saddle slow",
        lambda c: fit(c, dense((13, *(8,) * 7, 3), "sigmoid"), data.wine_of_all, sgd(0.1, 0.9), 200)),
    curable("small start on wine", "saddle", "slow",
        lambda c: fit(c, dense((13, 8, 3), "tanh", 1e-3), data.wine_of_all, sgd(0.02), 60)),
    row("few samples, convolutional", "overfitting", "",
        lambda c: fit(c, convolutional(), data.digits(c.seed, 40), adam(1e-2), 300)),
    row("noisy test images", "mismatch", "",
        lambda c: healthy_dense(c, data.test_by(lambda x: noisy(x, c.seed), data.digits(c.seed, 800)))),
    # One channel, averaged over the image: ten classes from a single number.
    row("one number per image", "model_bias", "minimum ill_conditioned",
        lambda c: fit(c, mean_of_inputs(), data.digits, adam(3e-2), 3000)),
)

# Other losses, models and optimisers, on which thresholds were chosen as well.
row, curable, healthy = rows_of(1, "a746a92")
ROUND_1_VARIED = (
    healthy("autoencoder", lambda c: fit(c, dense((13, 11, 13), "elu"), codes, adam(1e-2), 500)),
    healthy("one logit",
        lambda c: fit(c, dense((30, 8, 1), "silu"), data.one_logit, sgd(0.1, 0.9), 250, loss=losses.binary)),
    healthy("target in hundreds",
        lambda c: fit(c, dense((28, 12, 1), "relu", 1.4), data.tumour_area, adam(cosine(3.0, 400)), 400)),
    healthy("scan, gathered steps", lambda c: fit(c, scanned(24, "tanh"), data.digits(c.seed, 800),
        optax.MultiSteps(adamw(1e-2), 2), 400, batch=100)),
    healthy("layer norm, no test", lambda c: fit(c, residual(12, 3, 3, 13, normed=True), data.wine,
        clipped(1.0, adam(3e-3)), 200, without=("test_data",))),
    healthy("injected rate", lambda c: fit(c, dense((4, 12, 3), "silu"), data.iris,
        optax.inject_hyperparams(adamw)(1e-2), 400, batch=10)),
    row("rate jumps late", "divergence", "oscillation dead_units saturation",
        lambda c: fit(c, dense((10, 16, 1), "elu"), data.diabetes,
            adam(optax.piecewise_constant_schedule(3e-3, {200: 1000.0})), 250)),
    row("RMSProp at 2, autoencoder", "divergence", "oscillation",
        lambda c: fit(c, dense((13, 6, 13), "elu"), codes, rmsprop(2.0), 60)),
    curable("bouncing, one logit", "oscillation", "", lambda c: fit(c, dense((30, 1)),
        data.flipped(data.one_logit(c.seed), c.seed, 0.2), nesterov(3.0, 0.5), 200, loss=losses.binary)),
    # Steps of signs do not shrink with the gradient; what they can stand is not known.
    curable("bouncing Lion", "oscillation", "", lambda c: fit(c, dense((13, 3)),
        data.mislabelled(data.wine(c.seed), c.seed, 0.2, 3), optax.lion(0.3), 200)),
    curable("tiny rate, autoencoder", "slow", "",
        lambda c: fit(c, dense((13, 8, 13), "tanh"), codes, rmsprop(1e-5), 200)),
    # A cosine over a tenth of the training: from there on the rate is zero.
    curable("cosine ended early", "slow", "",
        lambda c: fit(c, dense((13, 16, 3), "relu", 1.4), data.wine, sgd(cosine(0.02, 30)), 300)),
    curable("clipped to nothing", "slow", "", lambda c: fit(c, dense((30, 8, 1), "elu"), data.one_logit,
        clipped(1e-3, sgd(0.1)), 200, loss=losses.binary)),
    curable("powers of an input", "ill_conditioned", "slow",
        lambda c: fit(c, dense((8, 1)), data.powers_of_one, lambda x: sgd(1.0 / data.top(x)), 200)),
    curable("twins", "ill_conditioned", "slow", lambda c: fit(c, dense((60, 1), gain=0.1), data.twin_columns,
        lambda x: sgd(1.0 / data.top_covariance(x)), 150)),
    # All hidden units start alike, and so they stay: a new start ends far lower.
    curable("tied units", "optimization", "saddle",
        lambda c: fit(c, dense((64, 8, 10), "tanh"), data.digits, sgd(0.1, 0.9), 800, change=equal_units)),
    curable("small start, autoencoder", "saddle", "slow vanishing_gradients",
        lambda c: fit(c, dense((13, 5, 5, 13), gain=0.02), codes, sgd(0.05), 100)),
    curable("single samples, one logit", "noise", "oscillation",
        lambda c: fit(c, dense((30, 1)), data.flipped(data.one_logit(c.seed), c.seed, 0.3),
            nesterov(0.02, 0.9), 1200, loss=losses.binary, batch=1)),
    curable("pairs, RMSProp", "noise", "oscillation",
        lambda c: fit(c, dense((10, 1)), data.diabetes, rmsprop(0.03), 900, batch=2)),
    row("dead gelu", "dead_units", "vanishing_gradients", lambda c: fit(c, dense((13, 24, 3), "gelu"),
        data.wine, adam(1e-3), 200, change=at(lambda b: b - 12.0, (0, "b")))),
    row("dead where", "dead_units", "vanishing_gradients",
        lambda c: fit(c, dense((30, 16, 16, 1), "relu by where", 1.4), data.one_logit, sgd(0.05), 200,
            loss=losses.binary, change=at(lambda b: b - 9.0, (0, "b")))),
    row("saturated hard tanh", "saturation", "vanishing_gradients slow",
        lambda c: fit(c, dense((13, 10, 10, 3), "hard_tanh"), data.wine, sgd(0.02), 200,
            change=at(lambda w: 60.0 * w, (0, "w"), (1, "w")))),
    row("saturated regression", "saturation", "vanishing_gradients slow",
        lambda c: fit(c, dense((10, 20, 1), "tanh"), data.diabetes, adam(1e-3), 200,
            change=at(lambda b: b + 15.0, (0, "b")))),
    row("vanishing in a scan", "vanishing_gradients", "saddle slow",
        lambda c: fit(c, scanned(16, "sigmoid", 0.5), data.digits(c.seed, 300), sgd(0.05), 100)),
    row("deep sigmoid autoencoder", "vanishing_gradients", "saddle slow",
        lambda c: fit(c, dense((13, *(10,) * 6, 13), "sigmoid"), codes, adam(1e-4), 150)),
    row("exploding leaky relu", "exploding_gradients", "slow oscillation ill_conditioned",
        lambda c: fit(c, dense((10, *(12,) * 7, 1), "leaky_relu", 5.0), data.diabetes,
            clipped(0.1, sgd(0.05)), 100)),
    row("exploding in a scan", "exploding_gradients", "slow oscillation ill_conditioned",
        lambda c: fit(c, scanned(20, "relu", 9.0), data.digits(c.seed, 300), clipped(1.0, sgd(0.01)), 150)),
    row("bytes", "input_scale", "saturation ill_conditioned oscillation slow",
        lambda c: fit(c, dense((64, 24, 10), "tanh"), data.inputs_by(lambda x: x * 255, data.digits(c.seed)),
            sgd(0.01, 0.9), 200)),
    row("inputs far from zero", "input_scale", "ill_conditioned slow",  # Deviation 0.1 around 5.
        lambda c: fit(c, dense((13, 16, 3), "tanh", 0.3),
            data.inputs_by(lambda x: 5 + 0.1 * x, data.wine(c.seed)), sgd(0.05), 200)),
    row("sign of a product", "model_bias", "minimum ill_conditioned",  # By a linear model.
        lambda c: fit(c, dense((6, 1)), data.sign_of_product, adam(3e-2), 600, loss=losses.binary)),
    row("autoencoder of one unit", "model_bias", "minimum ill_conditioned",
        lambda c: fit(c, dense((64, 1, 10, 64)), data.alone(data.digits(c.seed, 600)), adam(1e-2), 800)),
    row("one tanh unit", "model_bias", "minimum ill_conditioned", lambda c: fit(c, dense((64, 1, 3), "tanh"),
        data.targets_by(lambda y: (y % 3).astype(np.int32), data.digits(c.seed, 900)), adam(2e-2), 1500)),
    row("ridge, solved", "minimum", "model_bias",  # Logistic regression with a penalty, at its minimum.
        lambda c: fit(c, dense((30, 1)), data.flipped(data.one_logit(c.seed), c.seed, 0.3), adam(0.03), 1500,
            loss=losses.penalised(losses.binary, 0.05), without=("test_data",))),
    row("few patients, no apply", "overfitting", "", lambda c: fit(c, dense((30, 32, 1), "relu", 1.4),
        data.flipped(data.one_logit(c.seed, 60), c.seed, 0.2), adam(1e-2), 500, loss=losses.binary,
        without=("apply",))),
    row("few wines, autoencoder", "overfitting", "", lambda c: fit(c, dense((13, 40, 6, 40, 13), "tanh"),
        (codes(c.seed)[0][:50], codes(c.seed)[1]), adam(1e-2), 1000)),
    row("other labels in the test", "mismatch", "",
        lambda c: fit(c, dense((13, 12, 3), "tanh"), other_labels, adam(1e-2), 150)),
    row("test of three times the gain", "mismatch", "", lambda c: fit(c, dense((24, 16, 1), "tanh"),
        data.test_by(lambda x: 3 * x, photos.centre(c.seed)), adam(1e-2), 400)),
)
# fmt: on
FAILURES = ROUND_1 + ROUND_2 + ROUND_3 + ROUND_1_VARIED
