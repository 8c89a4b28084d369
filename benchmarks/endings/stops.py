"""Trainings up to the stops that users have: SciPy's defaults, a flat loss, and polished ends."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from jax.flatten_util import ravel_pytree

# A loss is flat where the mean over a window fell by less than this share of what training gained so far.
WINDOW, FLAT, MAX_STEPS = 100, 1e-4, 6000
# Quasi-Newton methods that hold a matrix (BFGS) are for few variables.
FEW = 2000


def flat_loss(loss: Callable[..., Any], params: Any) -> tuple[Any, Any, Any]:
    """The loss of one vector, loss(x, batch), in any precision; x, and back to params."""
    (x, unravel), (leaves, structure) = ravel_pytree(params), jax.tree.flatten(params)
    return of_vector(loss, structure, tuple(map(np.shape, leaves))), x, unravel


# Programs are made once for a model and compiled once for a precision, whatever the seed and the stop.
@functools.cache
def of_vector(loss: Callable[..., Any], structure: Any, shapes: tuple[tuple[int, ...], ...]) -> Any:
    """A loss of params as one of a vector."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def flat(x: Any, batch: Any) -> Any:
        parts = zip(jnp.split(x, ends), shapes, strict=True)
        return loss(jax.tree.unflatten(structure, [part.reshape(shape) for part, shape in parts]), batch)

    return flat


@functools.cache
def slope_of(loss: Any) -> Any:
    """Value and gradient, compiled."""
    return jax.jit(jax.value_and_grad(loss))


@functools.cache
def window_of(optimizer: Any, loss: Any) -> Any:
    """Steps of an optimiser in a window, compiled: (x, state), batch ↦ (x, state), values."""

    def run(carry: Any, batch: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            x, state = carry
            value, gradient = jax.value_and_grad(loss)(x, batch)
            extra = {"value": value, "grad": gradient, "value_fn": lambda x: loss(x, batch)}
            updates, state = optimizer.update(gradient, state, x, **extra)
            return (optax.apply_updates(x, updates), state), value

        return jax.lax.scan(step, carry, None, length=WINDOW)

    return jax.jit(run)


def for_scipy(loss: Any, batch: Any, dtype: Any) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Value and gradient of a vector, as SciPy takes them."""
    program = slope_of(loss)

    def call(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = program(jnp.asarray(x, dtype), batch)
        return float(value), np.asarray(gradient, np.float64)

    return call


def by_scipy(method: str, loss: Any, x: Any, batch: Any) -> np.ndarray:
    """Stop where SciPy's method stops by its defaults."""
    found = scipy.optimize.minimize(for_scipy(loss, batch, x.dtype), np.asarray(x), jac=True, method=method)
    return np.asarray(found.x)


def by_optax(optimizer: Any, loss: Any, x: Any, batch: Any) -> np.ndarray:
    """Stop where the loss is flat."""
    run = window_of(optimizer, loss)
    carry, means = (x, optimizer.init(x)), []
    for _ in range(MAX_STEPS // WINDOW):
        carry, values = run(carry, batch)
        means.append(float(values[:10].mean() if not means else values.mean()))
        if len(means) > 2 and means[-2] - means[-1] < FLAT * (means[0] - means[-1]):
            break
    return np.asarray(carry[0])


def polished(loss: Any, x: Any, batch: Any) -> np.ndarray:
    """L-BFGS as far as the precision allows."""
    value, end = for_scipy(loss, batch, x.dtype), np.asarray(x, np.float64)
    options = {"maxcor": 30, "ftol": 0, "gtol": 0, "maxiter": 4000}
    for _ in range(3):
        end = scipy.optimize.minimize(value, end, jac=True, method="L-BFGS-B", options=options).x
    return end


STOPS = {method: functools.partial(by_scipy, method) for method in ("L-BFGS-B", "BFGS", "CG")} | {
    name: functools.partial(by_optax, optax.with_extra_args_support(optimizer))
    for name, optimizer in (
        ("adam", optax.adam(1e-2)),
        ("momentum", optax.sgd(0.05, momentum=0.9)),
        ("optax.lbfgs", optax.lbfgs()),
    )
}
STOPS["polished"] = polished
