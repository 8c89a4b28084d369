"""Plateaus for `benchmarks.escape`: each a loss, starts by seed, and when it counts as left."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.layers import cast
from hessian_probe import problems


@dataclasses.dataclass(frozen=True)
class Plateau:
    """A loss that gets stuck."""

    name: str
    loss: Callable[..., Any]  # of parameters, or of parameters and data
    start: Callable[[int], Any]  # parameters by seed
    data: Any  # all of them, or None
    left: float  # the plateau is left when the loss on all data is below this
    rate: float  # of gradient descent and of momentum
    adam_rate: float = 1e-3
    steps: int = 20_000  # where runs are given up
    batch: int | None = None  # samples in a minibatch; None for all
    radius: float = 0.01  # length of a perturbation
    scales: tuple[float, ...] = (1.0,)  # factors of the start; the smaller, the longer is the plateau

    @property
    def args(self) -> tuple[Any, ...]:
        """What the loss takes beside the parameters."""
        return () if self.data is None else (self.data,)


single = functools.partial(cast, dtype=jnp.float32)


def minibatch(data: Any, size: int | None, key: jax.Array) -> Any:
    """Rows of the data drawn with replacement; all of them where the size is None."""
    if size is None:
        return data
    rows = jax.random.randint(key, (size,), 0, len(jax.tree.leaves(data)[0]))
    return jax.tree.map(lambda leaf: leaf[rows], data)


def training_step(loss: Callable[..., Any], optimizer: Any, size: int | None) -> Callable[..., Any]:
    """One step on a minibatch: (params, state), data, key ↦ (params, state), loss, batch."""

    def step(carry: Any, data: Any, key: jax.Array) -> Any:
        params, state = carry
        batch = minibatch(data, size, key)
        value, gradient = jax.value_and_grad(loss)(params, *(() if batch is None else (batch,)))
        updates, state = optimizer.update(gradient, state, params, value=value, batch=batch)
        return (optax.apply_updates(params, updates), state), value, batch

    return step


def octopus(dimension: int) -> Plateau:
    """Du et al. 2017, from a uniform start in [−1, 1]^d, L = τ = e, γ = 1, rate 1/(4L); d saddles."""
    left = float(problems.octopus(jnp.full(dimension, 4 * math.e))) + 1.0
    rates = {"rate": 1 / (4 * math.e), "adam_rate": 0.05, "radius": math.e / 100}

    start = lambda seed: single(np.random.default_rng(seed).uniform(-1, 1, dimension))  # noqa: E731
    return Plateau(f"octopus, d = {dimension}", problems.octopus, start, None, left=left, **rates)


def deep_linear(depth: int, scales: tuple[float, ...]) -> Plateau:
    """Layers of width 8 learn singular values 3, 2, 1 from a small start; saddles at 7, 2.5 and 0.5."""
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((8, 8)))[0][:, :3] for _ in range(2))
    target = single(u * [3.0, 2.0, 1.0] @ v.T)

    def loss(params: Any, target: Any) -> Any:
        product = functools.reduce(lambda product, layer: layer @ product, params)
        return 0.5 * jnp.sum((product - target) ** 2)

    def start(seed: int) -> Any:
        draw = np.random.default_rng([seed, depth])
        return single([0.05 * draw.standard_normal((8, 8)) / math.sqrt(8) for _ in range(depth)])

    return Plateau(f"deep linear, {depth} layers", loss, start, target, left=0.05, rate=0.02, scales=scales)


def weights(widths: tuple[int, ...], scale: float) -> Callable[[int], Any]:
    """Random weights without biases, by seed."""
    return lambda seed: single(problems.mlp_init(widths, scale=scale, bias=False, seed=seed))


def symmetric(seed: int) -> Any:
    """Weights of 64-16-16-10 whose units start alike, to one part in 1e6: the network uses one a layer."""
    draw = problems.mlp_init((64, 16, 16, 10), scale=1.0, bias=False, seed=seed)
    first, last = draw[0]["weight"], draw[-1]["weight"]
    alike = (first[:, :1], np.array(0.25), last[:1] * 0.25)
    return single(tuple({"weight": w * (1 + 1e-6 * d["weight"])} for w, d in zip(alike, draw, strict=True)))


def autoencoder() -> Plateau:
    """Digits, centred, 64-32-8-32-64, tanh, small start: the plateaus of Dauphin et al. 2014."""
    inputs, _ = problems.digits()
    data = single(inputs - inputs.mean(axis=0))
    left = 0.7 * float(jnp.sum(data**2) / len(data))
    start = weights((64, 32, 8, 32, 64), 0.1)

    def loss(params: Any, data: Any) -> Any:
        outputs = problems.mlp_apply(params, data, activation="tanh")
        return jnp.sum((outputs - data) ** 2) / data.shape[0]

    return Plateau("digits autoencoder", loss, start, data, left, rate=0.05, scales=(1.0, 0.3))


def plateaus() -> list[Plateau]:
    """All of them; the last two are tanh networks that learn the digits."""
    loss, digits = problems.mlp_loss("tanh", "squared_error"), single(problems.digits(one_hot=True))
    small, scales = weights((64, 12, 12, 10), 0.005), (10.0, 1.0)
    return [
        *(octopus(d) for d in (2, 3, 4, 5, 6, 8, 10)),
        deep_linear(3, (1.0, 0.3, 0.1)),
        *(deep_linear(depth, (2.0, 1.0)) for depth in (4, 5, 6)),
        Plateau("digits, symmetric start", loss, symmetric, digits, left=0.6, rate=0.02),
        autoencoder(),
        Plateau("digits, minibatches of 64", loss, small, digits, 0.8, rate=0.05, batch=64, scales=scales),
    ]
