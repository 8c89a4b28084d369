"""Small networks, their data, and the points of theirs whose curvature is known."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint

Array = np.ndarray[Any, np.dtype[np.float64]]
Layers = tuple[Mapping[str, Any], ...]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}


def digits(*, one_hot: bool = True) -> tuple[Array, Any]:
    """Load scikit-learn's 8 × 8 handwritten digits, 1,797 of them.

    Args:
        one_hot: Return targets as one-hot rows; otherwise as integers.

    Returns:
        Inputs, shape (1797, 64), float64, in [0, 1]; targets, shape (1797, 10), float64, or
        (1797,), int32.

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:
        >>> inputs, targets = digits()  # doctest: +SKIP
        >>> inputs.shape, targets.shape  # doctest: +SKIP
        ((1797, 64), (1797, 10))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'hessian_probe[demo]'") from error
    bunch = load_digits()
    labels = np.asarray(bunch.target, np.int32)
    inputs: Array = np.asarray(bunch.data, np.float64) / 16.0
    return inputs, (np.eye(10)[labels] if one_hot else labels)


def mlp_init(
    widths: Sequence[int], *, scale: float = 1.0, bias: bool = True, seed: int = 0
) -> tuple[dict[str, Array], ...]:
    """Draw the weights of a fully connected network.

    Args:
        widths: Sizes of input, hidden layers and output.
        scale: Weights are Gaussian of standard deviation scale / √(inputs of the layer).
        bias: Give every layer a bias, zero at first.
        seed: Draws the weights.

    Returns:
        One dict per layer: "weight", shape (inputs, outputs), and, if asked for, "bias", shape
        (outputs,); float64.

    Example:
        >>> [layer["weight"].shape for layer in mlp_init((64, 16, 10))]
        [(64, 16), (16, 10)]
    """
    rng = np.random.default_rng([seed, *widths])
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layer = {"weight": rng.standard_normal((fan_in, fan_out)) * (scale / np.sqrt(fan_in))}
        if bias:
            layer["bias"] = np.zeros(fan_out)
        layers.append(layer)
    return tuple(layers)


def mlp_apply(params: Layers, inputs: jax.Array, *, activation: str = "tanh") -> jax.Array:
    """Evaluate a fully connected network; the last layer has no activation.

    Args:
        params: As from ``mlp_init``.
        inputs: Shape (samples, inputs).
        activation: "tanh", "gelu", "silu", "relu", "sigmoid" or "linear".

    Returns:
        Outputs, shape (samples, outputs).

    Example:
        >>> mlp_apply(mlp_init((64, 16, 10)), np.ones((5, 64)), activation="relu").shape
        (5, 10)
    """
    act = _ACTIVATIONS[activation]
    hidden = inputs
    for number, layer in enumerate(params):
        hidden = hidden @ layer["weight"]
        if "bias" in layer:
            hidden = hidden + layer["bias"][None, :]
        if number < len(params) - 1:
            hidden = act(hidden)
    return hidden


def _squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum((outputs - targets) ** 2) / outputs.shape[0]


def _cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(outputs, axis=-1)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return -jnp.mean(jnp.take_along_axis(log_p, targets[:, None], axis=-1))
    return -jnp.sum(log_p * targets) / outputs.shape[0]


_OBJECTIVES = {"squared_error": _squared_error, "cross_entropy": _cross_entropy}


@functools.cache
def mlp_loss(
    activation: str = "tanh", objective: str = "squared_error"
) -> Callable[[Layers, tuple[Any, Any]], jax.Array]:
    """Make the loss of a fully connected network.

    Args:
        activation: As for ``mlp_apply``.
        objective: "squared_error", the mean over samples of ‖output − target‖², or
            "cross_entropy" of the softmax, with one-hot or integer targets.

    Returns:
        ``loss(params, (inputs, targets))``, a mean over samples. Equal arguments give the same
        function object.

    Raises:
        ValueError: If a name is unknown.

    Example:
        >>> loss = mlp_loss("tanh", "cross_entropy")
        >>> round(float(loss(mlp_init((64, 10), scale=0.0), (np.ones((5, 64)), np.arange(5)))), 3)
        2.303
    """
    if activation not in _ACTIVATIONS or objective not in _OBJECTIVES:
        raise ValueError(
            f"expected an activation of {', '.join(_ACTIVATIONS)} and an objective of "
            f"{', '.join(_OBJECTIVES)}; got {activation!r} and {objective!r}"
        )
    measure = _OBJECTIVES[objective]

    def loss(params: Layers, batch: tuple[Any, Any]) -> jax.Array:
        inputs, targets = batch
        return measure(mlp_apply(params, inputs, activation=activation), targets)

    loss.__name__ = loss.__qualname__ = f"{activation}_mlp_{objective}"
    return loss


def lecture_loss(params: Mapping[str, jax.Array]) -> jax.Array:
    """Evaluate (1 − w₁w₂)²: the network y = w₁w₂x on the one sample x = 1, y = 1.

    Args:
        params: Scalars "w1" and "w2".

    Returns:
        The value, a scalar.

    Example:
        >>> lecture_loss({"w1": 2.0, "w2": 1.0})
        1.0
    """
    return (1.0 - params["w1"] * params["w2"]) ** 2


def lecture_points() -> list[KnownPoint]:
    """Build the worked example of the lecture that this project started from.

    At the origin the Hessian is [[0, −2], [−2, 0]]: eigenvalues −2 and 2, and (1, 1)/√2 leads
    down. Where w₁w₂ = 1 the loss is zero, on a whole hyperbola.

    Returns:
        The saddle and one of the minima.

    Source: Hung-yi Lee, "What to do if my network fails to train" (machine learning course,
        National Taiwan University, 2021).

    Example:
        >>> lecture_points()[0]
        KnownPoint(lecture/lecture_saddle: saddle, index 1, 2 parameters)
    """
    return [
        KnownPoint.from_curvature(
            "lecture_saddle",
            lecture_loss,
            {"w1": np.zeros(()), "w2": np.zeros(())},
            (-2.0, 2.0),
            kind="lecture",
            why="Hessian [[0, -2], [-2, 0]]; the escape direction is (1, 1)/sqrt(2)",
        ),
        KnownPoint.from_curvature(
            "lecture_minimum",
            lecture_loss,
            {"w1": np.array(2.0), "w2": np.array(0.5)},
            (0.0, 8.5),
            kind="lecture",
            isolated=False,
            why="the loss is a square and zero where w1 w2 = 1; the Hessian is 2gg', g = (w2, w1)",
        ),
    ]


def zero_mlp_point(*, hidden: int = 8, seed: int = 0) -> KnownPoint:
    """Build a one-hidden-layer tanh network of 3 inputs without biases, all weights zero: a true saddle.

    The Hessian of the mean of (v·tanh(Wx) − y)² at zero pairs each hidden unit's incoming weights
    with its outgoing one through g = −2 mean(yx) and with nothing else: for each of the hidden
    units eigenvalues −‖g‖ and ‖g‖, and two zeros; ‖g‖ = 1.418. Each eigenvalue is repeated exactly, as
    often as there are hidden units, which is what a Lanczos run without care gets wrong.

    Args:
        hidden: Number of hidden units.
        seed: Draws 64 Gaussian inputs and targets, which are scaled to ‖g‖.

    Returns:
        The point, of index ``hidden``; with the defaults 32 parameters and eigenvalues ∓1.418
        eight times each and 16 zeros.

    Example:
        >>> zero_mlp_point()
        KnownPoint(network/zero_tanh_3-8-1: saddle, index 8, 32 parameters)
    """
    inputs, samples, curvature = 3, 64, 1.418
    rng = np.random.default_rng([seed, inputs, samples])
    x = rng.standard_normal((samples, inputs))
    y = rng.standard_normal((samples, 1))
    y *= curvature / np.linalg.norm(2.0 * x.T @ y / samples)
    zeros = ({"weight": np.zeros((inputs, hidden))}, {"weight": np.zeros((hidden, 1))})
    return KnownPoint.from_curvature(
        f"zero_tanh_{inputs}-{hidden}-1",
        mlp_loss("tanh", "squared_error"),
        zeros,
        np.repeat([-curvature, 0.0, curvature], [hidden, hidden * (inputs - 1), hidden]),
        (x, y),
        kind="network",
        isolated=False,
        why="the Hessian is one bordered block [[0, g], [g', 0]] per hidden unit",
    )
