"""Planted troubles: small networks on real data, each with one known reason for not learning.

Data come with scikit-learn (digits, wine, breast cancer).  Models are dense, convolutional (on 8 × 8
digits) and a single head of attention over the rows of a digit.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

Params = Any
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "silu": jax.nn.silu}


@dataclasses.dataclass
class Run:
    """A training run as a user would hand it over."""

    loss: Callable[..., Any]
    apply: Callable[..., Any]
    params: Params
    train: Any
    test: Any
    optimizer: Any
    opt_state: Any
    history: dict[str, np.ndarray]
    start: Params

    def arguments(self) -> dict[str, Any]:
        """Keywords of `hp.diagnose`."""
        names = ("train", "test", "history", "optimizer", "opt_state", "apply")
        return {name: getattr(self, name) for name in names}


@functools.cache
def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, standardised (digits: between 0 and 1), and targets; float32."""
    if name == "digits":
        inputs, labels = datasets.load_digits(return_X_y=True)
        return (inputs / 16).astype(np.float32), labels.astype(np.int32)
    assert name == "wine"
    inputs, labels = datasets.load_wine(return_X_y=True)
    return ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32), labels.astype(np.int32)


def split(name: str, seed: int, train: int, test: int = 300) -> tuple[Any, Any]:
    """Disjoint random training and test parts."""
    inputs, targets = data(name)
    order = np.random.default_rng([seed, 1]).permutation(len(inputs))
    first, second = order[:train], order[train : train + test]
    return (inputs[first], targets[first]), (inputs[second], targets[second])


def gaussian(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> jax.Array:
    """Weights of deviation gain / √inputs."""
    fan = int(np.prod(shape[:-1]))
    return jnp.asarray(rng.standard_normal(shape) * gain / np.sqrt(fan), jnp.float32)


def dense(widths: tuple[int, ...], activation: str, gain: float = 1.0) -> tuple[Any, Any]:
    """Init and apply of a fully connected network."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 2])
        return [
            {"w": gaussian(rng, a, b, gain=gain), "b": jnp.zeros(b, jnp.float32)}
            for a, b in itertools.pairwise(widths)
        ]

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(len(inputs), -1)
        for layer in params[:-1]:
            hidden = ACTIVATIONS[activation](hidden @ layer["w"] + layer["b"])
        return hidden @ params[-1]["w"] + params[-1]["b"]

    return init, apply


def convolutional(
    activation: str = "relu", channels: tuple[int, ...] = (8, 8), gain: float = 1.4
) -> tuple[Any, Any]:
    """Init and apply of a convolutional network on digits: 3 × 3 kernels, the first with stride 2."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 3])
        sizes = (1, *channels)
        kernels = [
            {"w": gaussian(rng, 3, 3, a, b, gain=gain), "b": jnp.zeros(b, jnp.float32)}
            for a, b in itertools.pairwise(sizes)
        ]
        return {
            "conv": kernels,
            "out": {"w": gaussian(rng, channels[-1] * 16, 10), "b": jnp.zeros(10, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, 8, 8, 1)
        for number, layer in enumerate(params["conv"]):
            stride = (1, 1) if number else (2, 2)
            hidden = jax.lax.conv_general_dilated(
                hidden, layer["w"], stride, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            hidden = ACTIVATIONS[activation](hidden + layer["b"])
        return hidden.reshape(len(hidden), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


def attention(width: int = 16, hidden: int = 32) -> tuple[Any, Any]:
    """Init and apply of one attention head over the eight rows of a digit, then a small dense part."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 4])
        names = {"embed": (8, width), "q": (width, width), "k": (width, width), "v": (width, width)}
        params = {name: gaussian(rng, *shape) for name, shape in names.items()}
        params["place"] = jnp.asarray(0.3 * rng.standard_normal((8, width)), jnp.float32)
        params["up"] = gaussian(rng, 8 * width, hidden, gain=1.4)
        params["out"] = gaussian(rng, hidden, 10)
        return params

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(-1, 8, 8) @ params["embed"] + params["place"]
        q, k, v = (rows @ params[name] for name in "qkv")
        weights = jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2) / np.sqrt(width), axis=-1)
        rows = rows + weights @ v
        return jax.nn.relu(rows.reshape(len(rows), -1) @ params["up"]) @ params["out"]

    return init, apply


def cross_entropy(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Mean cross-entropy of integer labels."""

    def loss(params: Params, batch: Any) -> Any:
        log = jax.nn.log_softmax(apply(params, batch[0]))
        return -jnp.mean(jnp.take_along_axis(log, batch[1][:, None], axis=1))

    return loss


def fit(
    model: tuple[Any, Any],
    train: Any,
    test: Any,
    optimizer: Any,
    steps: int,
    seed: int,
    *,
    batch: int | None = None,
    objective: Callable[..., Any] = cross_entropy,
    change: Callable[[Params], Params] = lambda params: params,
    start: Params = None,
) -> Run:
    """Train, on the whole data or on shuffled batches of a size."""
    init, apply = model
    loss = objective(apply)
    params = change(init(seed)) if start is None else start
    first = params
    arrays = jax.tree.map(jnp.asarray, train)
    index = order(len(train[0]), batch, steps, seed)

    @jax.jit
    def run(params: Params, state: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            at, inner = carry
            part = arrays if rows is None else jax.tree.map(lambda leaf: leaf[rows], arrays)
            value, gradient = jax.value_and_grad(loss)(at, part)
            updates, inner = optimizer.update(gradient, inner, at)
            return (optax.apply_updates(at, updates), inner), value

        return jax.lax.scan(step, (params, state), index, length=None if index is not None else steps)

    (params, state), losses = run(params, optimizer.init(params))
    handed: Any = train
    if batch is not None:
        handed = [
            jax.tree.map(lambda leaf, i=i: leaf[i : i + batch], train) for i in range(0, len(train[0]), batch)
        ]
    history = {"loss": np.asarray(losses)}
    return Run(loss, apply, params, handed, test, optimizer, state, history, first)


def order(count: int, batch: int | None, steps: int, seed: int) -> Any:
    """Rows of every step; None for all of them."""
    if batch is None:
        return None
    rng = np.random.default_rng([seed, 5])
    each = count // batch
    passes = [rng.permutation(count)[: each * batch].reshape(each, batch) for _ in range(-(-steps // each))]
    return jnp.asarray(np.concatenate(passes)[:steps])


@dataclasses.dataclass(frozen=True)
class Plant:
    """One kind of trouble.

    Attributes:
        name: what was done.
        cause: what `hp.diagnose` should name first.
        make: the run, from a seed.
        tuning: whether thresholds were chosen with it in sight.
        blind: whether it was written after the last change of a rule or threshold.
        also: other causes that are true of it too.
        curable: acting on the first proposal should lower the training loss.
    """

    name: str
    cause: str
    make: Callable[[int], Run]
    tuning: bool
    also: tuple[str, ...] = ()
    curable: bool = False
    blind: bool = False


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


def one_hot_error(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Squared error against one-hot rows of integer labels."""

    def loss(params: Params, batch: Any) -> Any:
        return 0.5 * jnp.mean(jnp.sum((apply(params, batch[0]) - jax.nn.one_hot(batch[1], 10)) ** 2, axis=-1))

    return loss


def conv_too_large_rate(seed: int) -> Run:
    return digits_run(convolutional(), optax.adam(3.0), 60, seed)


def mislabelled(part: Any, seed: int, share: float, classes: int) -> Any:
    """A part with some labels drawn at random: its best loss is not zero, and curvature stays."""
    rng = np.random.default_rng([seed, 9])
    labels, chosen = part[1].copy(), rng.random(len(part[1])) < share
    labels[chosen] = rng.integers(0, classes, chosen.sum())
    return part[0], labels.astype(np.int32)


def bouncing_linear(seed: int) -> Run:
    """Cross-entropy is nearly linear far out, so steps beyond the limit bounce instead of running away."""
    parts = [mislabelled(part, seed, 0.3, 10) for part in split("digits", seed, 400)]
    return fit(dense((64, 10), "tanh"), *parts, optax.sgd(4.0), 200, seed)


def cancer(seed: int, train: int = 400) -> tuple[Any, Any]:
    """Breast cancer data in their own units: inputs from 0.001 to 4,000."""
    inputs, labels = datasets.load_breast_cancer(return_X_y=True)
    chosen = np.random.default_rng([seed, 1]).permutation(len(inputs))
    parts = (chosen[:train], chosen[train:])
    return tuple((inputs[i].astype(np.float32), labels[i].astype(np.int32)) for i in parts)


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


PLANTS = (
    Plant("healthy: dense", "healthy", healthy_dense, True),
    Plant("healthy: convolutional", "healthy", healthy_conv, True),
    Plant("healthy: attention", "healthy", healthy_attention, True),
    Plant("healthy: dense on wine", "healthy", healthy_wine, False),
    Plant("rate too large, dense", "divergence", too_large_rate, True, ("oscillation",)),
    Plant(
        "rate too large, convolutional",
        "divergence",
        conv_too_large_rate,
        False,
        ("oscillation", "dead_units"),
    ),
    Plant("bouncing, linear", "oscillation", bouncing_linear, True, (), True),
    Plant("bouncing, logistic", "oscillation", bouncing_logistic, False, (), True),
    Plant("rate too small, dense", "slow", tiny_rate_dense, True, (), True),
    Plant("rate too small, convolutional", "slow", tiny_rate_conv, False, (), True),
    Plant("small start, dense", "saddle", small_start_dense, True, ("slow", "vanishing_gradients"), True),
    Plant(
        "small start, deeper", "saddle", small_start_deep_linear, False, ("slow", "vanishing_gradients"), True
    ),
    Plant("dead units, dense", "dead_units", dead_dense, True),
    Plant("dead units, convolutional", "dead_units", dead_conv, False),
    Plant("saturated tanh", "saturation", saturated_tanh, True, ("slow",)),
    Plant("saturated sigmoid", "saturation", saturated_sigmoid, False, ("slow",)),
    Plant("deep sigmoid", "vanishing_gradients", vanishing_sigmoid, True, ("saddle", "slow")),
    Plant("deep tanh, small weights", "vanishing_gradients", vanishing_tanh, False, ("saddle", "slow")),
    Plant("deep relu, large weights", "exploding_gradients", exploding_relu, True, ("slow",)),
    Plant("deep convolutional, large", "exploding_gradients", exploding_conv, False, ("slow",)),
    Plant(
        "raw units", "input_scale", raw_inputs, True, ("saturation", "ill_conditioned", "oscillation", "slow")
    ),
    Plant(
        "inputs around 100", "input_scale", offset_inputs, False, ("ill_conditioned", "oscillation", "slow")
    ),
    Plant("batches of two, dense", "noise", noisy_batches, True, ("oscillation",), True),
    Plant("batches of two, convolutional", "noise", noisy_conv, False, ("oscillation",), True),
    Plant("long valley, linear", "ill_conditioned", long_valley, True, ("slow",), True),
    Plant("long valley, dense", "ill_conditioned", long_valley_dense, False, ("slow", "input_scale"), True),
    Plant("bottleneck", "model_bias", bottleneck, True, ("minimum", "ill_conditioned")),
    Plant("linear on rings", "model_bias", linear_on_rings, False, ("minimum",)),
    Plant("few samples, dense", "overfitting", few_samples, True),
    Plant("few samples, attention", "overfitting", few_samples_attention, False),
    Plant("inverted test images", "mismatch", inverted_test, True),
    Plant("moved test images", "mismatch", moved_test, False),
    Plant("healthy: tanh convolutional", "healthy", healthy_tanh_conv, False, blind=True),
    Plant("rate too small, attention", "slow", tiny_rate_attention, False, (), True, blind=True),
    Plant("dead units, attention", "dead_units", dead_attention, False, blind=True),
    Plant(
        "deep sigmoid on wine", "vanishing_gradients", vanishing_wine, False, ("saddle", "slow"), blind=True
    ),
    Plant("small start on wine", "saddle", small_start_wine, False, ("slow",), True, blind=True),
    Plant("few samples, convolutional", "overfitting", few_samples_conv, False, blind=True),
    Plant("noisy test images", "mismatch", noisy_test, False, blind=True),
    Plant(
        "one number per image", "model_bias", narrow_conv, False, ("minimum", "ill_conditioned"), blind=True
    ),
)
