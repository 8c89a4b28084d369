"""Checks of plants without `diagnose`: the run without its trouble, and facts of each kind.

Run as `python -m benchmarks.zoo.check`.  The untouched plants and all later ones have
more checks: `benchmarks/zoo/rivals.py`.
A fresh healthy run must end at less than 15 % of its first loss, and at less than 20 % of it on test data; a
planted one must end well above what the same run without the trouble reaches (for overfitting and mismatch:
on test data).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo import FRESH, FURTHER, REPORTED, SEALED, UNSEEN, UNTOUCHED
from benchmarks.zoo.training import Plant, Run, fit, joined, squared

# Least ratio of the planted run's loss to that of the run without its trouble.
WORSE = 1.3
TEST_CAUSES = ("overfitting", "mismatch")
WANDERING = ("oscillation", "noise")


def main() -> int:
    """Check the plants of the last six halves; 1 where one is bad."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="part of a plant's name")
    parser.add_argument(
        "--half",
        choices=("fresh", "untouched", "sealed", "unseen", "reported", "further", "all"),
        default="all",
    )
    options = parser.parse_args()
    from benchmarks.zoo import rivals  # which uses the checks of this file

    bad = 0
    for plant in FRESH + UNTOUCHED + SEALED + UNSEEN + REPORTED + FURTHER:
        if options.only in plant.name and options.half in ("all", plant.half):
            faults_at = faults_of if plant.half == "fresh" else rivals.faults_of
            faults = [fault for seed in range(options.seeds) for fault in faults_at(plant, seed)]
            bad += bool(faults)
            print(f"{plant.name:30s} {plant.cause:20s} {'; '.join(faults) or 'holds'}", flush=True)
    return bool(bad)


def faults_of(plant: Plant, seed: int) -> list[str]:
    """What speaks against a plant at a seed."""
    run = plant.make(seed)
    train, test = losses(run)
    if plant.cause == "healthy":
        first = float(run.loss(run.start, joined(run)))
        healthy = train < 0.15 * first and test < 0.2 * first
        return [] if healthy else [f"{seed}: {first:.3g} to {train:.3g}, test {test:.3g}"]
    if plant.cause == "minimum":
        return minimum_faults(run, seed)
    cured_train, cured_test = losses(plant.make(seed, True))  # type: ignore[call-arg]
    mine, other = (test, cured_test) if plant.cause in TEST_CAUSES else (train, cured_train)
    if plant.cause in WANDERING:  # the last step may be a lucky one
        mine = float(np.mean(run.history["loss"][len(run.history["loss"]) // 2 :]))
    faults = [] if not mine < WORSE * other else [f"{seed}: {mine:.3g}, without the trouble {other:.3g}"]
    return faults + [f"{seed}: {text}" for text in FACTS.get(plant.cause, lambda run: [])(run)]


def losses(run: Run) -> tuple[float, float]:
    """Training and test loss at the end."""
    test = np.nan if run.test is None else float(run.loss(run.params, run.test))
    return float(run.loss(run.params, joined(run))), test


def minimum_faults(run: Run, seed: int) -> list[str]:
    """A regression's Hessian is positive definite, and its gradient is zero to rounding."""
    data = joined(run)
    flat, back = jax.flatten_util.ravel_pytree(run.params)
    slope = jax.grad(lambda at: run.loss(back(at), data))(flat)
    curvature = np.linalg.eigvalsh(jax.hessian(lambda at: run.loss(back(at), data))(flat))
    fine = jnp.linalg.norm(slope) < 1e-5 and curvature[0] > 1e-3
    return (
        [] if fine else [f"{seed}: gradient {jnp.linalg.norm(slope):.2g}, least curvature {curvature[0]:.2g}"]
    )


def gradient_norms(run: Run, params: Any) -> list[float]:
    """Norms of the gradient by array of weights, in the order of the pytree."""
    gradient = jax.grad(run.loss)(params, joined(run))
    return [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient) if leaf.ndim > 1]


def vanishing(run: Run) -> list[str]:
    """At the start, no layer of weights has a gradient above a thousandth (of losses of about 1)."""
    norms = gradient_norms(run, run.start)
    return [] if max(norms) < 1e-3 else [f"norms {norms}"]


def exploding(run: Run) -> list[str]:
    """The gradient is a thousand times the parameters, or more."""
    norms = gradient_norms(run, run.start)
    size = float(optax.tree.norm(run.start))
    return [] if max(norms) > 1e3 * size else [f"norms {norms} at parameters of {size:.2g}"]


def negative(run: Run) -> list[str]:
    """The gradient is small, and one direction curves down: dense Hessian."""
    data = joined(run)
    flat, back = jax.flatten_util.ravel_pytree(run.params)
    curvature = np.linalg.eigvalsh(jax.hessian(lambda at: run.loss(back(at), data))(flat))
    slope = float(jnp.linalg.norm(jax.grad(lambda at: run.loss(back(at), data))(flat)))
    fine = curvature[0] < -0.01 * curvature[-1] and slope < 0.01 * curvature[-1]
    return [] if fine else [f"gradient {slope:.2g}, curvature {curvature[0]:.2g} to {curvature[-1]:.2g}"]


def other_rates(run: Run) -> list[str]:
    """No multiple of the rate ends below half of the excess over the best linear model."""
    data = joined(run)
    best = optimum(run, data)
    start = float(run.loss(run.params, data)) - best
    ends = []
    for factor in (0.5, 1.0, 2.0, 4.0):
        again = rerun(run, factor)
        ends.append(float(again.loss(again.params, data)) - best)
    end = np.nanmin(ends)
    return [] if end > 0.5 * start else [f"another rate lowers the excess {start:.3g} to {end:.3g}"]


def rerun(run: Run, factor: float) -> Run:
    """Train from the start with the rate times a factor, for as many steps."""
    optimizer = optax.chain(run.optimizer, optax.scale(factor))
    objective = squared if run.train[1].ndim > 1 else None
    more = {} if objective is None else {"objective": objective}
    model = (lambda seed: run.start, run.apply)
    return fit(model, run.train, run.test, optimizer, len(run.history["loss"]), 0, **more)


def optimum(run: Run, data: Any) -> float:
    """Least loss of a convex problem, by SciPy's BFGS in float64 as far as 500 iterations bring it."""
    from scipy.optimize import minimize

    flat, back = jax.flatten_util.ravel_pytree(run.params)
    both = jax.jit(jax.value_and_grad(lambda at: run.loss(back(at), data)))

    def value(at: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = both(jnp.asarray(at, flat.dtype))
        return float(loss), np.asarray(slope, np.float64)

    return float(
        minimize(value, np.zeros(flat.size), jac=True, method="L-BFGS-B", options={"maxiter": 500}).fun
    )


def at_rest(run: Run) -> list[str]:
    """The linear model is within 5 % of its least loss."""
    data = joined(run)
    loss, best = float(run.loss(run.params, data)), optimum(run, data)
    return [] if loss < 1.05 * best else [f"loss {loss:.4g}, least {best:.4g}"]


FACTS = {
    "vanishing_gradients": vanishing,
    "exploding_gradients": exploding,
    "saddle": negative,
    "ill_conditioned": other_rates,
    "model_bias": at_rest,
}


if __name__ == "__main__":
    sys.exit(main())
