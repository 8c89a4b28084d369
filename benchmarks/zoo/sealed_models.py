"""Networks of the sealed plants: pairs of an init and an apply, made once for each shape."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.zoo.models import Params, gaussian
from benchmarks.zoo.untouched_models import LAYOUT, normalised


@functools.cache
def lstm(width: int, columns: int, outputs: int) -> tuple[Any, Any]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997) that reads rows; its forget gates start open."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 51])
        return {
            "in": gaussian(rng, columns, 4 * width),
            "again": gaussian(rng, width, 4 * width),
            "bias": jnp.zeros(4 * width, jnp.float32).at[:width].set(1.0),
            "out": {"w": gaussian(rng, width, outputs), "b": jnp.zeros(outputs, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(len(inputs), -1, columns).swapaxes(0, 1)

        def read(carry: Any, row: Any) -> Any:
            hidden, cell = carry
            sums = row @ params["in"] + hidden @ params["again"] + params["bias"]
            forget, enter, leave, new = jnp.split(sums, 4, axis=-1)
            cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
            return (jax.nn.sigmoid(leave) * jnp.tanh(cell), cell), None

        blank = jnp.zeros((rows.shape[1], width), rows.dtype)
        (hidden, _), _ = jax.lax.scan(read, (blank, blank), rows)
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def depthwise(width: int, classes: int = 10) -> tuple[Any, Any]:
    """Patches, a depthwise 3 × 3 convolution with a skip, one across channels (Trockman & Kolter 2022)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 52])
        return {
            "patch": gaussian(rng, 2, 2, 1, width, gain=1.4),
            "within": gaussian(rng, 9, width),
            "across": gaussian(rng, width, width, gain=1.4),
            "bias": jnp.zeros((2, width), jnp.float32),
            "out": {"w": gaussian(rng, 16 * width, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        images = inputs.reshape(-1, 8, 8, 1)
        hidden = jax.lax.conv_general_dilated(
            images, params["patch"], (2, 2), "VALID", dimension_numbers=LAYOUT
        )
        hidden = jax.nn.gelu(hidden + params["bias"][0])
        wide = jnp.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [(i, j) for i in range(3) for j in range(3)]
        mixed = sum(wide[:, i : i + 4, j : j + 4] * params["within"][3 * i + j] for i, j in shifts)
        hidden = hidden + jax.nn.gelu(mixed)
        hidden = jax.nn.gelu(hidden @ params["across"] + params["bias"][1])
        return hidden.reshape(len(hidden), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def mixer(width: int, classes: int = 10) -> tuple[Any, Any]:
    """One block that mixes the sixteen squares of a digit, then their channels (Tolstikhin et al. 2021)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 53])
        shapes = {"embed": (4, width), "up": (16, 32), "down": (32, 16)}
        shapes |= {"wide": (width, 2 * width), "narrow": (2 * width, width)}
        out = {"w": gaussian(rng, 16 * width, classes), "b": jnp.zeros(classes, jnp.float32)}
        return {name: gaussian(rng, *shape) for name, shape in shapes.items()} | {"out": out}

    def apply(params: Params, inputs: Any) -> Any:
        squares = inputs.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
        tokens = squares @ params["embed"]
        turned = normalised(tokens).swapaxes(1, 2)
        tokens = tokens + (jax.nn.gelu(turned @ params["up"]) @ params["down"]).swapaxes(1, 2)
        tokens = tokens + jax.nn.gelu(normalised(tokens) @ params["wide"]) @ params["narrow"]
        return tokens.reshape(len(tokens), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def waves(width: int, frequency: float) -> tuple[Any, Any]:
    """A value at a place by two layers of sines (Sitzmann et al. 2020)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 54])
        sizes = ((2, width), (width, width), (width, 1))
        gains = (frequency, 2.0, 1.0)
        return [
            {"w": gaussian(rng, *size, gain=gain), "b": jnp.zeros(size[1], jnp.float32)}
            for size, gain in zip(sizes, gains, strict=True)
        ]

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs
        for layer in params[:-1]:
            hidden = jnp.sin(hidden @ layer["w"] + layer["b"])
        return hidden @ params[-1]["w"] + params[-1]["b"]

    return init, apply


@functools.cache
def excited(channels: int, classes: int = 10) -> tuple[Any, Any]:
    """A convolution whose channels are weighted by gates that see their means (Hu et al. 2018)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 55])
        return {
            "kernel": gaussian(rng, 3, 3, 1, channels, gain=1.4),
            "bias": jnp.zeros(channels, jnp.float32),
            "gate": {"w": gaussian(rng, channels, channels), "b": jnp.zeros(channels, jnp.float32)},
            "out": {"w": gaussian(rng, 16 * channels, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        hidden = convolved(params, inputs)
        hidden = hidden * jax.nn.sigmoid(squeezed(params, hidden))[:, None, None]
        means = hidden.reshape(len(hidden), 4, 2, 4, 2, -1).mean(axis=(2, 4))
        return means.reshape(len(means), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


def convolved(params: Params, inputs: Any) -> Any:
    """The channels of `excited` before they are weighted."""
    images = inputs.reshape(-1, 8, 8, 1)
    hidden = jax.lax.conv_general_dilated(images, params["kernel"], (1, 1), "SAME", dimension_numbers=LAYOUT)
    return jax.nn.relu(hidden + params["bias"])


def squeezed(params: Params, hidden: Any) -> Any:
    """The sums from which the gates of `excited` are made."""
    return hidden.mean(axis=(1, 2)) @ params["gate"]["w"] + params["gate"]["b"]


@functools.cache
def gated_stack(inputs: int, width: int, depth: int, classes: int, gain: float) -> tuple[Any, Any]:
    """Many layers of gated linear units x W · sigmoid(x V), then a linear one."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 56])
        sizes = (inputs, *(width,) * (depth - 1))
        layers = [{"w": gaussian(rng, a, width, gain=gain), "v": gaussian(rng, a, width)} for a in sizes]
        out = {"w": gaussian(rng, width, classes), "b": jnp.zeros(classes, jnp.float32)}
        return {"layers": layers, "out": out}

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs
        for layer in params["layers"]:
            hidden = (hidden @ layer["w"]) * jax.nn.sigmoid(hidden @ layer["v"])
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def multiplied(inputs: int, width: int, depth: int, classes: int, gain: float) -> tuple[Any, Any]:
    """Layers of products x W · x V: a polynomial whose degree doubles in each."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 57])
        sizes = (inputs, *(width,) * (depth - 1))
        layers = [{name: gaussian(rng, a, width, gain=gain) for name in "wv"} for a in sizes]
        out = {"w": gaussian(rng, width, classes), "b": jnp.zeros(classes, jnp.float32)}
        return {"layers": layers, "out": out}

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs
        for layer in params["layers"]:
            hidden = (hidden @ layer["w"]) * (hidden @ layer["v"])
        return hidden @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def sparse_code(units: int, threshold: float) -> tuple[Any, Any]:
    """An autoencoder of digits whose codes are shrunk by a threshold each (Gregor & LeCun 2010)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 58])
        return {
            "in": gaussian(rng, 64, units, gain=1.4),
            "threshold": jnp.full(units, threshold, jnp.float32),
            "out": {"w": gaussian(rng, units, 64, gain=0.3), "b": jnp.zeros(64, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        sums = inputs @ params["in"]
        up, down = sums - params["threshold"], -sums - params["threshold"]
        return (jax.nn.relu(up) - jax.nn.relu(down)) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def branched(inputs: int, width: int, gate: float) -> tuple[Any, Any]:
    """A linear model and a branch behind a gate (Bachlechner et al. 2021); its last weights start at zero."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 59])
        return {
            "line": {"w": gaussian(rng, inputs, 1, gain=0.1), "b": jnp.zeros(1, jnp.float32)},
            "in": {"w": gaussian(rng, inputs, width, gain=3.0), "b": jnp.zeros(width, jnp.float32)},
            "out": jnp.zeros((width, 1), jnp.float32),
            "gate": jnp.asarray(gate, jnp.float32),
        }

    def apply(params: Params, inputs: Any) -> Any:
        branch = jax.nn.silu(inputs @ params["in"]["w"] + params["in"]["b"]) @ params["out"]
        return inputs @ params["line"]["w"] + params["line"]["b"] + params["gate"] * branch

    return init, apply


@functools.cache
def siamese(width: int, ordered: bool) -> tuple[Any, Any]:
    """Two images through one network; the answer is made from their distance (or their difference)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 60])
        return {
            "in": {"w": gaussian(rng, 64, width, gain=1.4), "b": jnp.zeros(width, jnp.float32)},
            "out": {"w": gaussian(rng, width, 1), "b": jnp.zeros(1, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        first, second = (
            jnp.tanh(part @ params["in"]["w"] + params["in"]["b"]) for part in jnp.split(inputs, 2, axis=1)
        )
        apart = first - second if ordered else (first - second) ** 2
        return apart @ params["out"]["w"] + params["out"]["b"]

    return init, apply
