"""Networks of the untouched plants: pairs of an init and an apply, made once for each shape."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.zoo.models import ACTIVATIONS, Params, gaussian

LAYOUT = ("NHWC", "HWIO", "NHWC")


def normalised(inputs: Any) -> Any:
    """Mean 0 and deviation 1 over the last axis."""
    mean = jnp.mean(inputs, axis=-1, keepdims=True)
    return (inputs - mean) / jnp.sqrt(jnp.var(inputs, axis=-1, keepdims=True) + 1e-5)


@functools.cache
def transformer(width: int = 16, classes: int = 10, blocks: int = 1) -> tuple[Any, Any]:
    """Blocks of attention and a dense part, normalised first, over the sixteen 2 × 2 squares of a digit."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 21])
        shapes = {"qkv": (width, 3 * width), "mix": (width, width), "up": (width, 2 * width)}
        return {
            "embed": gaussian(rng, 4, width),
            "place": jnp.asarray(0.5 * rng.standard_normal((16, width)), jnp.float32),
            "blocks": [
                {name: gaussian(rng, *shape) for name, shape in shapes.items()}
                | {"down": gaussian(rng, 2 * width, width)}
                for _ in range(blocks)
            ],
            "out": {"w": gaussian(rng, 16 * width, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        squares = inputs.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
        tokens = squares @ params["embed"] + params["place"]
        for block in params["blocks"]:
            q, k, v = jnp.split(normalised(tokens) @ block["qkv"], 3, axis=-1)
            scores = jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2) / np.sqrt(width), axis=-1)
            tokens = tokens + scores @ v @ block["mix"]
            tokens = tokens + jax.nn.gelu(normalised(tokens) @ block["up"]) @ block["down"]
        tokens = normalised(tokens).reshape(len(tokens), -1)
        return tokens @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def gated(width: int, classes: int = 10) -> tuple[Any, Any]:
    """A gated recurrent unit (Cho et al. 2014) that reads rows of eight numbers."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 22])
        return {
            "in": gaussian(rng, 8, 3 * width),
            "again": gaussian(rng, width, 3 * width),
            "bias": jnp.zeros(3 * width, jnp.float32),
            "out": {"w": gaussian(rng, width, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(len(inputs), -1, 8).swapaxes(0, 1)

        def read(hidden: Any, row: Any) -> Any:
            fresh = row @ params["in"] + params["bias"]
            old = hidden @ params["again"]
            keep = jax.nn.sigmoid(fresh[:, :width] + old[:, :width])
            reset = jax.nn.sigmoid(fresh[:, width : 2 * width] + old[:, width : 2 * width])
            new = jnp.tanh(fresh[:, 2 * width :] + reset * old[:, 2 * width :])
            return keep * hidden + (1 - keep) * new, None

        hidden, _ = jax.lax.scan(read, jnp.zeros((rows.shape[1], width), rows.dtype), rows)
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def plain_memory(width: int, gain: float, classes: int = 10) -> tuple[Any, Any]:
    """A recurrent tanh network without biases that reads rows of eight numbers, however many."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 23])
        return {
            "in": gaussian(rng, 8, width),
            "again": gaussian(rng, width, width, gain=gain),
            "out": {"w": gaussian(rng, width, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(len(inputs), -1, 8).swapaxes(0, 1)

        def read(hidden: Any, row: Any) -> Any:
            return jnp.tanh(row @ params["in"] + hidden @ params["again"]), None

        hidden, _ = jax.lax.scan(read, jnp.zeros((rows.shape[1], width), rows.dtype), rows)
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def layer_normed(widths: tuple[int, ...], activation: str) -> tuple[Any, Any]:
    """A dense network whose units are normalised over each layer before their activation."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 24])
        layers = [
            {
                "w": gaussian(rng, a, b),
                "scale": jnp.ones(b, jnp.float32),
                "offset": jnp.zeros(b, jnp.float32),
            }
            for a, b in itertools.pairwise(widths[:-1])
        ]
        out = {"w": gaussian(rng, *widths[-2:]), "b": jnp.zeros(widths[-1], jnp.float32)}
        return {"layers": layers, "out": out}

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs
        for layer in params["layers"]:
            hidden = normalised(hidden @ layer["w"]) * layer["scale"] + layer["offset"]
            hidden = ACTIVATIONS[activation](hidden)
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def linear_units(inputs: int, width: int, classes: int) -> tuple[Any, Any]:
    """Two layers of gated linear units x W · sigmoid(x V + b) (Dauphin et al. 2017), then a linear one."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 25])
        layers = [
            {"w": gaussian(rng, a, width), "v": gaussian(rng, a, width), "b": jnp.zeros(width, jnp.float32)}
            for a in (inputs, width)
        ]
        out = {"w": gaussian(rng, width, classes), "b": jnp.zeros(classes, jnp.float32)}
        return {"layers": layers, "out": out}

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs
        for layer in params["layers"]:
            hidden = (hidden @ layer["w"]) * jax.nn.sigmoid(hidden @ layer["v"] + layer["b"])
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def coder(channels: int, code: int) -> tuple[Any, Any]:
    """An autoencoder of digits: a convolution of stride 2, a code, and a transposed convolution."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 26])
        inner = 16 * channels
        return {
            "down": {
                "w": gaussian(rng, 3, 3, 1, channels, gain=1.4),
                "b": jnp.zeros(channels, jnp.float32),
            },
            "code": {"w": gaussian(rng, inner, code), "b": jnp.zeros(code, jnp.float32)},
            "fill": {"w": gaussian(rng, code, inner, gain=1.4), "b": jnp.zeros(inner, jnp.float32)},
            "up": {"w": gaussian(rng, 3, 3, channels, 1), "b": jnp.zeros(1, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        images = inputs.reshape(-1, 8, 8, 1)
        layer = params["down"]
        hidden = jax.lax.conv_general_dilated(images, layer["w"], (2, 2), "SAME", dimension_numbers=LAYOUT)
        hidden = jax.nn.relu(hidden + layer["b"]).reshape(len(images), -1)
        hidden = hidden @ params["code"]["w"] + params["code"]["b"]
        hidden = jax.nn.relu(hidden @ params["fill"]["w"] + params["fill"]["b"])
        hidden = hidden.reshape(len(images), 4, 4, -1)
        layer = params["up"]
        hidden = jax.lax.conv_transpose(hidden, layer["w"], (2, 2), "SAME", dimension_numbers=LAYOUT)
        return (hidden + layer["b"]).reshape(len(images), -1)

    return init, apply


@functools.cache
def separable(channels: int, outputs: int, activation: str = "silu") -> tuple[Any, Any]:
    """A 3 × 3 convolution of a digit, then one within each channel and one across them; averages; linear."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 27])
        return {
            "first": gaussian(rng, 3, 3, 1, channels, gain=1.4),
            "within": jnp.asarray(rng.standard_normal((3, 3, channels)) / 3, jnp.float32),
            "across": gaussian(rng, channels, 2 * channels, gain=1.4),
            "bias": jnp.zeros(2 * channels, jnp.float32),
            "out": {"w": gaussian(rng, 32 * channels, outputs), "b": jnp.zeros(outputs, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        act = ACTIVATIONS[activation]
        images = inputs.reshape(-1, 8, 8, 1)
        first = jax.lax.conv_general_dilated(
            images, params["first"], (1, 1), "SAME", dimension_numbers=LAYOUT
        )
        wide = jnp.pad(act(first), ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = itertools.product(range(3), range(3))
        within = sum(wide[:, i : i + 8, j : j + 8] * params["within"][i, j] for i, j in shifts)
        hidden = act(within @ params["across"] + params["bias"])
        means = hidden.reshape(len(hidden), 4, 2, 4, 2, -1).mean(axis=(2, 4))
        return means.reshape(len(means), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def pixel_set(width: int, places: bool) -> tuple[Any, Any]:
    """Features of each pixel, averaged over the image: it sees how dark, not where (or where, too)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 28])
        return {
            "in": gaussian(rng, 1, width, gain=3.0),
            "bias": jnp.asarray(rng.standard_normal(width), jnp.float32),
            "place": jnp.asarray(float(places) * rng.standard_normal((64, width)), jnp.float32),
            "out": {"w": gaussian(rng, width, 10, gain=3.0), "b": jnp.zeros(10, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        place = params["place"] if places else 0.0
        seen = jnp.tanh(inputs[:, :, None] * params["in"] + params["bias"] + place)
        return seen.mean(axis=1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def linear_coder(code: int) -> tuple[Any, Any]:
    """A linear autoencoder of digits without intercepts."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 29])
        return {"in": gaussian(rng, 64, code), "out": gaussian(rng, code, 64, gain=0.3)}

    def apply(params: Params, inputs: Any) -> Any:
        return inputs @ params["in"] @ params["out"]

    return init, apply
