"""The trainings of `benchmarks.stuck`: data, a network, its loss, a start that is stuck, an optimiser."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.endings.models import digits, first, physics, points_of_interval
from benchmarks.zoo import image_models, losses, models, samples, sequence_models
from benchmarks.zoo import layers as nn

CE, SQ, ONE_HOT = losses.cross_entropy, losses.squared, losses.one_hot_error


@dataclasses.dataclass(frozen=True)
class Row:
    """A training that gets stuck."""

    name: str
    data: Callable[[int], Any]  # by seed
    network: nn.Model | Callable[[], nn.Model]  # init and apply; a function imports a framework
    objective: losses.Objective
    spoil: Callable[[Any], Any]  # the usual start ↦ one that is stuck
    optimizer: Any
    batch: int | None = 64  # samples in a minibatch; None for all

    def make(self, seed: int) -> tuple[Callable[..., Any], Any, Any]:
        """Loss, usual start and data, in float32."""
        init, apply = self.network() if callable(self.network) else self.network
        return self.objective(apply), *nn.cast((init(seed), self.data(seed)), jnp.float32)

    def renew(self, params: Any, seed: int) -> Any:
        """Draw all weights again; vectors stay."""
        return jax.tree.map(lambda new, old: new if new.ndim > 1 else old, self.make(seed)[1], params)


def times(scale: float) -> Callable[[Any], Any]:
    """Scale all weights; vectors stay."""
    return lambda params: jax.tree.map(lambda leaf: leaf * scale if leaf.ndim > 1 else leaf, params)


momentum = functools.partial(optax.sgd, momentum=0.9)


def codes(seed: int) -> Any:
    """Digits less the mean of each pixel, as inputs and as targets."""
    (inputs, _), _ = samples.digits(seed, 1000)
    return (inputs - inputs.mean(axis=0),) * 2


@losses.objective
def variational(_: Any, params: Any, batch: Any) -> Any:
    """The bound of a variational autoencoder (Kingma & Welling 2014), with a weight of 0.05 on the prior."""
    hidden = jnp.tanh(nn.linear(params["in"], batch[0]))
    mean, log = jnp.split(nn.linear(params["code"], hidden), 2, axis=-1)
    code = mean + jnp.exp(0.5 * log) * jax.random.normal(jax.random.key(0), mean.shape, mean.dtype)
    image = nn.linear(params["out"], jnp.tanh(nn.linear(params["mid"], code)))
    prior = jnp.sum(jnp.exp(log) + mean**2 - 1 - log, axis=-1)
    return 0.5 * jnp.mean(jnp.sum((image - batch[1]) ** 2, axis=-1) + 0.05 * prior)


# Its layers; `variational` puts them together.
SIZES = {"in": (64, 32), "code": (32, 16), "mid": (8, 32), "out": (32, 64)}
VARIATIONAL = nn.drawn(401, {name: nn.affine(*size) for name, size in SIZES.items()}), nn.linear


def linen() -> nn.Model:
    """Flax linen."""
    import flax.linen as fl

    net = fl.Sequential([fl.Dense(32), fl.gelu, fl.Dense(32), fl.gelu, fl.Dense(10)])
    return lambda seed: net.init(jax.random.key(seed), jnp.zeros((1, 64))), net.apply


def nnx() -> nn.Model:
    """Flax nnx: two convolutions and a dense layer."""
    from flax import nnx as fx

    def network(seed: int) -> Any:
        rngs = fx.Rngs(seed)
        first, second = fx.Conv(1, 8, (3, 3), rngs=rngs), fx.Conv(8, 8, (3, 3), strides=2, rngs=rngs)
        return fx.Dict(first=first, second=second, last=fx.Linear(128, 10, rngs=rngs))

    graph = fx.graphdef(network(0))

    def apply(params: Any, inputs: Any) -> Any:
        state = fx.state(network(0))
        fx.replace_by_pure_dict(state, params)
        net = fx.merge(graph, state)
        hidden = jnp.tanh(net.second(jnp.tanh(net.first(inputs.reshape(-1, 8, 8, 1)))))
        return net.last(nn.flattened(hidden))

    return lambda seed: fx.to_pure_dict(fx.state(network(seed))), apply


def equinox() -> nn.Model:
    """Equinox."""
    import equinox as eqx

    def network(seed: int) -> Any:
        return eqx.nn.MLP(64, 10, 32, 5, activation=jnp.tanh, key=jax.random.key(seed))

    fixed = eqx.partition(network(0), eqx.is_array)[1]
    apply = lambda params, inputs: jax.vmap(eqx.combine(params, fixed))(inputs)  # noqa: E731
    return lambda seed: eqx.filter(network(seed), eqx.is_array), apply


def haiku() -> nn.Model:
    """Haiku."""
    import haiku as hk

    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([32, 32, 10], activation=jax.nn.silu)(x)))
    return lambda seed: net.init(jax.random.key(seed), jnp.zeros((1, 64))), net.apply


def keras() -> nn.Model:
    """Keras 3 on JAX."""
    import os

    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras as ks

    if ks.backend.backend() != "jax":
        raise ImportError("Keras runs on another backend than JAX")

    def network(seed: int) -> Any:
        ks.utils.set_random_seed(seed)
        dense = ks.layers.Dense
        return ks.Sequential([ks.layers.Input((64,)), dense(32, "relu"), dense(32, "relu"), dense(10)])

    net = network(0)
    apply = lambda params, inputs: net.stateless_call(params, [], inputs)[0]  # noqa: E731
    return lambda seed: [variable.value for variable in network(seed).trainable_variables], apply


dense, lines = models.dense, digits(1000)
three, four = (64, 32, 32, 10), (64, 32, 32, 32, 10)
adam, adamw, fast = optax.adam(1e-3), optax.adamw(1e-3), momentum(0.05)
wine, cancer, diabetes = first(samples.wine), first(samples.one_logit), first(samples.diabetes)
words = first(lambda seed: samples.levels(seed, 1000))
gru, lstm, attention = sequence_models.gru, sequence_models.lstm, sequence_models.attention
convolutional, experts = image_models.convolutional, models.routed_experts
ROWS = (
    Row("tanh, zero, momentum", lines, dense(three, "tanh"), CE, times(0), fast),
    Row("tanh, zero, Adam", lines, dense(three, "tanh"), CE, times(0), adam),
    Row("tanh, zero, RMSProp", lines, dense(three, "tanh"), CE, times(0), optax.rmsprop(1e-3)),
    Row("tanh, small", lines, dense(three, "tanh"), CE, times(1e-2), fast),
    Row("tanh, two layers, small", lines, dense((64, 32, 10), "tanh"), CE, times(1e-4), momentum(0.01)),
    Row("tanh, four layers, small", lines, dense(four, "tanh"), CE, times(1e-2), fast),
    Row("relu, small", lines, dense(three, "relu"), CE, times(1e-2), fast),
    Row("relu, small, all data", lines, dense(three, "relu"), CE, times(1e-2), fast, None),
    Row("deep linear, small", lines, dense((64, *(16,) * 4, 10)), ONE_HOT, times(1e-2), momentum(0.02)),
    Row("convolution, small", lines, convolutional("gelu", (8, 8)), CE, times(1e-3), fast),
    Row("graph convolutions, small", lines, models.graph(8), CE, times(1e-3), fast),
    Row("mixture of experts, small", lines, experts(4, 16, 64, 10, one=False), CE, times(1e-3), fast),
    Row("autoencoder, small", codes, dense((64, 32, 8, 32, 64), "gelu"), SQ, times(2e-3), momentum(0.01)),
    Row("variational autoencoder, zero", codes, VARIATIONAL, variational, times(0), adam),
    Row("gated recurrent units, small", lines, gru(16, 8, 10), CE, times(1e-3), fast),
    Row("long short-term memory, small", lines, lstm(16, 8, 10), CE, times(1e-3), fast),
    Row("attention, small", lines, attention(16, 32), CE, times(1e-3), fast),
    Row("embeddings, zero", words, models.token_sum(16, 0.3, 0.3), CE, times(0), adam),
    Row("siamese, zero", first(samples.pairs), models.siamese(16, True), losses.binary, times(0), adam),
    Row("wine, small", wine, dense((13, 16, 16, 3), "tanh"), CE, times(1e-3), fast, 32),
    Row("cancer, small", cancer, dense((30, 16, 16, 1), "relu"), losses.binary, times(1e-3), fast, 32),
    Row("diabetes, zero", diabetes, dense((10, 16, 16, 1), "tanh"), SQ, times(0), momentum(0.02), 32),
    Row("diabetes, zero, AdamW", diabetes, dense((10, 16, 16, 1), "tanh"), SQ, times(0), adamw, 32),
    Row("diabetes, small", diabetes, dense((10, 32, 32, 1), "gelu"), SQ, times(1e-3), momentum(0.02), 32),
    Row("equation, zero", points_of_interval, dense((1, 24, 24, 1), "tanh"), physics, times(0), adam, None),
    Row("flax linen, small", lines, linen, CE, times(1e-3), fast),
    Row("flax nnx, convolutions, small", lines, nnx, CE, times(1e-3), fast),
    Row("equinox, zero", lines, equinox, CE, times(0), adam),
    Row("haiku, small", lines, haiku, CE, times(1e-3), fast),
    Row("keras, small", lines, keras, CE, times(1e-2), fast),
)
