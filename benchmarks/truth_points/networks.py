"""Networks at points of known type: the lecture's, all zero weights, deep linear ones, and real training.

Four networks of about a thousand parameters learn the digits by plain gradient descent on the mean squared
error.  From a small start the loss stays for a while near the value 1 of the zero function: the origin is a
saddle, and so are the points that the iterates pass.
"""

import functools
from collections.abc import Callable, Iterable
from itertools import combinations, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.table import table
from hessian_probe import problems
from hessian_probe.problems import KnownPoint, deep_linear_point

# By widths: fitted directions, and the layers in which further hidden coordinates are switched on.  Depth 3
# and 4, every branch of the classification.
# fmt: off
DEEP: dict[tuple[int, ...], list[tuple[tuple[int, ...], dict[int, tuple[int, ...]]]]] = {
    (2, 2, 2, 2): [((), {})],
    (3, 3, 3, 3): [
        ((), {0: (2,)}), ((), {0: (2,), 1: (1,)}), ((1,), {}), ((1,), {1: (1,)}), ((1,), {1: (2,)}),
        ((2,), {}), ((1, 2), {}), ((1, 2), {2: (3,)}), ((1, 3), {}), ((1, 2, 3), {}),
    ],
    (5, 4, 2, 3): [((1, 2), {}), ((2, 3), {}), ((1,), {1: (1,)})],
    (2, 2, 2, 2, 2): [((), {})],
    (3, 3, 3, 3, 3): [
        ((1,), {}), ((1,), {1: (1,)}), ((1,), {1: (1, 4)}), ((1,), {1: (2, 3)}), ((1, 2), {}), ((3,), {}),
    ],
    (4, 3, 2, 3, 3): [((1, 2), {}), ((1, 3), {})],
}
# fmt: on


# The lecture's saddle and one of its minima; a network with one hidden layer, all weights zero.
table("lecture", [()])(lambda _: problems.lecture_points())
table("network", [()])(lambda seed: problems.zero_mlp_point(seed=seed))


@table("linear_network", [*product(((4, 2, 3), (3, 3, 3), (5, 4, 3)), range(4))])
def two_layers(seed: int, widths: tuple[int, ...], rank: int) -> list[KnownPoint]:
    """All subsets of three singular directions that fit."""
    subsets = combinations((1, 2, 3), rank) if rank <= min(widths) else ()
    return [deep_linear_point(widths, subset, (3.0, 2.0, 1.0), seed=seed) for subset in subsets]


@table("linear_network", [(widths, *case) for widths, cases in DEEP.items() for case in cases])
def deep(seed: int, widths: Any, subset: Any, carried: Any) -> KnownPoint:
    """Saddles that second order sees, saddles that it does not see, and global minima."""
    return deep_linear_point(widths, subset, carried=carried, seed=seed)


@functools.partial(jax.jit, static_argnums=0)
def descend(
    loss: Callable[[Any, Any], jax.Array], params: Any, data: Any, rate: float, num_steps: int, below: float
) -> tuple[Any, jax.Array, jax.Array]:
    """Plain gradient descent on the whole batch until the loss is below a value: parameters, loss, steps."""
    both = jax.value_and_grad(loss)

    def move(state: Any) -> Any:
        at, (_, gradient), step = state
        at = jax.tree.map(lambda leaf, slope: leaf - rate * slope, at, gradient)
        return at, both(at, data), step + 1

    def going_on(state: Any) -> jax.Array:
        return (state[2] < num_steps) & (state[1][0] >= below)

    start = (params, both(params, data), jnp.zeros_like(num_steps))
    params, (value, _), step = jax.lax.while_loop(going_on, move, start)
    return params, value, step


# Widths; weights' scale for the plateau, ‖params‖ = 0.05 … 1.8, where the learning rate is 0.1; weights'
# scale and learning rate for the slope and for late training.
ACTIVATIONS = {
    "linear": ((64, 12, 12, 10), 0.045, 1.0, 0.02),
    "tanh": ((64, 12, 12, 10), 0.018, 1.0, 0.05),
    "gelu": ((64, 13, 10), 0.009, 1.5, 0.05),
    "silu": ((64, 11, 11, 11, 10), 0.28, 1.5, 0.05),
}
# Reason of each state's label.  Measured in float64 with seed 0: at a plateau λ_min is −0.06 … −1.03, and a
# Newton step in the curved directions changes the loss by less than 2e-4; leaving it and on a slope the
# gradient is 0.1 … 2; late, 0.73 … 0.98 of ‖gradient‖² lies where the curvature is below 1e-3‖H‖.
STATES = {
    "plateau": "a fifth of the way from a small start to a loss 3 % lower; Newton's method in the curved "
    "directions converges nearby to a critical point with eigenvalues of both signs",
    "leaving": "first step with the loss 3 % below that of a small start",
    "slope": "five steps into descent from a standard start",
    "late": "3,000 steps from a standard start; most of the gradient lies where there is no curvature",
}


def reach(name: str, loss: Callable[[Any, Any], jax.Array], state: str, data: Any, seed: int) -> Any:
    """Train up to a state."""
    widths, small, standard, rate = ACTIVATIONS[name]
    plain, never = state in ("slope", "late"), -float("inf")
    start = problems.mlp_init(widths, scale=standard if plain else small, bias=False, seed=seed)
    if plain:
        return descend(loss, start, data, rate, 5 if state == "slope" else 3000, never)[0]
    target = 0.97 * float(descend(loss, start, data, 0.1, 0, never)[1])
    params, _, steps = descend(loss, start, data, 0.1, 5000, target)
    return params if state == "leaving" else descend(loss, start, data, 0.1, int(steps) // 5, never)[0]


@table("plateau", [(ACTIVATIONS,)])
def plateau_points(seed: int, activations: Iterable[str], states: Iterable[str] = STATES) -> list[KnownPoint]:
    """Networks that learn the digits, without biases; computed in float32 unless JAX has 64-bit numbers."""
    data, points = problems.digits(one_hot=True), []
    for name, state in product(activations, states):
        loss = problems.mlp_loss(name, "squared_error")
        params = reach(name, loss, state, data, seed)
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        label, why = "saddle" if state == "plateau" else "not_critical", STATES[state]
        points.append(KnownPoint(f"{name}_{state}", loss, params, label, data=data, isolated=False, why=why))
    return points
