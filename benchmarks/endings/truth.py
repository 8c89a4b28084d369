"""What is left to gain at an ending, by going on from there for very long in float64."""

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
    rate = 0.003 * np.linalg.norm(x) / np.sqrt(len(x))
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, ADAM_STEPS))

    def step(carry: Any, _: None) -> Any:
        y, state = carry
        updates, state = optimizer.update(jax.grad(loss)(y, batch), state, y)
        return (optax.apply_updates(y, updates), state), y

    start = jnp.asarray(x)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=ADAM_STEPS // 10))
    carry = (start, optimizer.init(start))
    for _ in range(10):
        carry, _ = run(carry)
        counted(np.asarray(carry[0]))
    return np.asarray(carry[0])


def newton(loss: Any, counted: Any, x: np.ndarray, batch: Any) -> np.ndarray:
    """Newton steps within a trust region, by the dense Hessian."""
    dense, options = jax.jit(jax.hessian(loss)), {"maxiter": 100, "gtol": 1e-14}
    hess = lambda y: np.asarray(dense(jnp.asarray(y), batch))  # noqa: E731
    return scipy.optimize.minimize(counted, x, method="trust-exact", jac=True, hess=hess, options=options).x


def lowest_share(loss: Any, x: np.ndarray, batch: Any) -> float:
    """Lowest eigenvalue over the largest in magnitude."""
    if len(x) <= DENSE:
        values = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(loss))(jnp.asarray(x), batch)))
    else:
        gradient = jax.grad(loss)
        product = jax.jit(lambda v: jax.jvp(lambda y: gradient(y, batch), (jnp.asarray(x),), (v,))[1])
        operator = scipy.sparse.linalg.LinearOperator(
            (len(x),) * 2, matvec=lambda v: np.asarray(product(jnp.asarray(v).ravel())), dtype=np.float64
        )
        values = scipy.sparse.linalg.eigsh(operator, 2, which="BE", tol=1e-3, return_eigenvectors=False)
    return float(values.min() / np.abs(values).max())
