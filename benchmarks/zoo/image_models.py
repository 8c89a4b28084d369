"""Small networks of images: an init and an apply each, made once for each shape."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.zoo import layers as nn
from benchmarks.zoo.layers import Model, Params
from benchmarks.zoo.models import dense


@functools.cache
def convolutional(
    activation: str = "relu",
    channels: tuple[int, ...] = (8, 8),
    gain: float | tuple[float, ...] = 1.4,
    *,
    image: tuple[int, int, int] = (8, 8, 1),
    stride: int = 2,
    padding: str = "SAME",
    averaged: bool = False,
    outputs: int = 10,
    name: str = "conv",
    stream: int = 3,
) -> Model:
    """3 × 3 convolutions, the first with a stride, and a linear layer of all pixels or of their mean."""
    gains = gain if isinstance(gain, tuple) else (gain,) * len(channels)
    side = image[0] - 2 * len(channels) if padding == "VALID" else image[0] // stride

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, *image)
        for number, layer in enumerate(params[name]):
            hidden = nn.convolve(hidden, layer["w"], 1 if number else stride, padding)
            hidden = nn.ACTIVATIONS[activation](hidden + layer["b"])
        return nn.linear(params["out"], hidden.mean(axis=(1, 2)) if averaged else nn.flattened(hidden))

    sizes = zip(itertools.pairwise((image[-1], *channels)), gains, strict=True)
    kernels = [nn.affine(3, 3, *size, gain=gain) for size, gain in sizes]
    features = channels[-1] * (1 if averaged else side**2)
    return nn.drawn(stream, {name: kernels, "out": nn.affine(features, outputs)}), apply


@functools.cache
def pooled(activation: str, channels: int, classes: int, gain: float = 1.4) -> Model:
    """One 5 × 5 convolution of a digit, averages over 2 × 2 pixels, and a linear layer."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = nn.convolve(inputs.reshape(-1, 8, 8, 1), params["kernel"])
        return nn.linear(params["out"], nn.pooled_flat(nn.ACTIVATIONS[activation](hidden + params["bias"])))

    spec = {"kernel": nn.weights(5, 5, 1, channels, gain=gain), "bias": nn.zeros(channels)}
    return nn.drawn(12, spec | {"out": nn.affine(16 * channels, classes)}), apply


@functools.cache
def excited(channels: int, classes: int = 10) -> Model:
    """A convolution whose channels are weighted by gates that see their means (Hu et al. 2018)."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = excited_channels(params, inputs)
        gates = jax.nn.sigmoid(excitation(params, hidden))
        return nn.linear(params["out"], nn.pooled_flat(hidden * gates[:, None, None]))

    spec = {"kernel": nn.weights(3, 3, 1, channels, gain=1.4), "bias": nn.zeros(channels)}
    spec |= {"gate": nn.affine(channels, channels), "out": nn.affine(16 * channels, classes)}
    return nn.drawn(55, spec), apply


def excited_channels(params: Params, inputs: Any) -> Any:
    """The channels of `excited` before they are weighted."""
    return jax.nn.relu(nn.convolve(inputs.reshape(-1, 8, 8, 1), params["kernel"]) + params["bias"])


def excitation(params: Params, hidden: Any) -> Any:
    """The sums from which the gates of `excited` are made."""
    return nn.linear(params["gate"], hidden.mean(axis=(1, 2)))


def within_channels(hidden: Any, kernel: Any) -> Any:
    """A 3 × 3 convolution within each channel, by shifts; `kernel` is (3, 3, channels) or (9, channels)."""
    side = hidden.shape[1]
    wide = jnp.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = itertools.product(range(3), range(3))
    kernel = kernel.reshape(3, 3, -1)
    return sum(wide[:, i : i + side, j : j + side] * kernel[i, j] for i, j in places)


@functools.cache
def separable(channels: int, outputs: int, activation: str = "silu") -> Model:
    """A 3 × 3 convolution of a digit, then one within each channel and one across them; averages; linear."""
    act = nn.ACTIVATIONS[activation]

    def apply(params: Params, inputs: Any) -> Any:
        first = act(nn.convolve(inputs.reshape(-1, 8, 8, 1), params["first"]))
        within = within_channels(first, params["within"])
        return nn.linear(params["out"], nn.pooled_flat(act(within @ params["across"] + params["bias"])))

    spec = {"first": nn.weights(3, 3, 1, channels, gain=1.4), "within": nn.weights(3, 3, channels)}
    spec |= {"across": nn.weights(channels, 2 * channels, gain=1.4), "bias": nn.zeros(2 * channels)}
    return nn.drawn(27, spec | {"out": nn.affine(32 * channels, outputs)}), apply


@functools.cache
def depthwise(width: int, classes: int = 10) -> Model:
    """Patches, a depthwise 3 × 3 convolution with a skip, one across channels (Trockman & Kolter 2022)."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = nn.convolve(inputs.reshape(-1, 8, 8, 1), params["patch"], 2, "VALID")
        hidden = jax.nn.gelu(hidden + params["bias"][0])
        hidden = hidden + jax.nn.gelu(within_channels(hidden, params["within"]))
        hidden = jax.nn.gelu(hidden @ params["across"] + params["bias"][1])
        return nn.linear(params["out"], nn.flattened(hidden))

    spec = {"patch": nn.weights(2, 2, 1, width, gain=1.4), "within": nn.weights(9, width)}
    spec |= {"across": nn.weights(width, width, gain=1.4), "bias": nn.zeros(2, width)}
    return nn.drawn(52, spec | {"out": nn.affine(16 * width, classes)}), apply


@functools.cache
def coder(channels: int, code: int) -> Model:
    """An autoencoder of digits: a convolution of stride 2, a code, and a transposed convolution."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = nn.convolve(inputs.reshape(-1, 8, 8, 1), params["down"]["w"], 2) + params["down"]["b"]
        hidden = nn.linear(params["code"], nn.flattened(jax.nn.relu(hidden)))
        hidden = jax.nn.relu(nn.linear(params["fill"], hidden)).reshape(len(hidden), 4, 4, -1)
        up = params["up"]
        hidden = jax.lax.conv_transpose(hidden, up["w"], (2, 2), "SAME", dimension_numbers=nn.LAYOUT)
        return nn.flattened(hidden + up["b"])

    inner = 16 * channels
    spec = {"down": nn.affine(3, 3, 1, channels, gain=1.4), "code": nn.affine(inner, code)}
    spec |= {"fill": nn.affine(code, inner, gain=1.4), "up": nn.affine(3, 3, channels, 1)}
    return nn.drawn(26, spec), apply


@functools.cache
def denoiser(channels: int) -> Model:
    """Three 3 × 3 convolutions of an 8 × 8 image."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, 8, 8, 1)
        for number, layer in enumerate(params):
            hidden = jax.nn.relu(hidden) if number else hidden
            hidden = nn.convolve(hidden, layer["w"]) + layer["b"]
        return nn.flattened(hidden)

    sizes = ((1, channels, 1.4), (channels, channels, 1.4), (channels, 1, 0.3))
    return nn.drawn(103, [nn.affine(3, 3, a, b, gain=gain) for a, b, gain in sizes]), apply


@functools.cache
def normed_denoiser(channels: int) -> Model:
    """Three 3 × 3 convolutions of an 8 × 8 square; the hidden ones are normalised over the batch."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs.reshape(-1, 8, 8, 1)
        for number, name in enumerate(("first", "second")):
            hidden = nn.convolve(hidden, params[name])
            middle, spread = hidden.mean(axis=(0, 1, 2)), hidden.var(axis=(0, 1, 2))
            hidden = (hidden - middle) / jnp.sqrt(spread + 1e-3)
            hidden = jax.nn.relu(params["scale"][number] * hidden + params["shift"][number])
        return (nn.convolve(hidden, params["last"]["w"]) + params["last"]["b"]).reshape(len(inputs), -1)

    spec = {"first": nn.weights(3, 3, 1, channels), "second": nn.weights(3, 3, channels, channels)}
    spec |= {"scale": nn.ones(2, channels), "shift": nn.zeros(2, channels)}
    return nn.drawn(87, spec | {"last": nn.affine(3, 3, channels, 1)}), apply


@functools.cache
def upscaler(channels: int) -> Model:
    """Two convolutions of a 6 × 6 image, and each pixel's channels become 2 × 2 pixels (Shi et al. 2016)."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = nn.convolve(inputs.reshape(-1, 6, 6, 1), params["first"]["w"]) + params["first"]["b"]
        hidden = nn.convolve(jax.nn.gelu(hidden), params["second"]["w"]) + params["second"]["b"]
        return hidden.reshape(-1, 6, 6, 2, 2).swapaxes(2, 3).reshape(-1, 144)

    spec = {"first": nn.affine(3, 3, 1, channels, gain=1.4), "second": nn.affine(3, 3, channels, 4, gain=0.5)}
    return nn.drawn(84, spec), apply


@functools.cache
def finer(channels: int) -> Model:
    """A convolution of 5 × 5 coarse pixels, and the middle one's four pixels (Shi et al. 2016)."""
    inner, head = dense((9 * channels, 4))
    kernel = nn.drawn(79, nn.affine(3, 3, 1, channels))

    def apply(params: Params, inputs: Any) -> Any:
        hidden = nn.convolve(inputs.reshape(-1, 5, 5, 1), params["kernel"]["w"], padding="VALID")
        return head(params["head"], jax.nn.softplus(hidden + params["kernel"]["b"]))

    return lambda seed: {"kernel": kernel(seed), "head": inner(seed)}, apply


@functools.cache
def mixer(width: int, classes: int = 10) -> Model:
    """One block that mixes the sixteen squares of a digit, then their channels (Tolstikhin et al. 2021)."""

    def apply(params: Params, inputs: Any) -> Any:
        tokens = nn.squares_of(inputs) @ params["embed"]
        turned = nn.normalised(tokens).swapaxes(1, 2)
        tokens = tokens + (jax.nn.gelu(turned @ params["up"]) @ params["down"]).swapaxes(1, 2)
        tokens = tokens + jax.nn.gelu(nn.normalised(tokens) @ params["wide"]) @ params["narrow"]
        return nn.linear(params["out"], nn.flattened(tokens))

    spec = {"out": nn.affine(16 * width, classes), "embed": nn.weights(4, width), "up": nn.weights(16, 32)}
    spec |= {"down": nn.weights(32, 16), "wide": nn.weights(width, 2 * width)}
    return nn.drawn(53, spec | {"narrow": nn.weights(2 * width, width)}), apply


@functools.cache
def pixel_set(width: int, places: bool) -> Model:
    """Features of each pixel, averaged over the image: it sees how dark, not where (or where, too)."""

    def apply(params: Params, inputs: Any) -> Any:
        place = params["place"] if places else 0.0
        seen = jnp.tanh(inputs[:, :, None] * params["in"] + params["bias"] + place)
        return nn.linear(params["out"], seen.mean(axis=1))

    spec = {"in": nn.weights(1, width, gain=3.0), "bias": nn.noise(1.0, width)}
    spec |= {"place": nn.noise(float(places), 64, width), "out": nn.affine(width, 10, gain=3.0)}
    return nn.drawn(28, spec), apply
