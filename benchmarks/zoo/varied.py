"""Plants of other losses, models and optimisers than `known` has; thresholds were chosen on them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from benchmarks.zoo.models import Params, dense, gaussian, residual
from benchmarks.zoo.samples import (
    cancer,
    centre,
    diabetes,
    iris,
    mislabelled,
    parted,
    raw_wine,
    split,
    whitened,
)
from benchmarks.zoo.training import Run, binary, fit, penalised, rebuilt, squared


def plain_cancer(seed: int, train: int = 400) -> Any:
    """Standardised, targets 0 and 1 in one column."""
    parts = whitened(cancer(seed, train))
    return [(x, y[:, None].astype(np.float32)) for x, y in parts]


def plain_wine(seed: int) -> Any:
    return whitened(raw_wine(seed))


def looped(width: int, squash: Any, gain: float = 1.0, bias: float = 0.0) -> Any:
    """A recurrent network over the rows of a digit as `lax.scan` runs it."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 21])
        return {
            "in": gaussian(rng, 8, width),
            "again": gaussian(rng, width, width, gain=gain),
            "bias": jnp.full(width, bias, jnp.float32),
            "out": gaussian(rng, width, 10),
        }

    def apply(params: Params, inputs: Any) -> Any:
        rows = jnp.swapaxes(inputs.reshape(-1, 8, 8), 0, 1)

        def step(hidden: Any, row: Any) -> Any:
            return squash(row @ params["in"] + hidden @ params["again"] + params["bias"]), None

        hidden, _ = jax.lax.scan(step, jnp.zeros((len(inputs), width), inputs.dtype), rows)
        return hidden @ params["out"]

    return init, apply


def normed(width: int, blocks: int, inputs: int, classes: int) -> Any:
    """Residual blocks behind layer norms."""
    init, _ = residual(width, blocks, classes, inputs)

    def start(seed: int) -> Params:
        return {**init(seed), "scale": jnp.ones((blocks, width), jnp.float32)}

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs @ params["embed"]
        for scale, block in zip(params["scale"], params["blocks"], strict=True):
            middle = hidden - hidden.mean(-1, keepdims=True)
            middle = scale * middle / jnp.sqrt(jnp.mean(middle**2, -1, keepdims=True) + 1e-5)
            hidden = hidden + jax.nn.gelu(middle @ block["w"]) @ block["v"]
        return hidden @ params["out"]

    return start, apply


def custom(widths: tuple[int, ...], squash: Any, gain: float = 1.0, end: Any = lambda x: x) -> Any:
    """A dense network with any activation, and any at its end."""
    init, _ = dense(widths, "tanh", gain)

    def apply(params: Params, inputs: Any) -> Any:
        for layer in params[:-1]:
            inputs = squash(inputs @ layer["w"] + layer["b"])
        return end(inputs @ params[-1]["w"] + params[-1]["b"])

    return init, apply


def shifted(first: float = 0.0, last: float = 0.0) -> Any:
    def change(params: Params) -> Params:
        params = [dict(layer) for layer in params]
        params[0]["b"] += first
        params[-1]["b"] += last
        return params

    return change


# Healthy


def healthy_code(seed: int) -> Run:
    """An autoencoder; its batches are the inputs alone."""
    parts = [x for x, _ in plain_wine(seed)]
    return fit(dense((13, 11, 13), "elu"), *parts, optax.adam(1e-2), 500, seed, objective=rebuilt)


def healthy_binary(seed: int) -> Run:
    model = dense((30, 8, 1), "silu")
    return fit(model, *plain_cancer(seed), optax.sgd(0.1, 0.9), 250, seed, objective=binary)


def healthy_units(seed: int) -> Run:
    """Mean area of a tumour, in hundreds, from the other measurements."""
    x, _ = datasets.load_breast_cancer(return_X_y=True)
    target = x[:, 3:4].astype(np.float32)
    parts = whitened(parted(np.delete(x, [3, 23], axis=1), target, seed, 400, 169))
    optimizer = optax.adam(optax.cosine_decay_schedule(3.0, 400))
    return fit(dense((28, 12, 1), "relu", 1.4), *parts, optimizer, 400, seed, objective=squared)


def healthy_looped(seed: int) -> Run:
    optimizer = optax.MultiSteps(optax.adamw(1e-2), 2)
    return fit(looped(24, jnp.tanh), *split("digits", seed, 800), optimizer, 400, seed, batch=100)


def healthy_normed(seed: int) -> Run:
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    run = fit(normed(12, 3, 13, 3), *plain_wine(seed), optimizer, 200, seed)
    run.test = None
    return run


def healthy_injected(seed: int) -> Run:
    optimizer = optax.inject_hyperparams(optax.adamw)(1e-2)
    return fit(dense((4, 12, 3), "silu"), *iris(seed), optimizer, 400, seed, batch=10)


# The optimiser and the surface


def late_divergence(seed: int) -> Run:
    """The rate jumps a thousandfold after most of the training."""
    optimizer = optax.adam(optax.piecewise_constant_schedule(3e-3, {200: 1000.0}))
    return fit(dense((10, 16, 1), "elu"), *diabetes(seed), optimizer, 250, seed, objective=squared)


def diverging_code(seed: int) -> Run:
    parts = [x for x, _ in plain_wine(seed)]
    return fit(dense((13, 6, 13), "elu"), *parts, optax.rmsprop(2.0), 60, seed, objective=rebuilt)


def bouncing_binary(seed: int) -> Run:
    train, test = plain_cancer(seed)
    flip = np.random.default_rng([seed, 22]).random(len(train[1])) < 0.2
    train = (train[0], np.where(flip[:, None], 1 - train[1], train[1]))
    optimizer = optax.sgd(3.0, 0.5, nesterov=True)
    return fit(dense((30, 1), "tanh"), train, test, optimizer, 200, seed, objective=binary)


def bouncing_lion(seed: int) -> Run:
    """Steps of signs do not shrink with the gradient; what they can stand is not known."""
    train, test = plain_wine(seed)
    parts = [mislabelled(part, seed, 0.2, 3) for part in (train, test)]
    return fit(dense((13, 3), "tanh"), *parts, optax.lion(0.3), 200, seed)


def slow_code(seed: int) -> Run:
    parts = [x for x, _ in plain_wine(seed)]
    return fit(dense((13, 8, 13), "tanh"), *parts, optax.rmsprop(1e-5), 200, seed, objective=rebuilt)


def ended_schedule(seed: int) -> Run:
    """A cosine over a tenth of the training: from there on the rate is zero."""
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.02, 30))
    return fit(dense((13, 16, 3), "relu", 1.4), *plain_wine(seed), optimizer, 300, seed)


def clipped_short(seed: int) -> Run:
    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(0.1))
    return fit(dense((30, 8, 1), "elu"), *plain_cancer(seed), optimizer, 200, seed, objective=binary)


def powers(seed: int) -> Run:
    """Regression on powers of an input."""
    train, test = diabetes(seed)
    parts = []
    for x, y in (train, test):
        z = np.clip(x[:, 2:3] / 3, -1, 1)
        rows = np.concatenate([z**k for k in range(1, 9)], axis=1).astype(np.float32)
        parts.append((rows, (np.sin(6 * z) + 0.05 * y).astype(np.float32)))
    rows = np.concatenate([parts[0][0], np.ones((len(parts[0][0]), 1))], axis=1)
    rate = 1.0 / float(np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1])
    return fit(dense((8, 1), "tanh"), *parts, optax.sgd(rate), 200, seed, objective=squared)


def twins(seed: int) -> Run:
    """Linear targets that depend on small differences between nearly equal inputs."""
    rng = np.random.default_rng([seed, 23])
    base = plain_cancer(seed)
    mix = rng.standard_normal((30, 1)) / np.sqrt(30)
    parts = []
    for x, _ in base:
        small = rng.standard_normal(x.shape)
        twin = np.concatenate([x[:, :1] + 0.05 * small, x[:, :1] - 0.05 * small], axis=1)
        parts.append((twin.astype(np.float32), (small @ mix).astype(np.float32)))
    top = float(np.linalg.eigvalsh(np.cov(parts[0][0].T))[-1])
    optimizer = optax.sgd(1.0 / top)
    return fit(dense((60, 1), "tanh", 0.1), *parts, optimizer, 150, seed, objective=squared)


def tied_units(seed: int) -> Run:
    """All hidden units start alike, and so they stay: a new start ends far lower."""

    def change(params: Params) -> Params:
        first, last = params
        return [
            {**first, "w": jnp.tile(first["w"][:, :1], (1, 8))},
            {**last, "w": jnp.tile(last["w"][:1], (8, 1))},
        ]

    model, optimizer = dense((64, 8, 10), "tanh"), optax.sgd(0.1, 0.9)
    return fit(model, *split("digits", seed, 400), optimizer, 800, seed, change=change)


def small_code(seed: int) -> Run:
    """A deep linear autoencoder that starts near zero."""
    parts = [x for x, _ in plain_wine(seed)]
    model = custom((13, 5, 5, 13), lambda x: x, 0.02)
    return fit(model, *parts, optax.sgd(0.05), 100, seed, objective=rebuilt)


def noisy_nesterov(seed: int) -> Run:
    train, test = plain_cancer(seed)
    flip = np.random.default_rng([seed, 22]).random(len(train[1])) < 0.3
    train = (train[0], np.where(flip[:, None], 1 - train[1], train[1]))
    optimizer = optax.sgd(0.02, 0.9, nesterov=True)
    return fit(dense((30, 1), "tanh"), train, test, optimizer, 1200, seed, objective=binary, batch=1)


def noisy_rmsprop(seed: int) -> Run:
    optimizer = optax.rmsprop(0.03)
    return fit(dense((10, 1), "tanh"), *diabetes(seed), optimizer, 900, seed, objective=squared, batch=2)


# Units, layers, inputs


def dead_gelu(seed: int) -> Run:
    model, data = dense((13, 24, 3), "gelu"), plain_wine(seed)
    return fit(model, *data, optax.adam(1e-3), 200, seed, change=shifted(-12.0))


def dead_where(seed: int) -> Run:
    """A ReLU by `where`, in two layers."""
    model = custom((30, 16, 16, 1), lambda x: jnp.where(x > 0, x, 0.0), 1.4)
    optimizer = optax.sgd(0.05)
    return fit(model, *plain_cancer(seed), optimizer, 200, seed, objective=binary, change=shifted(-9.0))


def hard_saturation(seed: int) -> Run:
    def change(params: Params) -> Params:
        return [{**params[0], "w": 60.0 * params[0]["w"]}, {**params[1], "w": 60 * params[1]["w"]}, params[2]]

    model = custom((13, 10, 10, 3), jax.nn.hard_tanh)
    return fit(model, *plain_wine(seed), optax.sgd(0.02), 200, seed, change=change)


def soft_saturation(seed: int) -> Run:
    """Saturated by inputs' weights alone; regression."""

    def change(params: Params) -> Params:
        return [{"w": params[0]["w"], "b": params[0]["b"] + 15.0}, *params[1:]]

    model = dense((10, 20, 1), "tanh")
    return fit(model, *diabetes(seed), optax.adam(1e-3), 200, seed, objective=squared, change=change)


def vanishing_looped(seed: int) -> Run:
    model = looped(16, jax.nn.sigmoid, 0.5)
    return fit(model, *split("digits", seed, 300), optax.sgd(0.05), 100, seed)


def vanishing_code(seed: int) -> Run:
    parts = [x for x, _ in plain_wine(seed)]
    widths = (13, *(10,) * 6, 13)
    return fit(dense(widths, "sigmoid"), *parts, optax.adam(1e-4), 150, seed, objective=rebuilt)


def exploding_linear(seed: int) -> Run:
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.05))
    model = custom((10, *(12,) * 7, 1), jax.nn.leaky_relu, 5.0)
    return fit(model, *diabetes(seed), optimizer, 100, seed, objective=squared)


def exploding_looped(seed: int) -> Run:
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.01))
    return fit(looped(20, jax.nn.relu, 9.0), *split("digits", seed, 300), optimizer, 150, seed)


def bytes_scale(seed: int) -> Run:
    """Pixels from 0 to 255; the loss falls and stays high."""
    parts = [(x * 255, y) for x, y in split("digits", seed, 400)]
    return fit(dense((64, 24, 10), "tanh"), *parts, optax.sgd(0.01, 0.9), 200, seed)


def far_offset(seed: int) -> Run:
    """Deviation 0.1 around 5."""
    parts = [((5 + 0.1 * x).astype(np.float32), y) for x, y in plain_wine(seed)]
    return fit(dense((13, 16, 3), "tanh", 0.3), *parts, optax.sgd(0.05), 200, seed)


# The model and the data


def products(seed: int) -> Run:
    """The sign of a product, by a linear model."""
    rng = np.random.default_rng([seed, 24])
    x = rng.standard_normal((600, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.float32)[:, None]
    parts = ((x[:400], y[:400]), (x[400:], y[400:]))
    return fit(dense((6, 1), "tanh"), *parts, optax.adam(3e-2), 600, seed, objective=binary)


def narrow_code(seed: int) -> Run:
    """One linear unit between 64 pixels and 64 pixels."""
    parts = [x for x, _ in split("digits", seed, 600)]
    model = custom((64, 1, 10, 64), lambda x: x)
    return fit(model, *parts, optax.adam(1e-2), 800, seed, objective=rebuilt)


def tanh_neck(seed: int) -> Run:
    parts = [(x, (y % 3).astype(np.int32)) for x, y in split("digits", seed, 900)]
    return fit(dense((64, 1, 3), "tanh"), *parts, optax.adam(2e-2), 1500, seed)


def ridge(seed: int) -> Run:
    """Logistic regression with a penalty, at its minimum."""
    loss = penalised(0.05)
    train, test = plain_cancer(seed)
    flip = np.random.default_rng([seed, 22]).random(len(train[1])) < 0.3
    train = (train[0], np.where(flip[:, None], 1 - train[1], train[1]))
    run = fit(dense((30, 1), "tanh"), train, test, optax.adam(0.03), 1500, seed, objective=loss)
    run.test = None
    return run


def few_binary(seed: int) -> Run:
    """Thirty patients with noisy labels; nobody gave an `apply`."""
    train, test = plain_cancer(seed, 60)
    flip = np.random.default_rng([seed, 22]).random(len(train[1])) < 0.2
    train = (train[0], np.where(flip[:, None], 1 - train[1], train[1]))
    run = fit(dense((30, 32, 1), "relu", 1.4), train, test, optax.adam(1e-2), 500, seed, objective=binary)
    run.apply = None
    return run


def few_codes(seed: int) -> Run:
    (seen, _), (unseen, _) = plain_wine(seed)
    model = dense((13, 40, 6, 40, 13), "tanh")
    return fit(model, seen[:50], unseen, optax.adam(1e-2), 1000, seed, objective=rebuilt)


def other_labels(seed: int) -> Run:
    """The test file codes its classes in another order: its inputs look the same."""
    train, test = plain_wine(seed)
    run = fit(dense((13, 12, 3), "tanh"), train, test, optax.adam(1e-2), 150, seed)
    run.test = (test[0], ((test[1] + 1) % 3).astype(np.int32))
    return run


def other_gain(seed: int) -> Run:
    """Test patches from a camera with three times the contrast."""
    train, test = centre(seed)
    run = fit(dense((24, 16, 1), "tanh"), train, test, optax.adam(1e-2), 400, seed, objective=squared)
    run.test = ((3 * test[0]).astype(np.float32), test[1])
    return run
