"""Data and networks of the reported plants about layers and data; networks are made once for each shape."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn import datasets

from benchmarks.zoo.models import ACTIVATIONS, Params, dense, gaussian
from benchmarks.zoo.samples import parted
from benchmarks.zoo.unseen_data_models import LAYOUT, picture


def petals(seed: int) -> Any:
    """Iris in centimetres: the width of a petal from the other three measures; 100 and 50 flowers."""
    table = datasets.load_iris(return_X_y=True)[0]
    return parted(table[:, :3], table[:, 3:].astype(np.float32), seed, 100, 50)


def brightness(seed: int, *, counts: bool, train: int = 600, test: int = 300, length: int = 12) -> Any:
    """Pieces of lines of the temple's photograph, as sums of three colours (0 to 765) or standardised.

    The target is what comes next, standardised.
    """
    grey = picture("china.jpg").sum(axis=2) * 255
    rng = np.random.default_rng([seed, 81])
    rows = rng.integers(0, grey.shape[0], train + test)
    starts = rng.integers(0, grey.shape[1] - length, train + test)
    cut = np.stack([grey[i, j : j + length + 1] for i, j in zip(rows, starts, strict=True)])
    normal = (cut - grey.mean()) / grey.std()
    inputs = cut[:, :-1] if counts else normal[:, :-1]
    return parted(inputs, normal[:, -1:].astype(np.float32), seed, train, test)


def walls(seed: int, train: int = 600, test: int = 300, side: int = 4) -> Any:
    """Coloured squares of the temple below the sky, red, green and blue from -1 to 1, and how warm they are.

    That is the logarithm of red over blue, standardised.
    """
    image = picture("china.jpg")[210:]
    rng = np.random.default_rng([seed, 82])
    tops, lefts = (rng.integers(0, size - side, train + test) for size in image.shape[:2])
    cut = np.stack([image[i : i + side, j : j + side] for i, j in zip(tops, lefts, strict=True)])
    red, _, blue = cut.mean(axis=(1, 2)).T + 0.1
    target = np.log(red / blue)
    target = ((target - target.mean()) / target.std()).astype(np.float32)[:, None]
    return parted(2 * cut.reshape(len(cut), -1) - 1, target, seed, train, test)


def grained(seed: int, train: int = 500, test: int = 200, grain: float = 0.3) -> Any:
    """Squares of the flower's grey values, with grain added and without."""
    grey = picture("flower.jpg").mean(axis=2)
    grey = (grey - grey.mean()) / grey.std()
    rng = np.random.default_rng([seed, 83])
    tops, lefts = (rng.integers(0, size - 8, train + test) for size in grey.shape)
    clean = np.stack([grey[i : i + 8, j : j + 8].ravel() for i, j in zip(tops, lefts, strict=True)])
    noisy = clean + grain * rng.standard_normal(clean.shape)
    return parted(noisy, clean.astype(np.float32), seed, train, test)


def ratings(seed: int, train: int = 2100, test: int = 500) -> Any:
    """Numbers of a row and a column of the shrunk temple, as of a user and a film, and the grey value."""
    grey = gaussian_filter(picture("china.jpg").mean(axis=2), 6.0)
    grey = grey[:420, :640].reshape(42, 10, 64, 10).mean(axis=(1, 3))
    grey = ((grey - grey.mean()) / grey.std()).astype(np.float32).reshape(-1, 1)
    places = np.indices((42, 64)).reshape(2, -1).T.astype(np.int32)
    chosen = np.random.default_rng([seed, 84]).permutation(len(places))
    return tuple((places[i], grey[i]) for i in (chosen[:train], chosen[train : train + test]))


@functools.cache
def behind(widths: tuple[int, ...], activation: str, last: str, gain: float = 1.0) -> tuple[Any, Any]:
    """A dense network with an activation at the output too."""
    init, inner = dense(widths, activation, gain)

    def apply(params: Params, inputs: Any) -> Any:
        answer = inner(params, inputs)
        return answer if last == "linear" else ACTIVATIONS[last](answer)

    return init, apply


@functools.cache
def stacked_lstm(width: int, depth: int, columns: int, outputs: int) -> tuple[Any, Any]:
    """Layers of long short-term memory, each read forwards and backwards, and their mean over the rows."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 85])
        layers = [
            [
                {
                    "in": gaussian(rng, columns if number == 0 else 2 * width, 4 * width),
                    "again": gaussian(rng, width, 4 * width),
                    "bias": jnp.zeros(4 * width, jnp.float32),
                }
                for _ in range(2)
            ]
            for number in range(depth)
        ]
        out = {"w": gaussian(rng, 2 * width, outputs), "b": jnp.zeros(outputs, jnp.float32)}
        return {"layers": layers, "out": out}

    def read(layer: Params, rows: Any, reverse: bool) -> Any:
        def step(carry: Any, row: Any) -> Any:
            hidden, cell = carry
            sums = row @ layer["in"] + hidden @ layer["again"] + layer["bias"]
            forget, enter, leave, new = jnp.split(sums, 4, axis=-1)
            cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
            hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
            return (hidden, cell), hidden

        blank = jnp.zeros((rows.shape[1], width), rows.dtype)
        return jax.lax.scan(step, (blank, blank), rows, reverse=reverse)[1]

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(len(inputs), -1, columns).swapaxes(0, 1)
        for forwards, backwards in params["layers"]:
            rows = jnp.concatenate([read(forwards, rows, False), read(backwards, rows, True)], axis=-1)
        return rows.mean(axis=0) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def plain_convolutions(channels: int, depth: int, deviation: float | None) -> tuple[Any, Any]:
    """Many 3 × 3 convolutions of a coloured square with relu; their weights' deviation, or He's."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 86])
        kernels = []
        for number in range(depth):
            inputs = 3 if number == 0 else channels
            gain = np.sqrt(2) if deviation is None else deviation * np.sqrt(9 * inputs)
            kernels.append({"w": gaussian(rng, 3, 3, inputs, channels, gain=gain), "b": jnp.zeros(channels)})
        return {"conv": kernels, "out": {"w": gaussian(rng, channels, 1), "b": jnp.zeros(1, jnp.float32)}}

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, 6, 6, 3)
        for layer in params["conv"]:
            hidden = jax.lax.conv_general_dilated(
                hidden, layer["w"], (1, 1), "SAME", dimension_numbers=LAYOUT
            )
            hidden = jax.nn.relu(hidden + layer["b"])
        return hidden.mean(axis=(1, 2)) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def denoiser(channels: int) -> tuple[Any, Any]:
    """Three 3 × 3 convolutions of an 8 × 8 square; the hidden ones are normalised over the batch."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 87])
        return {
            "first": gaussian(rng, 3, 3, 1, channels),
            "second": gaussian(rng, 3, 3, channels, channels),
            "scale": jnp.ones((2, channels), jnp.float32),
            "shift": jnp.zeros((2, channels), jnp.float32),
            "last": {"w": gaussian(rng, 3, 3, channels, 1), "b": jnp.zeros(1, jnp.float32)},
        }

    def convolve(images: Any, weights: Any) -> Any:
        return jax.lax.conv_general_dilated(images, weights, (1, 1), "SAME", dimension_numbers=LAYOUT)

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, 8, 8, 1)
        for number, name in enumerate(("first", "second")):
            hidden = convolve(hidden, params[name])
            middle, spread = hidden.mean(axis=(0, 1, 2)), hidden.var(axis=(0, 1, 2))
            hidden = (hidden - middle) / jnp.sqrt(spread + 1e-3)
            hidden = jax.nn.relu(params["scale"][number] * hidden + params["shift"][number])
        return (convolve(hidden, params["last"]["w"]) + params["last"]["b"]).reshape(len(inputs), -1)

    return init, apply


@functools.cache
def factors(rows: int, columns: int, width: int) -> tuple[Any, Any]:
    """Tables of vectors for two kinds of number; the answer is their product and an offset for each."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 88])
        names = {"rows": rows, "columns": columns}
        return {
            name: {
                "vector": jnp.asarray(0.3 * rng.standard_normal((count, width)), jnp.float32),
                "offset": jnp.zeros((count, 1), jnp.float32),
            }
            for name, count in names.items()
        }

    def apply(params: Params, inputs: Any) -> Any:
        row, column = (
            jax.tree.map(lambda table, i=i: table[inputs[:, i]], params[name])
            for i, name in enumerate(("rows", "columns"))
        )
        product = jnp.sum(row["vector"] * column["vector"], axis=1, keepdims=True)
        return product + row["offset"] + column["offset"]

    return init, apply
