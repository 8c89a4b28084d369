"""Planted troubles that were counted before: tuning, kept and blind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from benchmarks.zoo.models import Params, attention, convolutional, dense
from benchmarks.zoo.samples import cancer, data, mislabelled, split
from benchmarks.zoo.training import Run, fit, one_hot_error


def digits_run(model: Any, optimizer: Any, steps: int, seed: int, train: int = 400, **more: Any) -> Run:
    """Train on digits."""
    return fit(model, *split("digits", seed, train), optimizer, steps, seed, **more)


def healthy_dense(seed: int) -> Run:
    return digits_run(dense((64, 32, 10), "tanh"), optax.adam(3e-3), 400, seed, 800)


def healthy_conv(seed: int) -> Run:
    return digits_run(convolutional(), optax.adam(1e-2), 300, seed, 800, batch=100)


def healthy_attention(seed: int) -> Run:
    return digits_run(attention(), optax.adam(3e-3), 400, seed, 800, batch=100)


def healthy_wine(seed: int) -> Run:
    return fit(dense((13, 8, 3), "relu", 1.4), *split("wine", seed, 120, 58), optax.sgd(0.1, 0.9), 400, seed)


def too_large_rate(seed: int) -> Run:
    """The loss rises above its start and stays there, or is not finite."""
    return digits_run(dense((64, 32, 10), "relu", 1.4), optax.sgd(20.0), 60, seed, objective=one_hot_error)


def conv_too_large_rate(seed: int) -> Run:
    return digits_run(convolutional(), optax.adam(3.0), 60, seed)


def bouncing_linear(seed: int) -> Run:
    """Cross-entropy is nearly linear far out, so steps beyond the limit bounce instead of running away."""
    parts = [mislabelled(part, seed, 0.3, 10) for part in split("digits", seed, 400)]
    return fit(dense((64, 10), "tanh"), *parts, optax.sgd(4.0), 200, seed)


def bouncing_logistic(seed: int) -> Run:
    train, test = cancer(seed)
    mean, deviation = train[0].mean(0), train[0].std(0)
    parts = [mislabelled(((x - mean) / deviation, y), seed, 0.3, 2) for x, y in (train, test)]
    return fit(dense((30, 2), "tanh"), *parts, optax.sgd(2.0), 200, seed)


def tiny_rate_dense(seed: int) -> Run:
    return digits_run(dense((64, 32, 10), "relu", 1.4), optax.sgd(1e-3, 0.9), 200, seed)


def tiny_rate_conv(seed: int) -> Run:
    return digits_run(convolutional(), optax.adam(2e-5), 200, seed)


def small_start_dense(seed: int) -> Run:
    return digits_run(dense((64, 16, 10), "silu", 1e-3), optax.sgd(0.05), 150, seed)


def small_start_deep_linear(seed: int) -> Run:
    return digits_run(
        dense((64, 16, 16, 10), "tanh", 3e-2), optax.sgd(0.05), 150, seed, objective=one_hot_error
    )


def shifted(amount: float) -> Callable[[Params], Params]:
    """Shift the biases of the first layer."""

    def change(params: Params) -> Params:
        first = {**params[0], "b": params[0]["b"] + amount}
        return [first, *params[1:]]

    return change


def dead_dense(seed: int) -> Run:
    return digits_run(dense((64, 32, 10), "relu", 1.4), optax.adam(1e-3), 200, seed, change=shifted(-8.0))


def dead_conv(seed: int) -> Run:
    def change(params: Params) -> Params:
        last = {**params["conv"][1], "b": params["conv"][1]["b"] - 10.0}
        return {**params, "conv": [params["conv"][0], last]}

    return digits_run(convolutional(), optax.adam(1e-3), 200, seed, change=change)


def saturated_tanh(seed: int) -> Run:
    def change(params: Params) -> Params:
        return [
            {**params[0], "w": 100.0 * params[0]["w"]},
            {**params[1], "w": 100.0 * params[1]["w"]},
            *params[2:],
        ]

    return digits_run(dense((64, 16, 16, 10), "tanh"), optax.sgd(0.01), 150, seed, change=change)


def saturated_sigmoid(seed: int) -> Run:
    def change(params: Params) -> Params:
        first = {**params[0], "w": params[0]["w"], "b": params[0]["b"] + 12.0}
        return [first, *params[1:]]

    return digits_run(dense((64, 32, 10), "sigmoid"), optax.adam(1e-3), 200, seed, change=change)


def vanishing_sigmoid(seed: int) -> Run:
    return digits_run(dense((64, *(16,) * 7, 10), "sigmoid"), optax.sgd(0.1), 200, seed)


def vanishing_tanh(seed: int) -> Run:
    return digits_run(dense((64, *(16,) * 7, 10), "tanh", 0.3), optax.sgd(0.1), 200, seed)


def exploding_relu(seed: int) -> Run:
    return digits_run(dense((64, *(16,) * 7, 10), "relu", 4.5), optax.sgd(1e-12), 50, seed)


def exploding_conv(seed: int) -> Run:
    model = convolutional("relu", (8,) * 6, 5.0)
    return digits_run(model, optax.sgd(1e-12), 50, seed)


def raw_inputs(seed: int) -> Run:
    return fit(dense((30, 16, 2), "tanh"), *cancer(seed), optax.sgd(0.05, 0.9), 200, seed)


def offset_inputs(seed: int) -> Run:
    """Inputs around 100, as temperatures in kelvin are; the rate is what they can stand."""
    parts = [(x + 100, y) for x, y in split("digits", seed, 400)]
    return fit(dense((64, 32, 10), "relu", 1.4), *parts, optax.sgd(1e-6, 0.9), 200, seed)


def noisy_batches(seed: int) -> Run:
    return digits_run(dense((64, 32, 10), "tanh"), optax.sgd(0.3), 600, seed, batch=2)


def noisy_conv(seed: int) -> Run:
    train, test = split("digits", seed, 400)
    parts = (mislabelled(train, seed, 0.3, 10), test)
    return fit(convolutional("tanh", (4, 4)), *parts, optax.sgd(0.2), 800, seed, batch=2)


def long_valley(seed: int) -> Run:
    """Linear regression on strongly correlated inputs: the digits' smooth cumulative sums."""

    def make(part: Any) -> Any:
        x = np.cumsum(part[0] - data("digits")[0].mean(0), axis=1) / 8
        return (x.astype(np.float32), part[1])

    parts = [make(part) for part in split("digits", seed, 400)]
    top = np.linalg.eigvalsh(np.cov(parts[0][0].T))[-1]
    return fit(
        dense((64, 10), "tanh"), *parts, optax.sgd(1.0 / float(top)), 300, seed, objective=one_hot_error
    )


def long_valley_dense(seed: int) -> Run:
    """A tanh network on the same kind of inputs."""

    def make(part: Any) -> Any:
        x = part[0] - data("digits")[0].mean(0) + 3.0
        return (x.astype(np.float32), part[1])

    parts = [make(part) for part in split("digits", seed, 400)]
    return fit(dense((64, 32, 10), "tanh", 0.3), *parts, optax.sgd(0.01), 400, seed, objective=one_hot_error)


def bottleneck(seed: int) -> Run:
    """One hidden unit between 64 inputs and 10 classes."""
    return digits_run(dense((64, 1, 10), "tanh"), optax.adam(1e-2), 3000, seed)


def linear_on_rings(seed: int) -> Run:
    """A linear model where only the distance from the centre counts."""
    x, y = datasets.make_circles(600, noise=0.1, factor=0.4, random_state=seed)
    parts = [(x[i].astype(np.float32), y[i].astype(np.int32)) for i in (slice(0, 400), slice(400, 600))]
    return fit(dense((2, 2), "tanh"), *parts, optax.adam(3e-2), 1500, seed)


def few_samples(seed: int) -> Run:
    return digits_run(dense((64, 64, 10), "relu", 1.4), optax.adam(3e-3), 600, seed, 60)


def few_samples_attention(seed: int) -> Run:
    return digits_run(attention(), optax.adam(3e-3), 600, seed, 80)


def inverted_test(seed: int) -> Run:
    run = healthy_dense(seed)
    run.test = (1 - run.test[0], run.test[1])
    return run


def moved_test(seed: int) -> Run:
    run = healthy_conv(seed)
    images = run.test[0].reshape(-1, 8, 8)
    run.test = (np.roll(images, 2, axis=2).reshape(-1, 64), run.test[1])
    return run


def healthy_tanh_conv(seed: int) -> Run:
    return digits_run(convolutional("tanh", (8, 8), 1.0), optax.sgd(0.1, 0.9), 400, seed, 800, batch=50)


def tiny_rate_attention(seed: int) -> Run:
    return digits_run(attention(), optax.sgd(2e-4, 0.9), 200, seed)


def dead_attention(seed: int) -> Run:
    """The layer after attention has no bias; negative weights on its positive inputs do the same."""

    def change(params: Params) -> Params:
        return {**params, "place": params["place"] + 5.0, "up": -jnp.abs(params["up"])}

    return digits_run(attention(), optax.adam(1e-4), 100, seed, change=change)


def vanishing_wine(seed: int) -> Run:
    return fit(
        dense((13, *(8,) * 7, 3), "sigmoid"), *split("wine", seed, 120, 58), optax.sgd(0.1, 0.9), 200, seed
    )


def small_start_wine(seed: int) -> Run:
    return fit(dense((13, 8, 3), "tanh", 1e-3), *split("wine", seed, 120, 58), optax.sgd(0.02), 60, seed)


def few_samples_conv(seed: int) -> Run:
    return digits_run(convolutional(), optax.adam(1e-2), 300, seed, 40)


def noisy_test(seed: int) -> Run:
    run = healthy_dense(seed)
    noise = np.random.default_rng([seed, 6]).standard_normal(run.test[0].shape)
    run.test = ((run.test[0] + 0.7 * noise).astype(np.float32), run.test[1])
    return run


def narrow_conv(seed: int) -> Run:
    """One channel, averaged over the image: ten classes from a single number."""
    init, apply = dense((1, 10), "tanh")

    def pooled(params: Params, inputs: Any) -> Any:
        return apply(params, inputs.reshape(len(inputs), -1).mean(axis=1, keepdims=True))

    return digits_run((init, pooled), optax.adam(3e-2), 3000, seed)
