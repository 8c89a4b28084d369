"""Rounds 4 and 5: written from the documentation of `diagnose` by people who had not read its rules."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import adagrad, adam, adamw, rmsprop, sgd

from benchmarks.zoo import losses
from benchmarks.zoo import models as nets
from benchmarks.zoo import photographs as photos
from benchmarks.zoo import samples as data
from benchmarks.zoo.image_models import coder, convolutional, pixel_set, pooled, separable
from benchmarks.zoo.layers import Params
from benchmarks.zoo.models import dense
from benchmarks.zoo.sequence_models import gru, recurrent, scanned, transformer, two_heads
from benchmarks.zoo.training import Run, Setup, at, clipped, cosine, fit, nesterov, rows_of, same

warm_cosine = partial(optax.warmup_cosine_decay_schedule, 0.0)  # rate, steps of warm-up, steps


def every(by: Callable[[Any], Any]) -> Callable[[Params], Params]:
    """A change of the weights of every layer of a dense network."""
    return lambda params: [{**layer, "w": by(layer["w"])} for layer in params]


def healthy_cancer(c: Setup, samples: data.Parts) -> Run:
    """Momentum with a cosine on standardised measurements of tumours."""
    return fit(c, dense((30, 16, 2), "elu"), samples, sgd(cosine(0.02, 250), 0.9), 250, batch=50)


def healthy_heads(c: Setup, samples: data.Parts) -> Run:
    """Attention with two heads and AdamW."""
    return fit(c, two_heads(), samples, adamw(3e-3), 200, batch=100)


def healthy_flower(c: Setup, samples: data.Parts) -> Run:
    """An autoencoder of a smooth photograph's squares."""
    optimizer = nesterov(cosine(0.005 * c.rate, 500), 0.9)
    return fit(c, dense((36, 24, 8, 24, 36), "elu"), samples, optimizer, 500, batch=60)


def one_component(params: Params) -> Params:
    """All four units of a linear autoencoder are the first one."""
    codes, out = params["code"], params["out"]
    return {"code": jnp.tile(codes[:, :1], (1, 4)) / 2, "out": jnp.tile(out[:1], (4, 1)) / 2}


def least_squares(c: Setup) -> Run:
    """Linear regression at its one minimum, by the normal equations; nobody gave an `apply` or test data."""
    (x, y), test = data.diabetes(c.seed, c.pick(250, 300))
    rows = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    best = np.linalg.lstsq(rows, y.astype(np.float64), rcond=None)[0].astype(np.float32)
    start = [{"w": jnp.asarray(best[:-1]), "b": jnp.asarray(best[-1])}]
    hidden = ("apply", "test_data")
    return fit(c, dense((10, 1)), ((x, y), test), sgd(0.1), 50, start=start, without=hidden)


def deeper_is_worse(c: Setup) -> Run:
    """Twenty layers end above what three reach on the same data: not the model (He et al. 2016, fig. 1)."""
    samples, hidden = data.digits(c.seed, 500), ("optimizer", "opt_state")
    deep, shallow = (
        fit(c, dense((64, *(12,) * depth, 10), "tanh"), samples, sgd(0.05), 300, without=hidden)
        for depth in (c.pick(19, 2), 2)
    )
    baseline = None if c.cured else float(shallow.loss(shallow.params, shallow.data))
    return dataclasses.replace(deep, baseline=baseline)


def chin_ups(c: Setup) -> Run:
    """Poisson regression of chin-ups at its one minimum, by Newton's method in float64."""
    train = data.chin_ups(c.seed)
    rows = np.concatenate([train[0], np.ones((16, 1))], axis=1).astype(np.float64)
    weights = np.append(np.zeros(3), np.log(train[1].mean()))[:, None]
    history = []
    for _ in range(12):
        mean = np.exp(rows @ weights)
        history.append(float(np.mean(mean - train[1] * np.log(mean))))
        weights += np.linalg.solve(rows.T @ (mean * rows), rows.T @ (train[1] - mean))
    start = [{"w": jnp.asarray(weights[:3], jnp.float32), "b": jnp.asarray(weights[3], jnp.float32)}]
    hidden = ("apply", "optimizer", "opt_state")
    run = fit(c, dense((3, 1)), (train, None), sgd(0.0), 1, loss=losses.counts, start=start, without=hidden)
    return dataclasses.replace(run, history={"loss": np.asarray(history)})


def empty_table(c: Setup) -> Run:
    """Both factors of a table start at zero."""
    images = data.digits(c.seed, 80)[0][0]
    train = (np.arange(80, dtype=np.int32), images - images.mean(0))
    return fit(c, nets.table(80, 64, 6, c.pick(0.0, 0.3)), (train, None), sgd(0.5 * c.rate, 0.9), 200)


def bumps(seed: int) -> data.Parts:
    """A photograph by 100 bumps that overlap: neighbours are nearly alike."""
    axis = np.linspace(-1, 1, 10)
    centres = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    parts = photos.pixels(seed, 600)
    return data.inputs_by(lambda x: np.exp(-((x[:, None] - centres) ** 2).sum(-1) / (2 * 0.3**2)), parts)


def fine_waves(seed: int, frequency: float) -> data.Parts:
    """A photograph by random waves of the place (Tancik et al. 2020, fig. 3)."""
    waves = np.random.default_rng([seed, 44]).standard_normal((2, 64)) * frequency
    parts = photos.pixels(seed, 300)
    return data.inputs_by(lambda x: np.concatenate([np.sin(x @ waves), np.cos(x @ waves)], axis=1), parts)


def only_biases(c: Setup) -> optax.GradientTransformation:
    """A mask meant to spare biases from something trains nothing but them."""
    kinds = {"train": adam(1e-2 * c.rate), "hold": optax.set_to_zero()}
    label = partial(jax.tree.map, lambda leaf: "train" if c.cured or leaf.ndim == 1 else "hold")
    return optax.multi_transform(kinds, label)


# fmt: off
row, curable, healthy = rows_of(4, "f1ac8a6")
ROUND_4 = (
    healthy("iris", lambda c: fit(c, dense((4, 10, 3), "gelu"), data.iris, rmsprop(3e-3), 250)),
    healthy("cancer, cosine", lambda c: healthy_cancer(c, data.cancer(c.seed))),
    healthy("pixel of a photo", lambda c: fit(c, dense((24, 16, 1), "softplus"), photos.centre,
        adam(warm_cosine(1e-2, 50, 600)), 600, batch=100)),
    healthy("five digits, Adagrad",
        lambda c: fit(c, pooled("gelu", 8, 5), data.five_digits, adagrad(0.1), 300, batch=50)),
    healthy("two heads, AdamW", lambda c: healthy_heads(c, data.digits(c.seed, 900))),
    healthy("recurrent, Nesterov", lambda c: fit(c, recurrent(32, "tanh"), data.digits(c.seed, 900),
        clipped(1.0, nesterov(0.1, 0.9)), 100, batch=100)),
    # At 1.3 times the limit (2 + 2β) / λ of its quadratic a heavy ball must run away (Polyak 1964).
    row("heavy ball past its limit", "divergence", "oscillation", lambda c: fit(c, dense((10, 1)),
        data.diabetes, lambda x: sgd(c.pick(1.3, 0.2) * (2 + 2 * 0.8) / data.top(x), 0.8), 40)),
    # RMSProp moves every weight by its rate in each step: at 1 they leave their scale of 0.3 at once.
    row("RMSProp at rate 1", "divergence", "oscillation", lambda c: fit(c, nets.residual(12, 4, 2, 30, 0.5),
        data.cancer, rmsprop(c.pick(1.0, 1e-3)), 150, batch=50)),
    # Softmax regression is convex; RMSProp's steps do not shrink with the gradient, so it hops about.
    curable("RMSProp hops on iris", "oscillation", "", lambda c: fit(c, dense((4, 3), gain=4.0),
        data.mislabelled(data.iris(c.seed), c.seed, 0.15, 3), rmsprop(c.pick(0.7, 0.02)), 200)),
    # At 0.9995 of its limit 2 / λ the error along the steepest direction flips and keeps 0.999 of its size.
    curable("regression at its limit", "oscillation", "", lambda c: fit(c, dense((10, 1), gain=5.0),
        data.diabetes, lambda x: sgd(c.pick(0.9995, 0.33) * 2 / data.top(x)), 150)),
    # A rate that halves every 10 steps has moved its last after 40: 2 ** -20 of it is left at the end.
    curable("rate halved too often", "slow", "", lambda c: fit(c, dense((25, 12, 25), "elu", 0.7),
        photos.copied_patches, sgd(c.pick(optax.exponential_decay(0.02, 10, 0.5), 0.02), 0.9), 200)),
    # A warm-up of 100,000 steps of which 120 were made: the rate is at a thousandth of its aim.
    curable("warm-up without end", "slow", "", lambda c: fit(c, two_heads(), data.digits,
        adam(optax.linear_schedule(0.0, 3e-3, c.pick(100_000, 20))), 120, batch=100)),
    # Both layers' gradients vanish, and ±uv of theirs curves up and down alike.
    curable("weights of zero", "saddle", "dead_units vanishing_gradients",
        lambda c: fit(c, dense((4, 8, 3), "gelu"), data.iris, sgd(0.3), 300,
            change=c.pick(partial(jax.tree.map, jnp.zeros_like), same))),
    # Units that start alike find one component, a strict saddle (Baldi & Hornik 1989, Neural Networks 2, 53).
    curable("autoencoder of equal units", "saddle", "", lambda c: fit(c, nets.small_coder(),
        data.copied(data.wine(c.seed)), sgd(0.05, 0.9), 600, change=c.pick(one_component, same))),
    # Condition number above 1,000, at half of the rate that diverges: no other rate can mend it.
    curable("neighbouring pixels", "ill_conditioned", "slow", lambda c: fit(c, dense((24, 1)),
        c.pick(same, partial(data.decorrelated, dtype=np.float32))(photos.centre(c.seed)),
        lambda x: sgd(1.0 / data.top(x)), 60)),
    curable("single samples", "noise", "oscillation",
        lambda c: fit(c, dense((10, 1)), data.diabetes, sgd(0.06), 900, batch=c.pick(1, 50))),
    curable("Adam on pairs", "noise", "oscillation", lambda c: fit(c, pooled("elu", 6, 10),
        data.mislabelled(data.digits(c.seed, 512), c.seed, 0.3, 10, test=False), adam(1e-2), 1000,
        batch=c.pick(2, 64))),
    # Biases of -7 on inputs of deviation 1: 23 of 24 units are zero for all patients.
    row("one unit left", "dead_units", "vanishing_gradients",
        lambda c: fit(c, dense((10, 24, 1), "relu", 1.4), data.diabetes, nesterov(0.05, 0.9), 300,
            change=c.pick(at(lambda b: jnp.full(24, -7.0, jnp.float32).at[0].set(0.0), (0, "b")), same))),
    # Concentrations are positive, and so all products with negative weights are below zero.
    row("negative weights", "dead_units", "vanishing_gradients",
        lambda c: fit(c, dense((13, 24, 3), "relu", 1.4),
            data.scaled(data.raw_wine(c.seed), scale=lambda x: x.max(0)), rmsprop(2e-3), 200,
            change=c.pick(at(lambda w: -jnp.abs(w), (0, "w")), same), batch=40)),
    # At 1 for all samples: the slowdown of M. Nielsen (2015), Neural Networks and Deep Learning, chapter 3.
    row("sigmoid output", "saturation", "vanishing_gradients slow",
        lambda c: fit(c, dense((30, 8, 1), "gelu", last="sigmoid"),
            data.targets_by(data.column, data.cancer(c.seed)), nesterov(0.5, 0.9), 300,
            change=c.pick(at(lambda b: b + 14.0, (-1, "b")), same))),
    row("recurrent, biases of 12", "saturation", "vanishing_gradients slow",
        lambda c: fit(c, recurrent(16, "tanh"), data.digits, rmsprop(2e-3), 200, batch=50,
            change=c.pick(at(lambda b: b + 12.0, ("bias",)), same))),
    # Ten layers of weights of deviation 0.5 / √inputs: each lowers the signal to about a quarter.
    row("deep gelu, small weights", "vanishing_gradients", "saddle slow",
        lambda c: fit(c, dense((13, *(12,) * 9, 3), "gelu", c.pick(0.5, 1.6)), data.wine, sgd(0.02, 0.9),
            200)),
    # Seven convolutions of tanh with weights at 0.3 of what keeps the signal: 0.3 ** 7 = 0.0002 is left.
    row("deep convolutional, small", "vanishing_gradients", "saddle slow",
        lambda c: fit(c, convolutional("tanh", (6,) * 7, c.pick(0.3, 1.2)), data.digits, sgd(0.1), 150,
            batch=100)),
    row("residual, large weights", "exploding_gradients", "slow oscillation ill_conditioned",
        lambda c: fit(c, nets.residual(12, 12, 2, 30, c.pick(3.0, 0.3)), data.cancer, clipped(1.0, sgd(0.02)),
            150)),
    row("recurrent, large weights", "exploding_gradients", "slow oscillation ill_conditioned",
        lambda c: fit(c, recurrent(24, "relu", c.pick(10.0, 1.4)), data.digits,
            clipped(1.0, sgd(c.pick(0.02, 0.1))), 200, batch=50)),
    row("raw blood values", "input_scale", "ill_conditioned slow", lambda c: fit(c, dense((10, 1), gain=1e-2),
        data.diabetes(c.seed, raw=not c.cured), lambda x: sgd(1.0 / data.top(x)), 200)),
    row("pixels divided twice", "input_scale", "slow saddle vanishing_gradients",
        lambda c: fit(c, pooled("gelu", 8, 10),
            data.inputs_by(lambda x: x / c.pick(255.0, 1.0), data.digits(c.seed)), sgd(0.1, 0.9), 200)),
    row("least squares, solved", "minimum", "model_bias", least_squares),
    row("parity by a linear model", "model_bias", "minimum ill_conditioned",
        lambda c: fit(c, dense(c.pick((64, 2), (64, 40, 2)), "elu"),
            data.targets_by(lambda y: (y % 2).astype(np.int32), data.digits(c.seed, 1000)),
            adam(c.pick(5e-2, 1e-2)), 1500)),
    # Contrast does not change when all signs do, and a linear model's output does: it cannot follow.
    row("contrast by a linear model", "model_bias", "minimum ill_conditioned",
        lambda c: fit(c, dense(c.pick((25, 1), (25, 32, 1)), "gelu", c.pick(0.1, 1.0)), photos.contrast,
            adam(1e-2), 1500)),
    row("few patients", "overfitting", "",
        lambda c: fit(c, c.pick(dense((10, 64, 1), "gelu"), dense((10, 1), gain=0.1)),
            data.diabetes(c.seed, 50), adam(1e-2), c.pick(1000, 150))),
    row("wrong labels by heart", "overfitting", "", lambda c: fit(c, dense((30, 48, 2), "elu"),
        data.mislabelled(data.cancer(c.seed, 150), c.seed, 0.25, 2), adam(1e-2), c.pick(800, 15))),
    row("test not standardised", "mismatch", "",  # The test inputs were not standardised.
        lambda c: healthy_cancer(c,
            (data.cancer(c.seed)[0], c.pick(same, data.whitened)(data.raw_cancer(c.seed))[1]))),
    row("test upside down", "mismatch", "", lambda c: healthy_heads(c,
        data.test_by(c.pick(lambda x: x[:, ::-1], same), data.digits(c.seed, 900)))),
    row("test columns moved", "mismatch", "", lambda c: fit(c, dense((13, 10, 3), "softplus"),
        data.test_by(lambda x: c.pick(np.roll(x, 1, axis=1), x), data.wine(c.seed)), adam(1e-2), 200)),
    row("deeper is worse", "optimization", "slow ill_conditioned saddle vanishing_gradients",
        deeper_is_worse),
)

row, curable, healthy = rows_of(5, "04513e8")
ROUND_5 = (
    healthy("transformer, clipped AdamW", lambda c: fit(c, transformer(), data.digits(c.seed, 1200),
        clipped(1.0, adamw(warm_cosine(6e-3 * c.rate, 30, 240), weight_decay=1e-3)), 240, batch=100)),
    healthy("gated memory", lambda c: fit(c, gru(32, 8, 10, keeps=True), data.digits(c.seed, 1200),
        optax.inject_hyperparams(adam)(learning_rate=8e-3 * c.rate), 300, batch=100)),
    healthy("convolutional coder", lambda c: fit(c, coder(12, 24), data.copied(data.digits(c.seed, 1000)),
        adam(optax.exponential_decay(5e-3 * c.rate, 100, 0.6)), 400, batch=100)),
    healthy("coder of a flower", lambda c: healthy_flower(c, photos.flower(c.seed))),
    healthy("gathered gradients",
        lambda c: fit(c, nets.gated_layers((64, 24, 24, 10), stream=25, biased=True),
            data.digits(c.seed, 1200), optax.MultiSteps(rmsprop(4e-3 * c.rate), 4), 1200, batch=25)),
    # The autoencoder does not stand the warm-up's aim: the loss falls at first, and then is no number.
    row("warmed up too far", "divergence", "oscillation", lambda c: fit(c, dense((36, 24, 8, 24, 36), "elu"),
        photos.flower, nesterov(optax.linear_schedule(0.0, c.rate * c.pick(0.05, 0.005), 60), 0.9), 120)),
    row("AdamW at 1", "divergence", "oscillation",  # Where 0.005 is usual: the loss ends far above its start.
        lambda c: fit(c, transformer(), data.digits, adamw(c.rate * c.pick(1.0, 5e-3)), 80, batch=100)),
    # Far from its kink a robust error is linear, so that steps past the limit bounce and do not run away.
    curable("robust error bounces", "oscillation", "", lambda c: fit(c, dense((10, 1)), data.diabetes,
        sgd(c.rate * c.pick(1.0, 0.05)), 150, loss=losses.robust)),
    # Its steps keep their size near the solution; full batches, so it is no noise.
    curable("Adam without momentum hops", "oscillation", "", lambda c: fit(c, dense((13, 13), gain=0.3),
        data.copied(data.wine(c.seed)), adam(c.rate * c.pick(0.1, 0.01), b1=0.0), 200)),
    # At a thousandth of the gradient's norm clipping leaves steps of a thousandth.
    curable("clipped too tightly", "slow", "",
        lambda c: fit(c, nets.gated_layers((30, 16, 16, 2), stream=25, biased=True), data.cancer,
            clipped(c.pick(1e-3, 1e3), sgd(0.1 * c.rate, 0.9)), 200, batch=50)),
    # A framework's default, and Adagrad's steps shrink as gradients add up.
    curable("Adagrad at 0.001", "slow", "", lambda c: fit(c, coder(8, 16), data.copied(data.digits(c.seed)),
        adagrad(c.rate * c.pick(1e-3, 0.1)), 150, batch=100)),
    curable("RMSProp on threes", "noise", "oscillation",  # A quarter of the samples are mislabelled.
        lambda c: fit(c, nets.gated_layers((64, 16, 16, 10), stream=25, biased=True),
            data.mislabelled(data.digits(c.seed, 480), c.seed, 0.25, 10, test=False), rmsprop(0.04 * c.rate),
            800, batch=c.pick(3, 60))),
    # A step with a momentum of 0.97 adds up the noise of more than thirty.
    curable("long momentum on pairs", "noise", "oscillation", lambda c: fit(c, dense((10, 8, 1), "tanh"),
        data.diabetes, nesterov(0.01 * c.rate, 0.97), 900, batch=c.pick(2, 75))),
    curable("decayed to nothing", "optimization", "", lambda c: fit(c, separable(6, 10), data.digits,
        adamw(5e-3 * c.rate, weight_decay=c.pick(3.0, 1e-2)), 300, batch=100)),
    curable("only biases are trained", "optimization", "", lambda c: fit(c, dense((64, 24, 4), "silu"),
        data.targets_by(lambda y: (y[:, None] >> np.arange(4) & 1).astype(np.float32), data.digits(c.seed)),
        only_biases(c), 300, loss=losses.many_labels)),
    # Normalised sums have deviation 1, and relu of them less 8 is never above zero.
    row("offset behind a norm", "dead_units", "vanishing_gradients",
        lambda c: fit(c, nets.layer_normed((30, 24, 24, 2), "relu"), data.cancer, adam(2e-3 * c.rate), 200,
            batch=50, change=at(lambda b: b - c.pick(8.0, 0.0), ("layers", 0, "offset")))),
    # Grey values are positive, so the output is a relu; its bias of -6 keeps it at zero.
    row("relu at the output", "dead_units", "vanishing_gradients",
        lambda c: fit(c, dense((35, 16, 1), "tanh", last="relu"), photos.flower_pixel,
            sgd(0.01 * c.rate, 0.9), 200, batch=100, change=at(lambda b: b + c.pick(-6.0, 0.5), (-1, "b")))),
    row("gates that keep", "saturation", "vanishing_gradients",
        lambda c: fit(c, gru(24, 8, 10, keeps=True), data.digits, adam(3e-3 * c.rate), 150, batch=50,
            change=at(lambda b: b + jnp.where(jnp.arange(72) < 24, c.pick(20.0, 0.0), 0.0), ("bias",)))),
    row("codes of two values", "saturation", "vanishing_gradients",
        lambda c: fit(c, dense((64, 12, 64), "tanh"), data.copied(data.digits(c.seed, 500)),
            nesterov(0.02 * c.rate, 0.9), 400, change=at(lambda w: w * c.pick(200.0, 1.0), (0, "w")))),
    # Weights of deviation 1 / inputs where 1 / √inputs keeps the signal: a sixth is left by each layer.
    row("divided by inputs", "vanishing_gradients", "saddle",
        lambda c: fit(c, dense((30, *(32,) * 6, 2), "elu", 1.2), data.cancer,
            optax.chain(optax.add_decayed_weights(1e-4), sgd(0.02 * c.rate, 0.9)), 120,
            change=c.pick(every(lambda w: w / np.sqrt(len(w))), same))),
    # A recurrent network with small weights forgets the digit over the blank rows that follow it.
    row("blank rows at the end", "vanishing_gradients", "saddle",
        lambda c: fit(c, scanned(32, "tanh", 0.6, biased=False),
            data.padded(data.digits(c.seed), c.pick(24, -24)), clipped(1.0, sgd(0.1 * c.rate, 0.9)), 200,
            batch=50)),
    row("weights of deviation 1", "exploding_gradients", "slow",  # Whatever the width.
        lambda c: fit(c, dense((10, *(32,) * 7, 1), "gelu", 1.2), data.diabetes,
            clipped(1.0, sgd(3e-4 * c.rate, 0.9)), 200,
            change=c.pick(every(lambda w: w * np.sqrt(len(w))), same))),
    row("one column in thousandths", "input_scale", "saturation vanishing_gradients",
        lambda c: fit(c, dense((13, 16, 3), "tanh"),
            data.inputs_by(lambda x: x * np.where(np.arange(13) == 12, c.pick(1000.0, 1.0), 1.0),
                data.wine(c.seed)), adagrad(0.05 * c.rate), 300, batch=40)),
    curable("factors of zero", "saddle", "",
        lambda c: fit(c, nets.factorisation_machine(12, 6, c.pick(0.0, 0.1)), photos.roughness,
            sgd(0.03 * c.rate, 0.9), 1000)),
    curable("empty table", "saddle", "vanishing_gradients", empty_table),
    curable("powers of height", "ill_conditioned", "", lambda c: fit(c, dense((8, 1), gain=0.1),
        c.pick(same, partial(data.decorrelated, centred=True))(
            data.inputs_by(lambda x: x ** np.arange(1, 9), photos.profile(c.seed))),
        lambda x: sgd(c.rate / data.top(x)), 300)),
    curable("overlapping bumps", "ill_conditioned", "",
        lambda c: fit(c, lambda x: dense((x.shape[1], 1), gain=0.1),
            c.pick(same, data.decorrelated)(bumps(c.seed)), lambda x: sgd(c.rate / data.top(x)), 200)),
    row("bag of pixels", "model_bias", "minimum ill_conditioned", lambda c: fit(c, pixel_set(8, c.cured),
        data.digits(c.seed, 200), adam(cosine(0.1 * c.rate, 800)), 800)),
    row("two components", "model_bias", "minimum", lambda c: fit(c, nets.linear_coder(c.pick(2, 24)),
        data.copied(data.inputs_by(lambda x: x - 0.3, data.digits(c.seed, 500))), adam(1e-2 * c.rate), 600)),
    row("chin-ups, solved", "minimum", "model_bias", chin_ups),
    row("waves too fine", "overfitting", "", lambda c: fit(c, dense((128, 32, 1), "relu", 1.4),
        fine_waves(c.seed, c.pick(40.0, 1.0)), adam(3e-3 * c.rate), 300)),
    row("idle columns", "overfitting", "", lambda c: fit(c, lambda x: dense((x.shape[1], 1), gain=0.1),
        data.with_idle_columns(data.diabetes(c.seed, 80), c.seed, c.pick(150, 0)), adam(1e-2 * c.rate), 300)),
    row("another photograph", "mismatch", "ill_conditioned optimization", lambda c: healthy_flower(c,
        (photos.flower(c.seed)[0],
            photos.flower(c.seed)[1] if c.cured else photos.other_squares(c.seed)[0]))),
)
# fmt: on
FAILURES = ROUND_4 + ROUND_5
