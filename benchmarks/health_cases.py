"""Networks on the digits whose steps take from a tenth of a millisecond to ten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe import problems


class Case(NamedTuple):
    """A network on the digits.

    Attributes:
        name: for people.
        loss: of parameters and a batch.
        init: parameters for a seed.
        batch: size of a minibatch; None: all data.
        share: steps over those of the shortest case.
    """

    name: str
    loss: Callable[..., Any]
    init: Callable[[int], Any]
    batch: int | None
    share: float


def cases() -> list[Case]:
    """Steps of different lengths, with few and with many parameters."""

    def network(*layers: int) -> Callable[[int], Any]:
        return lambda seed: problems.mlp_init(layers, seed=seed)

    loss = problems.mlp_loss("tanh", "cross_entropy")
    return [
        Case("64-128-128-10, batches of 128", loss, network(64, 128, 128, 10), 128, 1.0),
        Case("64-128-128-10, all 1,797", loss, network(64, 128, 128, 10), None, 0.2),
        Case("64-256-256-10, batches of 512", loss, network(64, 256, 256, 10), 512, 0.2),
        Case("convolutions 8 and 16, batches of 128", _convolutional, _convolutional_init, 128, 0.2),
        Case("64-512-512-512-10, batches of 512", loss, network(64, 512, 512, 512, 10), 512, 0.2),
    ]


def _convolutional_init(seed: int) -> Any:
    draw = np.random.default_rng(seed).standard_normal
    return {
        "first": draw((3, 3, 1, 8)) / 3,
        "second": draw((3, 3, 8, 16)) / np.sqrt(72),
        "dense": draw((64, 10)) / 8,
        "bias": np.zeros(10),
    }


def _convolutional(params: Any, batch: Any) -> jax.Array:
    """Two 3×3 convolutions with strides of two, and a dense layer."""
    images, labels = batch
    x = images.reshape(-1, 8, 8, 1)
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(
            x, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.tanh(x)
    logits = x.reshape(len(x), -1) @ params["dense"] + params["bias"]
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))
