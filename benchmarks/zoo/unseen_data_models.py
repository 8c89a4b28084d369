"""Data and networks of the unseen plants about layers and data; networks are made once for each shape."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from benchmarks.zoo.models import ACTIVATIONS, Params, dense, gaussian
from benchmarks.zoo.samples import parted
from benchmarks.zoo.training import cross_entropy

LAYOUT = ("NHWC", "HWIO", "NHWC")


@functools.cache
def picture(name: str) -> np.ndarray:
    """A photograph that scikit-learn ships, in three colours from 0 to 1."""
    return np.asarray(datasets.load_sample_image(name), np.float64) / 255


def thumbnail(seed: int, *, pixels: bool) -> Any:
    """Places on the temple's photograph (in pixels, or from -1 to 1), and its mean grey values there."""
    grey = picture("china.jpg").mean(axis=2)[:420, :640].reshape(42, 10, 64, 10).mean(axis=(1, 3))
    grey = ((grey - grey.mean()) / grey.std()).astype(np.float32).reshape(-1, 1)
    rows, columns = np.indices((42, 64)).reshape(2, -1) * 10 + 5
    places = np.stack([rows, columns], axis=1).astype(np.float64)
    if not pixels:
        places = places / np.array([210, 320]) - 1
    return parted(places, grey, seed, 800, 300)


def warmth(seed: int, train: int = 600, test: int = 300, side: int = 6) -> Any:
    """Coloured squares of the flower, and how warm they are: the logarithm of red over blue, standardised."""
    image = picture("flower.jpg")
    rng = np.random.default_rng([seed, 71])
    tops, lefts = (rng.integers(0, size - side, train + test) for size in image.shape[:2])
    cut = np.stack([image[i : i + side, j : j + side] for i, j in zip(tops, lefts, strict=True)])
    red, _, blue = cut.mean(axis=(1, 2)).T + 0.1
    target = np.log(red / blue)
    target = ((target - target.mean()) / target.std()).astype(np.float32)[:, None]
    return parted(2 * cut.reshape(len(cut), -1) - 1, target, seed, train, test)


def enlarged(seed: int, train: int = 800, test: int = 300) -> Any:
    """Means of 2 × 2 pixels of the flower, five by five, and the middle one's four pixels, with grain."""
    grey = picture("flower.jpg").mean(axis=2)
    grey = (grey - grey.mean()) / grey.std()
    rng = np.random.default_rng([seed, 72])
    tops, lefts = (rng.integers(0, size - 10, train + test) for size in grey.shape)
    cut = np.stack([grey[i : i + 10, j : j + 10] for i, j in zip(tops, lefts, strict=True)])
    coarse = cut.reshape(-1, 5, 2, 5, 2).mean(axis=(2, 4)).reshape(-1, 25)
    fine = cut[:, 4:6, 4:6].reshape(-1, 4) + 0.15 * rng.standard_normal((len(cut), 4))
    return parted(coarse, fine.astype(np.float32), seed, train, test)


@functools.cache
def ridged_classes(decay: float) -> Any:
    """The cross-entropy of classes with a quadratic penalty."""

    @functools.cache
    def objective(apply: Any) -> Any:
        def loss(params: Params, batch: Any) -> Any:
            return cross_entropy(apply)(params, batch) + 0.5 * decay * optax.tree.norm(params, squared=True)

        return loss

    return objective


@functools.cache
def experts(count: int, width: int, inputs: int, classes: int, *, one: bool) -> tuple[Any, Any]:
    """A mixture of experts with one hidden layer each: all of them (Jacobs et al. 1991) or the likeliest."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 73])
        return {
            "router": {"w": gaussian(rng, inputs, count), "b": jnp.zeros(count, jnp.float32)},
            "up": jnp.stack([gaussian(rng, inputs, width, gain=1.4) for _ in range(count)]),
            "bias": jnp.zeros((count, width), jnp.float32),
            "down": jnp.stack([gaussian(rng, width, classes) for _ in range(count)]),
            "offset": jnp.zeros((count, classes), jnp.float32),
        }

    def apply(params: Params, inputs: Any) -> Any:
        share, hidden = routed(params, inputs, one)
        answers = jnp.einsum("neh,ehc->nec", hidden, params["down"]) + params["offset"]
        return jnp.einsum("ne,nec->nc", share, answers)

    return init, apply


def routed(params: Params, inputs: Any, one: bool) -> Any:
    """Each expert's share in the answer, and the hidden units of the experts that are asked."""
    share = jax.nn.softmax(inputs @ params["router"]["w"] + params["router"]["b"])
    hidden = jax.nn.relu(jnp.einsum("ni,eih->neh", inputs, params["up"]) + params["bias"])
    if one:
        asked = jax.nn.one_hot(jnp.argmax(share, axis=1), share.shape[1])
        share, hidden = share * asked, hidden * asked[..., None]
    return share, hidden


@functools.cache
def soft_tree(depth: int, inputs: int, classes: int, sharpness: float) -> tuple[Any, Any]:
    """A tree whose forks are sigmoids of sums of the inputs (Frosst & Hinton 2017)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 74])
        forks = 2**depth - 1
        return {
            "fork": {"w": gaussian(rng, inputs, forks, gain=2.0), "b": jnp.zeros(forks, jnp.float32)},
            "leaf": jnp.asarray(0.1 * rng.standard_normal((2**depth, classes)), jnp.float32),
        }

    def apply(params: Params, inputs: Any) -> Any:
        right = forks(params, inputs, sharpness)
        reach = jnp.ones((len(inputs), 1), inputs.dtype)
        for level in range(depth):
            turn = right[:, 2**level - 1 : 2 ** (level + 1) - 1]
            reach = jnp.stack([reach * (1 - turn), reach * turn], axis=-1).reshape(len(inputs), -1)
        return jnp.log(reach @ jax.nn.softmax(params["leaf"]) + 1e-6)

    return init, apply


def forks(params: Params, inputs: Any, sharpness: float) -> Any:
    """How far each fork of `soft_tree` sends an input to the right, 0 to 1."""
    return jax.nn.sigmoid(sharpness * (inputs @ params["fork"]["w"] + params["fork"]["b"]))


@functools.cache
def column_tokens(columns: int, width: int, blocks: int, classes: int, *, skip: bool) -> tuple[Any, Any]:
    """Attention over the columns of a table (Gorishniy et al. 2021), with skips or without."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 75])
        return {
            "scale": jnp.asarray(rng.standard_normal((columns, width)), jnp.float32),
            "place": jnp.asarray(rng.standard_normal((columns, width)), jnp.float32),
            "blocks": [
                {n: gaussian(rng, width, width, gain=0.02 * np.sqrt(width)) for n in ("q", "k", "v", "mix")}
                for _ in range(blocks)
            ],
            "out": {"w": gaussian(rng, width, classes), "b": jnp.zeros(classes, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        tokens = inputs[:, :, None] * params["scale"] + params["place"]
        for block in params["blocks"]:
            scores = (tokens @ block["q"]) @ jnp.swapaxes(tokens @ block["k"], 1, 2) / np.sqrt(width)
            new = jax.nn.softmax(scores, axis=-1) @ (tokens @ block["v"]) @ block["mix"]
            tokens = tokens + new if skip else new
        return tokens.mean(axis=1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def flow(inputs: int, width: int, end: float, steps: int = 40) -> tuple[Any, Any]:
    """A differential equation solved by Euler's steps from time 0 to an end (Chen et al. 2018)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 76])
        return {
            "in": gaussian(rng, inputs, width),
            "field": {
                "w": gaussian(rng, width, 2 * width, gain=1.4),
                "b": jnp.zeros(2 * width, jnp.float32),
                "v": gaussian(rng, 2 * width, width),
            },
            "out": {"w": gaussian(rng, width, 1), "b": jnp.zeros(1, jnp.float32)},
        }

    def apply(params: Params, inputs: Any) -> Any:
        field = params["field"]

        def step(state: Any, _: Any) -> Any:
            slope = jax.nn.silu(state @ field["w"] + field["b"]) @ field["v"]
            return state + end / steps * slope, None

        state, _ = jax.lax.scan(step, inputs @ params["in"], None, length=steps)
        return state @ params["out"]["w"] + params["out"]["b"]

    return init, apply


@functools.cache
def additive(inputs: int, width: int) -> tuple[Any, Any]:
    """A sum of small networks that see one input each (Agarwal et al. 2021)."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 77])
        draws = {"w": 3.0, "b": 2.0, "v": 0.5}
        parts = {
            k: jnp.asarray(s * rng.standard_normal((inputs, width)), jnp.float32) for k, s in draws.items()
        }
        return {**parts, "offset": jnp.zeros(1, jnp.float32)}

    def apply(params: Params, inputs: Any) -> Any:
        hidden = jnp.tanh(inputs[:, :, None] * params["w"] + params["b"])
        return jnp.sum(hidden * params["v"], axis=(1, 2))[:, None] + params["offset"]

    return init, apply


@functools.cache
def bumps(width: float) -> Any:
    """Radial basis functions of a width around given centres, and a sum of them with weights."""

    def apply(params: Params, inputs: Any) -> Any:
        distance = jnp.sum((inputs[:, None] - params["centres"]) ** 2, axis=-1)
        return jnp.exp(-distance / (2 * width**2)) @ params["w"] + params["b"]

    return apply


@functools.cache
def coloured(channels: int, side: int, classes: int) -> tuple[Any, Any]:
    """Two 3 × 3 convolutions of a coloured square and a linear layer."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 78])
        sizes, inner = ((3, channels), (channels, channels)), (side - 4) ** 2 * channels
        return {
            "kernels": [
                {"w": gaussian(rng, 3, 3, a, b, gain=1.4), "b": jnp.zeros(b, jnp.float32)} for a, b in sizes
            ],
            "out": {
                "w": gaussian(rng, inner, classes),
                "b": jnp.zeros(classes, jnp.float32),
            },
        }

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, side, side, 3)
        for layer in params["kernels"]:
            hidden = convolve(hidden, layer)
        return hidden.reshape(len(hidden), -1) @ params["out"]["w"] + params["out"]["b"]

    return init, apply


def convolve(images: Any, layer: Any, activation: str = "silu") -> Any:
    """A convolution without a margin, and an activation."""
    images = jax.lax.conv_general_dilated(images, layer["w"], (1, 1), "VALID", dimension_numbers=LAYOUT)
    return ACTIVATIONS[activation](images + layer["b"])


@functools.cache
def finer(channels: int) -> tuple[Any, Any]:
    """A convolution of 5 × 5 coarse pixels, and the middle one's four pixels (Shi et al. 2016)."""
    inner, head = dense((9 * channels, 4), "gelu")

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 79])
        kernel = {"w": gaussian(rng, 3, 3, 1, channels), "b": jnp.zeros(channels, jnp.float32)}
        return {"kernel": kernel, "head": inner(seed)}

    def apply(params: Params, inputs: Any) -> Any:
        hidden = convolve(inputs.reshape(-1, 5, 5, 1), params["kernel"], "softplus")
        return head(params["head"], hidden)

    return init, apply
