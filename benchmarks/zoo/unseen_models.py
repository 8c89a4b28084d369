"""Networks, data and losses of the unseen plants about steps; a network is a pair of an init and an apply."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.ndimage import gaussian_filter
from sklearn import datasets

from benchmarks.zoo.models import Params, gaussian
from benchmarks.zoo.samples import parted, whitened
from benchmarks.zoo.untouched_models import LAYOUT
from benchmarks.zoo.untouched_samples import flower, squares


@functools.cache
def neighbours(side: int) -> np.ndarray:
    """Which cells of a grid touch, themselves included, scaled as in Kipf & Welling (2017)."""
    place = np.indices((side, side)).reshape(2, -1).T
    touch = (np.abs(place[:, None] - place).sum(-1) <= 1).astype(np.float64)
    degree = np.sqrt(touch.sum(axis=1))
    return (touch / degree / degree[:, None]).astype(np.float32)


@functools.cache
def graph(width: int, classes: int = 10) -> tuple[Any, Any]:
    """Two graph convolutions over the sixteen squares of a digit, then a linear layer of all of them."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 81])
        return {
            "embed": gaussian(rng, 4, width, gain=1.4),
            "place": jnp.asarray(0.3 * rng.standard_normal((16, width)), jnp.float32),
            "mix": gaussian(rng, width, width, gain=1.4),
            "bias": jnp.zeros(width, jnp.float32),
            "out": {"w": gaussian(rng, 16 * width, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        nodes = inputs.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
        near = neighbours(4)
        hidden = jax.nn.silu(near @ (nodes @ params["embed"]) + params["place"])
        hidden = jax.nn.silu(near @ (hidden @ params["mix"]) + params["bias"])
        return hidden.reshape(len(hidden), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def experts(inputs: int, count: int, outputs: int, hidden: int = 0, copied: bool = False) -> tuple[Any, Any]:
    """Experts, linear or with hidden units, weighted by a softmax router (Jacobs et al. 1991).

    `copied`: all experts are the first one, and the router starts at zero.
    """

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 82])
        shapes = {"up": (count, inputs, hidden), "down": (count, hidden, outputs)}
        if not hidden:
            shapes = {"down": (count, inputs, outputs)}
        weights = {k: rng.standard_normal(v) / np.sqrt(v[1]) for k, v in shapes.items()}
        params = {
            k: jnp.asarray(v[:1].repeat(count, 0) if copied else v, jnp.float32) for k, v in weights.items()
        }
        router = jnp.zeros((inputs, count), jnp.float32) if copied else gaussian(rng, inputs, count)
        return params | {"bias": jnp.zeros((count, outputs), jnp.float32), "router": router}

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs[None]
        if hidden:
            rows = jax.nn.gelu(rows @ params["up"])
        answers = rows @ params["down"] + params["bias"][:, None]
        shares = jax.nn.softmax(inputs @ params["router"])
        return jnp.einsum("nk,kno->no", shares, jnp.broadcast_to(answers, (count, len(inputs), outputs)))

    return init, apply


@functools.cache
def gru(width: int, columns: int, outputs: int) -> tuple[Any, Any]:
    """Gated recurrent units (Cho et al. 2014) that read rows; their mean over time is what is looked at."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 83])
        return {
            "in": gaussian(rng, columns, 3 * width),
            "again": gaussian(rng, width, 3 * width),
            "bias": jnp.zeros(3 * width, jnp.float32),
            "out": {"w": gaussian(rng, width, outputs), "b": jnp.zeros(outputs, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(len(inputs), -1, columns).swapaxes(0, 1)

        def read(hidden: Any, row: Any) -> Any:
            seen = jnp.split(row @ params["in"] + params["bias"], 3, axis=-1)
            kept = jnp.split(hidden @ params["again"], 3, axis=-1)
            renew, reset = (jax.nn.sigmoid(seen[i] + kept[i]) for i in (0, 1))
            new = jnp.tanh(seen[2] + reset * kept[2])
            hidden = (1 - renew) * hidden + renew * new
            return hidden, hidden

        blank = jnp.zeros((rows.shape[1], width), rows.dtype)
        _, over_time = jax.lax.scan(read, blank, rows)
        return over_time.mean(axis=0) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def upscaler(channels: int) -> tuple[Any, Any]:
    """Two convolutions of a 6 × 6 image, and each pixel's channels become 2 × 2 pixels (Shi et al. 2016)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 84])
        return {
            "first": {"w": gaussian(rng, 3, 3, 1, channels, gain=1.4), "b": jnp.zeros(channels, jnp.float32)},
            "second": {"w": gaussian(rng, 3, 3, channels, 4, gain=0.5), "b": jnp.zeros(4, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, 6, 6, 1)
        for name in ("first", "second"):
            layer = params[name]
            hidden = jax.lax.conv_general_dilated(
                hidden, layer["w"], (1, 1), "SAME", dimension_numbers=LAYOUT
            )
            hidden = hidden + layer["b"]
            hidden = jax.nn.gelu(hidden) if name == "first" else hidden
        return hidden.reshape(-1, 6, 6, 2, 2).swapaxes(2, 3).reshape(-1, 144)

    return init, apply


@functools.cache
def causal(channels: int) -> tuple[Any, Any]:
    """Dilated causal convolutions (van den Oord et al. 2016) with skips tell every next value of a line."""
    gaps = (1, 2, 4)

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 85])
        return {
            "embed": gaussian(rng, 1, channels),
            "taps": jnp.stack([gaussian(rng, 2, channels, channels) for _ in gaps]),
            "bias": jnp.zeros((len(gaps), channels), jnp.float32),
            "out": {"w": gaussian(rng, channels, 1, gain=0.03), "b": jnp.zeros(1, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs[..., None] @ params["embed"]
        for gap, taps, bias in zip(gaps, params["taps"], params["bias"], strict=True):
            before = jnp.pad(hidden, ((0, 0), (gap, 0), (0, 0)))[:, :-gap]
            hidden = hidden + jnp.tanh(before @ taps[0] + hidden @ taps[1] + bias)
        return (hidden @ params["out"]["w"] + params["out"]["b"])[..., 0]

    return init, apply


@functools.cache
def heights(count: int, waves: bool) -> tuple[Any, Any]:
    """Heights of points, of which differences were measured (or waves of heights, scaled by their slope)."""
    steps = np.arange(count)
    table = np.eye(count)
    if waves:
        table = np.cos(np.pi * (steps[:, None] + 0.5) * steps[None, 1:] / count)
        table /= np.linalg.norm(np.diff(table, axis=0), axis=0)
    table = table.astype(np.float32)

    def init(seed: int) -> Params:
        return {"height": jnp.zeros(table.shape[1], jnp.float32)}

    def apply(params: Params, inputs: Any) -> Any:
        height = table @ params["height"]
        return (height[inputs[:, 1]] - height[inputs[:, 0]])[:, None]

    return init, apply


def levelling(seed: int, count: int) -> Any:
    """Differences of height between neighbouring points of a line; the heights are greys of a photograph."""
    image = gaussian_filter(flower(), 6.0)
    row = np.random.default_rng([seed, 86]).integers(0, len(image))
    line = image[row, :: image.shape[1] // count][:count]
    line = line / line.std()
    pairs = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1).astype(np.int32)
    return pairs, np.diff(line).astype(np.float32)[:, None]


def halved(seed: int, train: int = 600, test: int = 300) -> Any:
    """Squares of the flower at half the resolution, and at the full one."""
    fine = squares(flower(), seed, train + test, 12)
    coarse = fine.reshape(-1, 6, 2, 6, 2).mean(axis=(2, 4)).reshape(-1, 36)
    return (coarse[:train], fine[:train]), (coarse[train:], fine[train:])


def lines(seed: int, train: int = 600, test: int = 300, length: int = 24) -> Any:
    """Pieces of lines of the flower's photograph, and the same a pixel on."""
    image = (flower() - flower().mean()) / flower().std()
    rng = np.random.default_rng([seed, 87])
    tops, lefts = (rng.integers(0, size, train + test) for size in (len(image), image.shape[1] - length - 1))
    cut = np.stack([image[i, j : j + length + 1] for i, j in zip(tops, lefts, strict=True)])
    cut = cut.astype(np.float32)
    return (cut[:train, :-1], cut[:train, 1:]), (cut[train:, :-1], cut[train:, 1:])


def progress(seed: int) -> Any:
    """Diabetes, standardised, and the progression, above zero, in units of its mean."""
    inputs, target = datasets.load_diabetes(return_X_y=True)
    target = (target / target.mean()).astype(np.float32)[:, None]
    return whitened(parted(inputs, target, seed, 300, 142))


@functools.cache
def gamma(apply: Any) -> Any:
    """Half the deviance of gamma-distributed targets, less a constant; outputs are logarithms of means."""

    def loss(params: Params, batch: Any) -> Any:
        logs = apply(params, batch[0])
        return jnp.mean(batch[1] * jnp.exp(-logs) + logs)

    return loss


@functools.cache
def summed(apply: Any) -> Any:
    """Half the squared error, summed over the batch too."""

    def loss(params: Params, batch: Any) -> Any:
        return 0.5 * jnp.sum((apply(params, batch[0]) - batch[1]) ** 2)

    return loss


def boxed(limit: float) -> Any:
    """After each step, weights beyond a limit are set to it."""

    def update(updates: Any, state: Any, params: Params = None) -> Any:
        clipped = jax.tree.map(lambda at, move: jnp.clip(at + move, -limit, limit) - at, params, updates)
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
