"""Stretches of real training runs: plateaus, and what can be mistaken for them.

Four networks of about a thousand parameters learn the digits by plain gradient descent on the mean
squared error, in seconds. From a small start the loss stays for a while near the value 1 of the
zero function: the origin is a saddle, and so are the points that the iterates pass. The gradient's
norm alone does not tell such a plateau from slow late training.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint
from hessian_probe.problems.networks import digits, mlp_init, mlp_loss


@functools.partial(jax.jit, static_argnums=0)
def descend(
    loss: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    rate: float,
    num_steps: int,
    stop_below: float,
) -> tuple[Any, jax.Array, jax.Array]:
    """Run plain gradient descent on the whole batch, compiled.

    Args:
        loss: ``loss(params, data)``.
        params: Start.
        data: Batch.
        rate: Learning rate.
        num_steps: Steps at most.
        stop_below: Loss below which to stop; −inf for never.

    Returns:
        Parameters, their loss, and the number of steps taken.
    """
    both = jax.value_and_grad(loss)

    def going_on(state: tuple[Any, Any, jax.Array, jax.Array]) -> jax.Array:
        _, _, value, step = state
        return (step < num_steps) & (value >= stop_below)

    def move(
        state: tuple[Any, Any, jax.Array, jax.Array],
    ) -> tuple[Any, Any, jax.Array, jax.Array]:
        at, gradient, _, step = state
        at = jax.tree.map(lambda leaf, slope: leaf - rate * slope, at, gradient)
        value, gradient = both(at, data)
        return at, gradient, value, step + 1

    value, gradient = both(params, data)
    start = (params, gradient, value, jnp.zeros_like(num_steps))
    params, _, value, step = jax.lax.while_loop(going_on, move, start)
    return params, value, step


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network and two starts: one that plateaus and one as people use."""

    widths: tuple[int, ...]
    small: float  # weights' scale for the plateau, ‖params‖ = 0.05 ... 1.8
    standard: float  # weights' scale for the slope and for late training
    rate: float  # learning rate for the latter; the former takes 0.1


_NETWORKS = {
    "linear": _Network((64, 12, 12, 10), 0.045, 1.0, 0.02),
    "tanh": _Network((64, 12, 12, 10), 0.018, 1.0, 0.05),
    "gelu": _Network((64, 13, 10), 0.009, 1.5, 0.05),
    "silu": _Network((64, 11, 11, 11, 10), 0.28, 1.5, 0.05),
}
PLATEAU_ACTIVATIONS: tuple[str, ...] = tuple(_NETWORKS)
"""The networks of ``plateau_points``, by activation."""

PLATEAU_STATES: dict[str, tuple[str, str]] = {
    "plateau": (
        "saddle",
        "a fifth of the way from a small start to a loss 3 % lower; Newton's method in the curved "
        "directions converges nearby to a critical point with eigenvalues of both signs",
    ),
    "leaving": ("not_critical", "first step with the loss 3 % below that of a small start"),
    "slope": ("not_critical", "five steps into descent from a standard start"),
    "late": (
        "not_critical",
        "3,000 steps from a standard start; most of the gradient lies where there is no curvature",
    ),
}
"""The states of ``plateau_points``, with label and reason."""


def plateau_points(
    activations: Iterable[str] = PLATEAU_ACTIVATIONS,
    states: Iterable[str] = tuple(PLATEAU_STATES),
    *,
    seed: int = 0,
) -> list[KnownPoint]:
    """Train small networks on the digits and keep the points passed on the way.

    Widths 64-12-12-10 (linear, tanh), 64-13-10 (gelu), 64-11-11-11-10 (silu), no biases, one-hot
    targets, loss the mean over samples of ‖output − target‖². Measured in float64 with the default
    seed, from dense eigenvalues; s is the Newton step in the eigenvectors above 1e-3‖H‖, and the
    flat share is the part of ‖gradient‖² in the others:

    =======  ================  ================  ==========  ====================  =============
    state    ‖gradient‖        λ_min             λ_max       loss change by s      flat share
    =======  ================  ================  ==========  ====================  =============
    plateau  0.0009 … 0.013    −0.063 … −1.03    0.06 … 1.0  +4e-6 … +2e-4         below 5e-6
    leaving  0.11 … 0.20       −0.28 … −1.3      0.16 … 1.1  −0.06 … +0.03         below 1e-5
    slope    0.73 … 2.0        −0.88 … −2.4      22 … 59     −0.20 … −0.59         0.002
    late     0.017 … 0.038     −0.009 … −0.030   26 … 55     −2e-4 … +8e-3         0.73 … 0.98
    =======  ================  ================  ==========  ====================  =============

    Args:
        activations: Any of ``PLATEAU_ACTIVATIONS``.
        states: Any of ``PLATEAU_STATES``.
        seed: Draws the starts.

    Returns:
        One point for each pair, float64 parameters; computed in float32 unless JAX has 64-bit
        numbers enabled. Needs scikit-learn, as ``digits`` does.

    Raises:
        ValueError: If a name is unknown.

    Cost: About ten seconds on two cores for all, mostly for "late".
    """
    wanted, kinds = tuple(activations), tuple(states)
    unknown = [n for n in wanted if n not in _NETWORKS] + [n for n in kinds if n not in PLATEAU_STATES]
    if unknown:
        raise ValueError(
            f"unknown {unknown}; there are the activations {', '.join(_NETWORKS)} and the states "
            f"{', '.join(PLATEAU_STATES)}"
        )
    data = digits(one_hot=True)
    points = []
    for name in wanted:
        loss = mlp_loss(name, "squared_error")
        for state in kinds:
            params = _reach(loss, _NETWORKS[name], state, data, seed)
            label, why = PLATEAU_STATES[state]
            points.append(
                KnownPoint(
                    name=f"{name}_{state}",
                    kind="plateau",
                    loss=loss,
                    params=jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params),
                    label=label,
                    index=None,
                    data=data,
                    isolated=False,
                    why=why,
                )
            )
    return points


def _reach(loss: Callable[[Any, Any], jax.Array], network: _Network, state: str, data: Any, seed: int) -> Any:
    never = -float("inf")
    if state in ("slope", "late"):
        start = mlp_init(network.widths, scale=network.standard, bias=False, seed=seed)
        return descend(loss, start, data, network.rate, 5 if state == "slope" else 3000, never)[0]
    start = mlp_init(network.widths, scale=network.small, bias=False, seed=seed)
    target = 0.97 * float(descend(loss, start, data, 0.1, 0, never)[1])
    params, _, steps = descend(loss, start, data, 0.1, 5000, target)
    if state == "leaving":
        return params
    return descend(loss, start, data, 0.1, int(steps) // 5, never)[0]
