"""Parts of the small networks: weights drawn from a seed, layers, activations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = Any
Draw = Callable[[np.random.Generator], jax.Array]
# A function that draws parameters from a seed, and the network.
Model = tuple[Callable[[int], Params] | None, Callable[[Params, Any], Any]]
NAMES = ("relu", "leaky_relu", "tanh", "sigmoid", "silu", "elu", "gelu", "softplus", "hard_tanh")
ACTIVATIONS = {name: getattr(jax.nn, name) for name in NAMES} | {"none": lambda x: x, "sin": jnp.sin}
ACTIVATIONS["relu by where"] = lambda x: jnp.where(x > 0, x, 0.0)
LAYOUT = ("NHWC", "HWIO", "NHWC")


def cast(tree: Params, dtype: Any) -> Params:
    """Cast what is floating; the rest becomes arrays."""

    def each(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jnp.asarray(leaf, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else None)

    return jax.tree.map(each, tree)


def weights(*shape: int, gain: float = 1.0) -> Draw:
    """Weights of deviation gain / √inputs, not yet drawn."""
    root = np.sqrt(int(np.prod(shape[:-1])))
    return lambda rng: jnp.asarray(rng.standard_normal(shape) * gain / root, jnp.float32)


def noise(deviation: float, *shape: int) -> Draw:
    """Weights of a given deviation, not yet drawn."""
    return lambda rng: jnp.asarray(deviation * rng.standard_normal(shape), jnp.float32)


def stacked(count: int, draw: Draw) -> Draw:
    """The same weights drawn several times, along a first axis."""
    return lambda rng: jnp.stack([draw(rng) for _ in range(count)])


def zeros(*shape: int) -> jax.Array:
    """Biases at their start."""
    return jnp.zeros(shape, jnp.float32)


def ones(*shape: int) -> jax.Array:
    """Scales at their start."""
    return jnp.ones(shape, jnp.float32)


def affine(*shape: int, gain: float = 1.0) -> Params:
    """Weights and biases of a dense layer or of a convolution, not yet drawn."""
    return {"w": weights(*shape, gain=gain), "b": zeros(shape[-1])}


def drawn(stream: int, spec: Params) -> Callable[[int], Params]:
    """Parameters of a seed, from its generator of the network's own stream; drawn in the order of `spec`."""

    def draw(rng: np.random.Generator, spec: Params) -> Params:
        if isinstance(spec, dict):
            return {name: draw(rng, part) for name, part in spec.items()}
        if isinstance(spec, list):
            return [draw(rng, part) for part in spec]
        return spec(rng) if callable(spec) else spec

    return lambda seed: draw(np.random.default_rng([seed, stream]), spec)


def linear(params: Params, inputs: Any) -> Any:
    """A dense layer without its activation."""
    return inputs @ params["w"] + params["b"]


def convolve(images: Any, kernel: Any, stride: int = 1, padding: str = "SAME") -> Any:
    """A convolution of images in the order (batch, row, column, channel)."""
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=LAYOUT)


def flattened(hidden: Any) -> Any:
    """One row for each sample."""
    return hidden.reshape(len(hidden), -1)


def pooled_flat(hidden: Any) -> Any:
    """Means over 2 × 2 pixels of 8 × 8 images, one row for each sample."""
    return flattened(hidden.reshape(len(hidden), 4, 2, 4, 2, -1).mean(axis=(2, 4)))


def squares_of(inputs: Any) -> Any:
    """The sixteen 2 × 2 squares of each digit."""
    return inputs.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)


def normalised(inputs: Any) -> Any:
    """Mean 0 and deviation 1 over the last axis."""
    mean = jnp.mean(inputs, axis=-1, keepdims=True)
    return (inputs - mean) / jnp.sqrt(jnp.var(inputs, axis=-1, keepdims=True) + 1e-5)
