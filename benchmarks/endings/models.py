"""Models whose trainings end in the ways that users meet: each a loss, a start and samples, from a seed."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.zoo import image_models, losses, models, samples, sequence_models
from benchmarks.zoo import layers as nn
from benchmarks.zoo.photographs import shrunk


class Model(NamedTuple):
    """One row: name, samples of a seed, the network's (init, apply), and the loss made from its apply."""

    name: str
    data: Callable[[int], Any]
    network: nn.Model
    objective: losses.Objective

    def make(self, seed: int) -> tuple[Callable[..., Any], Any, Any]:
        """Loss, start and one batch, in float64."""
        init, _ = self.network
        return loss_of(self), *nn.cast((init(seed), self.data(seed)), jnp.float64)


@functools.cache
def loss_of(model: Model) -> Callable[..., Any]:
    """One loss for all seeds, so that it is compiled once."""
    return model.objective(model.network[1])


def digits(count: int, side: int = 8) -> Callable[[int], Any]:
    """Digits, as they are or shrunk to 4 × 4 pixels."""

    def make(seed: int) -> Any:
        (inputs, labels), _ = samples.digits(seed, count)
        inputs = inputs if side == 8 else shrunk(inputs, side)
        return inputs - inputs.mean(), labels

    return make


def codes(seed: int) -> Any:
    """Small digits as inputs and as targets."""
    return (digits(300, 4)(seed)[0],) * 2


def first(parts: Callable[[int], samples.Parts], count: int | None = None) -> Callable[[int], Any]:
    """The training part, or its first rows."""
    return lambda seed: tuple(array[:count] for array in parts(seed)[0])


def known_cells(seed: int) -> Any:
    """Half of the cells of a 12 × 10 table of rank 2 with a little noise: numbers of cells, and values."""
    rng = np.random.default_rng([seed, 301])
    table = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 10)) + 0.1 * rng.standard_normal((12, 10))
    cells = np.argwhere(rng.random(table.shape) < 0.5)
    return cells, table[cells[:, 0], cells[:, 1]][:, None]


def points_of_interval(seed: int) -> Any:
    """Collocation points in (0, 1), moved a little from a grid; no targets."""
    rng = np.random.default_rng([seed, 302])
    inputs = np.linspace(0.0, 1.0, 24) + 0.01 * rng.standard_normal(24)
    return inputs, np.zeros(24)


def weight_normed(widths: tuple[int, ...]) -> nn.Model:
    """A tanh network whose weights are a length and a direction each (Salimans & Kingma 2016)."""

    def apply(params: Any, inputs: Any) -> Any:
        hidden = inputs
        for number, layer in enumerate(params):
            unit = layer["v"] / jnp.sqrt(jnp.sum(layer["v"] ** 2, axis=0))
            hidden = hidden @ (layer["g"] * unit) + layer["b"]
            hidden = hidden if number == len(params) - 1 else jnp.tanh(hidden)
        return hidden

    pairs = itertools.pairwise(widths)
    spec = [{"v": nn.weights(m, n), "g": nn.ones(n), "b": nn.zeros(n)} for m, n in pairs]
    return nn.drawn(303, spec), apply


@losses.objective
def physics(apply: Any, params: Any, batch: Any) -> Any:
    """u″ = −π² sin πx with u(0) = u(1) = 0: the mean squared residual and the boundary."""
    u = lambda x: apply(params, x[None, None])[0, 0]  # noqa: E731
    residual = jax.vmap(jax.grad(jax.grad(u)))(batch[0]) + np.pi**2 * jnp.sin(np.pi * batch[0])
    return jnp.mean(residual**2) / 50 + u(jnp.zeros(())) ** 2 + u(jnp.ones(())) ** 2


@losses.objective
def chain(_: Any, params: Any, batch: Any) -> Any:
    """Rosenbrock's chain of twelve variables: one long curved valley; no samples."""
    x = params["x"]
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2) / 100


CE, SQUARED, decayed, dense = losses.cross_entropy, losses.squared, losses.penalised, models.dense
# The inputs under a mixture.
mixed = losses.objective(lambda apply, params, batch: losses.unlikely(apply)(params, batch[0]))
MODELS = (
    Model("linear regression", first(samples.diabetes), dense((10, 1)), SQUARED),
    Model("softmax with decay", first(samples.wine), dense((13, 3)), decayed(CE, 1e-2)),
    Model("softmax, classes overlap", digits(900, 4), dense((16, 10)), CE),
    Model("softmax, classes apart", first(samples.wine), dense((13, 3)), CE),
    Model("logistic", first(samples.one_logit), dense((30, 1)), decayed(losses.binary, 1e-4)),
    Model("tanh regression", first(samples.diabetes), dense((10, 8, 1), "tanh"), SQUARED),
    Model("tanh with decay", first(samples.diabetes), dense((10, 8, 1), "tanh"), decayed(SQUARED, 1e-2)),
    Model("tanh classes", digits(400, 4), dense((16, 10, 10), "tanh"), decayed(CE, 1e-3)),
    Model("gelu classes", first(samples.wine), dense((13, 8, 3), "gelu"), decayed(CE, 1e-3)),
    Model("gelu classes without decay", first(samples.wine), dense((13, 8, 3), "gelu"), CE),
    Model("relu classes", digits(400, 4), dense((16, 12, 10), "relu"), decayed(CE, 3e-3)),
    Model("relu regression", first(samples.diabetes), dense((10, 6, 1), "relu"), SQUARED),
    Model("layer norm", first(samples.wine), models.layer_normed((13, 8, 3), "tanh"), decayed(CE, 1e-3)),
    Model("batch norm", first(samples.diabetes), models.batch_normed(10, 6, 1), SQUARED),
    Model("two linear layers", first(samples.diabetes), dense((10, 4, 1)), SQUARED),
    Model("three linear layers", digits(400, 4), dense((16, 6, 6, 10)), losses.one_hot_error),
    Model("linear autoencoder", codes, dense((16, 4, 16)), SQUARED),
    Model("tanh autoencoder", codes, dense((16, 6, 16), "tanh"), decayed(SQUARED, 1e-4)),
    Model("interpolation", first(samples.diabetes, 20), dense((10, 30, 1), "tanh"), SQUARED),
    Model("attention", digits(300), sequence_models.attention(4, 6), decayed(CE, 3e-3)),
    Model("convolution", digits(300), image_models.convolutional("gelu", (4, 4)), decayed(CE, 3e-3)),
    Model("gated recurrent units", digits(300), sequence_models.gru(6, 8, 10), decayed(CE, 3e-3)),
    Model("weight norm", first(samples.diabetes), weight_normed((10, 6, 1)), SQUARED),
    Model("matrix completion", known_cells, models.recommender(12, 10, 2), SQUARED),
    Model("mixture", first(samples.iris), models.normal_mixture(3, False), mixed),
    Model("equation", points_of_interval, dense((1, 12, 1), "tanh", 2.0), physics),
    Model("valley", lambda _: (np.zeros(1),) * 2, (nn.drawn(304, {"x": nn.noise(1.0, 12)}), None), chain),
    Model("10,000 variables", digits(300), dense((64, 120, 20, 10), "tanh"), decayed(CE, 1e-3)),
    Model("100,000 variables", digits(300), dense((64, 600, 100, 10), "gelu"), decayed(CE, 1e-3)),
)  # fmt: skip
