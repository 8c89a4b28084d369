"""What is left to gain at an ending, by going on from there for very long in float64."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from benchmarks.endings.stops import for_scipy

# Settled: going on gains less than this share of what training gained; slope: more than that within |params|.
SETTLED, SLOPE = 1e-6, 1e-3
# No eigenvalue at the end below this share of the largest, in magnitude.
NEGATIVE = 1e-4
DENSE = 1200
ADAM_STEPS = 2000
NEWTON_STEPS = 100
REACHES = 2.0 ** np.arange(-8, 1)


class Truth(NamedTuple):
    """What going on gains."""

    kind: str  # "settled", "slope" or "between"
    trained: float  # what training gained up to the ending
    gain: float  # what going on gains in all
    within: tuple[float, ...]  # largest gain within each of the distances `REACHES` · |params|
    lowest: float  # lowest eigenvalue at the end over the largest in magnitude


def truth_of(loss: Any, start: np.ndarray, x: np.ndarray, batch: Any) -> Truth:
    """Go on from x, where training of the loss of a vector ended; start and batch are in float64."""
    value = for_scipy(loss, batch, jnp.float64)
    x = np.asarray(x, np.float64)
    here = value(x)[0]
    trained, length = value(np.asarray(start, np.float64))[0] - here, float(np.linalg.norm(x))
    seen: list[tuple[float, float]] = []

    def counted(y: np.ndarray) -> tuple[float, np.ndarray]:
        found = value(y)
        if np.isfinite(found[0]):
            seen.append((float(np.linalg.norm(y - x)), here - found[0]))
        return found

    small = len(x) <= DENSE
    # Small random pushes leave saddles; the best of both ends counts.
    rng = np.random.default_rng(0)
    options = {"maxcor": 30, "ftol": 0, "gtol": 0, "maxiter": 1500, "maxfun": 10**6}
    ends = [newton(loss, counted, x, batch)] if small else []
    for push in (0.0, 1e-3):
        first = x + push * length / np.sqrt(len(x)) * rng.standard_normal(len(x))
        first = scipy.optimize.minimize(counted, first, jac=True, method="L-BFGS-B", options=options).x
        ends.append(newton(loss, counted, first, batch) if small else first)
        ends.append(by_adam(loss, counted, ends[-1], batch))
    end = min(ends, key=lambda y: value(y)[0])
    distances, gains = np.array(seen).T
    gain = max(0.0, gains.max())
    within = tuple(float(max(gains[distances <= r * length], default=0.0)) for r in REACHES)
    lowest = lowest_share(loss, end, batch)
    kind = "slope" if within[-1] > SLOPE * trained else "between"
    if gain < SETTLED * trained and not lowest < -NEGATIVE:
        kind = "settled"
    return Truth(kind, trained, gain, within, lowest)


def by_adam(loss: Any, counted: Any, x: np.ndarray, batch: Any) -> np.ndarray:
    """Adam with a falling rate, which goes on where kinks stop quasi-Newton methods."""
    rate, carry = 0.003 * np.linalg.norm(x) / np.sqrt(len(x)), (jnp.asarray(x), ADAM.init(jnp.asarray(x)))
    for _ in range(10):
        carry = adam_of(loss)(carry, rate, batch)
        counted(np.asarray(carry[0]))
    return np.asarray(carry[0])


# With a rate of 1 at first; a step is linear in the rate.
ADAM = optax.adam(optax.cosine_decay_schedule(1.0, ADAM_STEPS))


@functools.cache
def adam_of(loss: Any) -> Any:
    """A tenth of Adam's steps, compiled."""

    def run(carry: Any, rate: Any, batch: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            y, state = carry
            updates, state = ADAM.update(jax.grad(loss)(y, batch), state, y)
            return (optax.apply_updates(y, rate * updates), state), None

        return jax.lax.scan(step, carry, None, length=ADAM_STEPS // 10)[0]

    return jax.jit(run)


@functools.cache
def hessian_of(loss: Any) -> Any:
    """The dense Hessian, compiled."""
    return jax.jit(jax.hessian(loss))


@functools.cache
def product_of(loss: Any) -> Any:
    """Hessian-vector products, compiled: x, vector, batch."""
    gradient = jax.grad(loss)
    return jax.jit(lambda x, v, batch: jax.jvp(lambda y: gradient(y, batch), (x,), (v,))[1])


def newton(loss: Any, counted: Any, x: np.ndarray, batch: Any) -> np.ndarray:
    """Newton steps within a trust region, by all eigenpairs of the dense Hessian."""
    radius, (value, slope), idle = 0.1 * np.linalg.norm(x), counted(x), 0
    for _ in range(NEWTON_STEPS):
        curvature, axes = np.linalg.eigh(np.asarray(hessian_of(loss)(jnp.asarray(x), batch)))
        along, least = axes.T @ slope, 1e-15 * np.abs(curvature).max()
        length = lambda shift: np.linalg.norm(along / (curvature + shift))  # noqa: B023, E731
        low, shift = max(-curvature[0], 0.0) + least, 0.0
        if curvature[0] <= least or length(0.0) > radius:
            high = low + np.linalg.norm(along) / radius
            excess = lambda shift: length(shift) - radius  # noqa: B023, E731
            shift = scipy.optimize.brentq(excess, low, high, rtol=1e-6) if excess(low) > 0 else low
        step = -along / (curvature + shift)
        if shift and np.linalg.norm(step) < radius:  # off a saddle
            step[0] += math.copysign(math.sqrt(radius**2 - step @ step), step[0])
        there, model = x + axes @ step, -along @ step - 0.5 * step @ (curvature * step)
        new, its_slope = counted(there)
        fall = value - new
        idle = 0 if fall > 1e-15 * abs(value) else idle + 1
        if idle == 12:
            break
        radius *= 0.25 if not fall > 0.25 * model else 2.0 if fall > 0.75 * model else 1.0
        if fall > 0:
            x, value, slope = there, new, its_slope
    return x


def lowest_share(loss: Any, x: np.ndarray, batch: Any) -> float:
    """Lowest eigenvalue over the largest in magnitude."""
    if len(x) <= DENSE:
        values = np.linalg.eigvalsh(np.asarray(hessian_of(loss)(jnp.asarray(x), batch)))
    else:
        at = functools.partial(product_of(loss), jnp.asarray(x))
        operator = scipy.sparse.linalg.LinearOperator(
            (len(x),) * 2, matvec=lambda v: np.asarray(at(jnp.asarray(v).ravel(), batch)), dtype=np.float64
        )
        values = scipy.sparse.linalg.eigsh(operator, 2, which="BE", tol=1e-3, return_eigenvectors=False)
    return float(values.min() / np.abs(values).max())
