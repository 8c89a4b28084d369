"""Small networks: pairs of an init and an apply, made once for each shape so that programs are reused."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = Any
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "hard_tanh": jax.nn.hard_tanh,
}


def gaussian(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> jax.Array:
    """Weights of deviation gain / √inputs."""
    fan = int(np.prod(shape[:-1]))
    return jnp.asarray(rng.standard_normal(shape) * gain / np.sqrt(fan), jnp.float32)


@functools.cache
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


@functools.cache
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


@functools.cache
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


@functools.cache
def residual(width: int, blocks: int, classes: int, inputs: int, gain: float = 1.0) -> tuple[Any, Any]:
    """Init and apply of blocks x + gelu(x W) V behind a linear embedding."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 11])
        return {
            "embed": gaussian(rng, inputs, width),
            "blocks": [
                {"w": gaussian(rng, width, width, gain=gain), "v": gaussian(rng, width, width, gain=gain)}
                for _ in range(blocks)
            ],
            "out": gaussian(rng, width, classes),
        }

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs @ params["embed"]
        for block in params["blocks"]:
            hidden = hidden + jax.nn.gelu(hidden @ block["w"]) @ block["v"]
        return hidden @ params["out"]

    return init, apply


@functools.cache
def pooled(activation: str, channels: int, classes: int, gain: float = 1.4) -> tuple[Any, Any]:
    """Init and apply of one 5 × 5 convolution of a digit, averages over 2 × 2 pixels, and a linear layer."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 12])
        return {
            "kernel": gaussian(rng, 5, 5, 1, channels, gain=gain),
            "bias": jnp.zeros(channels, jnp.float32),
            "out": {"w": gaussian(rng, 16 * channels, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        images = inputs.reshape(-1, 8, 8, 1)
        hidden = jax.lax.conv_general_dilated(
            images, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = ACTIVATIONS[activation](hidden + params["bias"])
        means = hidden.reshape(len(hidden), 4, 2, 4, 2, -1).mean(axis=(2, 4))
        return means.reshape(len(means), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def two_heads(width: int = 12, classes: int = 10) -> tuple[Any, Any]:
    """Init and apply of two heads of attention over the columns of a digit, normalised and averaged."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 13])
        shapes = {"embed": (8, width), "q": (width, width), "k": (width, width), "v": (width, width)}
        params = {name: gaussian(rng, *shape) for name, shape in shapes.items()}
        params["place"] = jnp.asarray(0.5 * rng.standard_normal((8, width)), jnp.float32)
        params["scale"] = jnp.ones(width, jnp.float32)
        params["up"], params["down"] = gaussian(rng, width, 4 * width), gaussian(rng, 4 * width, width)
        params["out"] = gaussian(rng, 8 * width, classes)
        return params

    def apply(params: Params, inputs: Any) -> Any:
        columns = jnp.swapaxes(inputs.reshape(-1, 8, 8), 1, 2)
        tokens = columns @ params["embed"] + params["place"]
        parts = [(tokens @ params[name]).reshape(-1, 8, 2, width // 2) for name in "qkv"]
        scores = jnp.einsum("nihc,njhc->nhij", parts[0], parts[1]) / np.sqrt(width // 2)
        mixed = jnp.einsum("nhij,njhc->nihc", jax.nn.softmax(scores, axis=-1), parts[2])
        tokens = tokens + mixed.reshape(tokens.shape)
        spread = jnp.std(tokens, axis=-1, keepdims=True) + 1e-3
        tokens = params["scale"] * (tokens - jnp.mean(tokens, axis=-1, keepdims=True)) / spread
        tokens = tokens + jax.nn.gelu(tokens @ params["up"]) @ params["down"]
        return tokens.reshape(len(tokens), -1) @ params["out"]

    return init, apply


@functools.cache
def recurrent(width: int, activation: str, gain: float = 1.0) -> tuple[Any, Any]:
    """Init and apply of a recurrent network that reads the eight rows of a digit."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 14])
        return {
            "in": gaussian(rng, 8, width),
            "again": gaussian(rng, width, width, gain=gain),
            "bias": jnp.zeros(width, jnp.float32),
            "out": {"w": gaussian(rng, width, 10), "b": jnp.zeros(10, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(-1, 8, 8)
        hidden = jnp.zeros((len(rows), width), rows.dtype)
        for row in range(8):
            hidden = ACTIVATIONS[activation](
                rows[:, row] @ params["in"] + hidden @ params["again"] + params["bias"]
            )
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply
