"""Rounds 6 and 7: like round 5 with other models, data and ways of going wrong, and stricter healthy runs."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
from optax import adam, adamw, sgd

from benchmarks.zoo import losses
from benchmarks.zoo import models as nets
from benchmarks.zoo import photographs as photos
from benchmarks.zoo import samples as data
from benchmarks.zoo.image_models import convolutional, depthwise, excited, finer, mixer, upscaler
from benchmarks.zoo.models import dense
from benchmarks.zoo.recipes import at, clipped, cosine, cut_to, nesterov, same
from benchmarks.zoo.sequence_models import causal, column_tokens, gru, lstm
from benchmarks.zoo.training import Failure, Run, Setup, fit

# How many times too sharp the forks of a soft tree are.
SHARP = 100.0


def without_column(parts: data.Parts) -> data.Parts:
    """A column of the sensor gives nothing in the test: its pixels are black."""
    black = parts[0][0].min()

    def change(x: np.ndarray) -> np.ndarray:
        images = x.reshape(-1, 5, 5).copy()
        images[:, :, 3] = black
        return images.reshape(-1, 25)

    return data.test_by(change, parts)


def narrow_bumps(c: Setup) -> Run:
    """A bump on each of 120 patients, so narrow that no other patient is under it."""
    samples = data.diabetes(c.seed, 120)
    start = {
        "centres": jnp.asarray(samples[0][0]),
        "w": jnp.zeros((120, 1), jnp.float32),
        "b": jnp.zeros(1, jnp.float32),
    }
    model = nets.radial_bases(c.pick(1.0, 6.0))
    return fit(c, model, samples, adam(0.01 * c.rate), 600, start=start)


def range_test(c: Setup) -> optax.GradientTransformation:
    """A range test of rates (Smith 2017) that nobody stopped: they grow until the loss is above its start."""
    return sgd(c.pick(optax.exponential_decay(1e-3 * c.rate, 170, 2e4), 0.3 * c.rate), 0.9)


# fmt: off
row = partial(Failure, 6, "496d2af")
curable = partial(row, curable=True)
ROUND_6 = (
    # AMSGrad.
    row("healthy: forecast of a row", "healthy", "", lambda c: fit(c, lstm(24, 6, 6), photos.next_row,
        optax.amsgrad(cosine(0.02 * c.rate, 500)), 500, batch=60)),
    # Its decay of weights keeps them small.
    row("healthy: depthwise, Lion", "healthy", "", lambda c: fit(c, depthwise(10), data.digits(c.seed, 1300),
        optax.lion(cosine(0.02 * c.rate, 400), weight_decay=2.2), 400, batch=100)),
    # A photograph by sines of the place (Sitzmann et al. 2020); the last batch is a small one.
    row("healthy: sines, one cycle", "healthy", "",
        lambda c: fit(c, dense((2, 48, 48, 1), "sin", (4.0, 2.0, 1.0), stream=54), photos.blurred,
            nesterov(optax.cosine_onecycle_schedule(1600, 0.5 * c.rate), 0.9), 1600, loss=losses.huber,
            batch=96)),
    # LAMB on gathered gradients, and a penalty in the loss.
    row("healthy: hole in a photo", "healthy", "", lambda c: fit(c, mixer(8, 4), photos.holes,
        optax.MultiSteps(optax.lamb(optax.linear_schedule(0.02 * c.rate, 0.0, 200)), 2), 400,
        loss=losses.penalised(losses.squared, 1e-4), batch=80)),
    # The colours that a sensor did not see; Adafactor.
    row("healthy: mosaic of a sensor", "healthy", "", lambda c: fit(c, dense((25, 16, 2), "elu", 0.5),
        photos.mosaic, optax.adafactor(cosine(0.05 * c.rate, 600)), 600, batch=80)),
    row("range test without end", "divergence", "oscillation saturation",
        lambda c: fit(c, lstm(16, 8, 10), data.digits, range_test(c), 170, batch=100)),
    # However short the gradient: near the bottom they hop from side to side.
    curable("steps of one length", "oscillation", "",
        lambda c: fit(c, dense((13, 3)), data.mislabelled(data.wine(c.seed), c.seed, 0.15, 3),
            optax.chain(optax.normalize_by_update_norm(), sgd(c.rate * c.pick(2.0, 0.04))), 300)),
    # Adadelta (Zeiler 2012) is made for a rate of 1; a fiftieth of it crawls.
    curable("Adadelta at 0.02", "slow", "",
        lambda c: fit(c, mixer(12), data.digits, optax.adadelta(c.rate * c.pick(0.02, 1.0)), 200, batch=100)),
    # Yogi (Zaheer et al. 2018) on pairs of digits, a fifth of them mislabelled, read row by row.
    curable("Yogi on pairs", "noise", "oscillation", lambda c: fit(c, lstm(16, 8, 10),
        data.mislabelled(data.digits(c.seed, 800), c.seed, 0.2, 10, test=False), optax.yogi(0.05 * c.rate),
        900, batch=c.pick(2, 50))),
    # What should keep one layer's weights from going below zero is applied to all of them.
    curable("weights kept above zero", "optimization", "",
        lambda c: fit(c, dense((64, 16, 1), "tanh"), data.signed_parity,
            optax.chain(adam(0.01 * c.rate), c.pick(optax.keep_params_nonnegative(), optax.identity())), 300,
            batch=100)),
    # Codes are shrunk to zero below it.
    row("threshold above all codes", "dead_units", "vanishing_gradients",
        lambda c: fit(c, nets.sparse_coder(24, c.pick(5.0, 0.1)), data.copied(data.digits(c.seed, 500)),
            adam(5e-3 * c.rate), 300, batch=100)),
    # Biases of -30 shut the gates of all channels: what they multiply is lost.
    row("channels shut", "saturation", "vanishing_gradients",
        lambda c: fit(c, excited(8), data.digits, optax.nadam(5e-3 * c.rate), 200, batch=100,
            change=at(lambda b: b - c.pick(30.0, 0.0), ("gate", "b")))),
    # A gate lets half of the signal through, and sixteen of them in a row leave next to nothing.
    row("halved by gates", "vanishing_gradients", "saddle",
        lambda c: fit(c, nets.gated_layers(13, 16, 16, 3, stream=56, gain=c.pick(1.0, 1.6)), data.wine,
            clipped(1.0, sgd(cosine(0.03 * c.rate, 200), 0.9)), 200)),
    # Layers of products square the size of the signal each, and it starts above 1.
    row("products of products", "exploding_gradients", "slow ill_conditioned",
        lambda c: fit(c,
            nets.gated_layers(25, 16, 3, 1, stream=57, gate="none", gain=c.pick(2.5, 1.0),
                gate_gain=c.pick(2.5, 1.0)), photos.contrast,
            clipped(1.0, sgd(c.rate * c.pick(5e-5, 0.01), 0.9)), 200)),
    # Among standardised values; the rate is the largest that they stand.
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
    # Ten columns cut into 25 bins each are more weights than there are patients.
    row("columns in bins", "overfitting", "", lambda c: fit(c, lambda x: dense((x.shape[1], 1), gain=0.1),
        c.pick(data.binned(c.seed, 120, 25), data.diabetes(c.seed, 120)), adam(0.02 * c.rate), 800)),
    row("dead column of the sensor", "mismatch", "", lambda c: fit(c, dense((25, 24, 2), "tanh"),
        c.pick(without_column, same)(photos.mosaic(c.seed)), optax.adabelief(3e-3 * c.rate), 800, batch=100)),
)

row = partial(Failure, 7, "abf417f")
curable = partial(row, curable=True)
ROUND_7 = (
    row("healthy: upscaled photo, Adan", "healthy", "",  # A photograph at twice its resolution.
        lambda c: fit(c, upscaler(8), photos.halved, optax.adan(cosine(0.02 * c.rate, 500)), 500, batch=60)),
    # Every next pixel of a line from those before it.
    row("healthy: causal convolutions", "healthy", "", lambda c: fit(c, causal(10), photos.lines,
        optax.adamax(optax.polynomial_schedule(0.02 * c.rate, 0.0, 2, 500)), 500, batch=60)),
    # The loss is a sum over the batch, and the rate is one that was meant for a mean.
    row("sum instead of mean", "divergence", "oscillation", lambda c: fit(c, nets.soft_experts(10, 3, 1, 6),
        data.diabetes, sgd(0.1 * c.rate / c.pick(1, 60), 0.5), 150, loss=losses.summed, batch=60)),
    # It turns each array by an angle that does not shrink with the gradient (Bernstein et al. 2020).
    curable("Fromage at 0.25", "oscillation", "",
        lambda c: fit(c, nets.soft_experts(13, 3, 3), data.mislabelled(data.wine(c.seed), c.seed, 0.15, 3),
            optax.fromage(c.rate * c.pick(0.25, 0.01)), 300)),
    # Far above the gradients: next to nothing is left of the rate.
    curable("Adam with epsilon 0.1", "slow", "", lambda c: fit(c, gru(16, 8, 10), data.digits,
        adam(5e-3 * c.rate, eps=c.pick(0.1, 1e-8)), 200, batch=100)),
    # Adan (Xie et al. 2022) on pairs of patients, of whom each has much that the inputs do not explain.
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
    row("healthy: four experts, ridge", "healthy", "",
        lambda c: fit(c, nets.routed_experts(4, 24, 64, 10, one=False), data.digits(c.seed, 1400),
            nesterov(cosine(0.1 * c.rate, 800), 0.9), 800, loss=losses.penalised(losses.cross_entropy, 1e-4),
            batch=100)),
    # Pixels of a photograph from one of half the size; Adamax.
    row("healthy: enlarged photo", "healthy", "", lambda c: fit(c, finer(8), photos.enlarged,
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
    # A photograph as a function of the row plus one of the column, trained as far as that goes.
    row("row plus column", "model_bias", "minimum",
        lambda c: fit(c, c.pick(nets.additive(2, 24), dense((2, 64, 64, 1), "tanh", 2.0)),
            photos.thumbnail(c.seed, counted=False), adam(cosine(0.02 * c.rate, 1500)), 1500)),
    row("bumps too narrow", "overfitting", "", narrow_bumps),
    # By its light there is less than half of the blue in the test images.
    row("taken under a lamp", "mismatch", "",
        lambda c: fit(c,
            convolutional("silu", (8, 8), image=(6, 6, 3), stride=1, padding="VALID", outputs=1,
                name="kernels", stream=78),
            data.test_by(c.pick(lambda x: (x + 1) * np.tile(np.float32([1.0, 0.8, 0.4]), 36) - 1, same),
                photos.warmth(c.seed)), adam(cosine(5e-3 * c.rate, 500)), 500, batch=100)),
)
# fmt: on
FAILURES = ROUND_6 + ROUND_7
