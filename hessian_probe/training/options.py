"""Options of `escape_saddles`, and what is refused before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout, PyTree, generator
from hessian_probe.operators.derivatives import real_scalar
from hessian_probe.optimizers.adjust_moments import MOMENTS
from hessian_probe.training.plateau import check_lengths
from hessian_probe.training.trial_steps import check_strategy


class HookOptions(NamedTuple):
    """Options of `escape_saddles`, by name."""

    strategy: str
    moments: str
    confirm: bool
    window: int
    every: int
    num_products: int
    max_share: float
    radius: float


def check_options(optimizer: Any, loss: Any, key: Any, options: HookOptions) -> None:
    """Refuse what `escape_saddles` cannot work with; raises TypeError or ValueError."""
    if not callable(loss):
        raise TypeError(f"loss must be a function of params; got {type(loss).__name__}")
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(
            f"optimizer must be an optax transformation, with init and update; got {type(optimizer).__name__}"
        )
    if options.moments not in MOMENTS:
        raise ValueError(f"moments={options.moments!r}; expected one of {', '.join(MOMENTS)}")
    if not isinstance(options.confirm, bool):
        raise TypeError(f"confirm={options.confirm!r}; expected True or False")
    if not isinstance(options.num_products, int):
        raise TypeError(f"num_products={options.num_products!r}; expected an integer")
    if options.num_products < 2:
        raise ValueError(f"num_products={options.num_products}; expected at least 2")
    if not 0 < options.max_share <= 1:
        raise ValueError(f"max_share={options.max_share}; expected a share in (0, 1]")
    if not options.radius > 0:
        raise ValueError(f"radius={options.radius}; expected a positive length, in params")
    check_lengths(options.window, options.every)
    check_strategy(options.strategy)
    generator(key)


def check_layout(layout: Layout) -> None:
    """Refuse parameters of which nothing can be trained."""
    if layout.size == 0:
        raise ValueError(
            "params has no floating-point entry, so there is nothing to train; got leaves "
            f"{list(layout.names) or list(layout.kinds)}"
        )


def check_step(loss: Callable[..., Any], params: PyTree, value: Any, batch: PyTree) -> None:
    """Refuse a loss, or the value of one, that is no real scalar; while a step is traced.

    Raises:
        TypeError: the loss returns several things, or what is no real floating-point number.
        ValueError: the loss or `value` is an array.
    """
    if jnp.shape(value) != ():
        raise ValueError(
            f"value has shape {jnp.shape(value)}; expected the step's loss, a scalar: take jnp.mean"
        )
    args = (params,) if batch is None else (params, batch)
    jax.eval_shape(lambda args: real_scalar(loss(*args)), args)
