"""Checks of the untouched and later plants: cures, competing cures, a fact of each kind, and the action.

For causes that are not about the rate, training again at 1/10, 1/3, 3 and 10 times the rate must close less
than half of the gap to the run without the trouble (of the logarithms where gradients explode: those losses
span decades).  Too small a rate must be mended by larger ones alone; too large a rate by smaller ones alone;
noise by larger batches and by smaller rates.  A curable plant's training loss must fall by the action that
`benchmarks.diagnose` takes for its cause.  The healthy runs of
all but the untouched half are held to more: `finished_faults`.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from benchmarks.diagnose import act
from benchmarks.zoo import check
from benchmarks.zoo.further_layers import UNITS as FURTHER_UNITS
from benchmarks.zoo.reported_layers import UNITS as REPORTED_UNITS
from benchmarks.zoo.sealed_layers import UNITS as SEALED_UNITS
from benchmarks.zoo.training import Plant, Run, fit, joined
from benchmarks.zoo.unseen_layers import UNITS as UNSEEN_UNITS
from benchmarks.zoo.untouched_layers import UNITS as UNTOUCHED_UNITS

UNITS = UNTOUCHED_UNITS | SEALED_UNITS | UNSEEN_UNITS | REPORTED_UNITS | FURTHER_UNITS
RATES = (0.1, 1 / 3, 3.0, 10.0)
# Share of the gap to the cured run that a rival must leave open.
HALF = 0.5
# A healthy run's greatest final losses, training and test, in units of the first loss.
LOW, LOW_TEST = 0.05, 0.1
# Gain by more steps, in units of the first loss, below which a healthy run is finished.
LITTLE = 0.03
# Factors of the rate that the action takes; `diagnose` proposes its own.
FACTORS = {"slow": 10.0, "oscillation": 0.1}


def faults_of(plant: Plant, seed: int) -> list[str]:
    """What speaks against a plant of the untouched or a later half at a seed."""
    run = plant.make(seed)
    if plant.cause == "healthy":
        faults = healthy_faults(plant, run, seed)
        faults += finished_faults(plant, run, seed) if plant.half != "untouched" else []
    elif plant.cause == "minimum":
        faults = check.minimum_faults(run, seed)
    else:
        faults = cure_faults(plant, run, seed) + FACTS[plant.cause](plant, run, seed)
    if plant.curable:
        finding = types.SimpleNamespace(cause=plant.cause, experiment=f"times {FACTORS.get(plant.cause)}")
        plain, acted = act(run, finding)  # type: ignore[arg-type]
        faults += [] if acted < plain else [f"acting brings {acted:.3g}, going on {plain:.3g}"]
    return [text if text.startswith(f"{seed}:") else f"{seed}: {text}" for text in faults]


def score(plant: Plant, run: Run) -> float:
    """Final loss, on test data where the cause is about them; infinite where it is no number."""
    value = check.losses(run)[plant.cause in check.TEST_CAUSES]
    return value if np.isfinite(value) else np.inf


def healthy_faults(plant: Plant, run: Run, seed: int) -> list[str]:
    """The loss falls smoothly to a small part, on test data too, and no other rate is much better."""
    first = float(run.loss(run.start, joined(run)))
    train, test = check.losses(run)
    faults = []
    if not (train < 0.15 * first and test < LOW_TEST * first):
        faults.append(f"{first:.3g} to {train:.3g}, test {test:.3g}")
    parts = [float(np.mean(part)) for part in np.array_split(run.history["loss"], 10)]
    if not all(b < a + 0.02 * first for a, b in itertools.pairwise(parts)):
        faults.append(f"not smooth: {np.round(parts, 3)}")
    ends = [score(plant, plant.make(seed, rate=rate)) for rate in (1 / 3, 3.0)]  # type: ignore[call-arg]
    if train > LOW * first and min(ends) < 0.5 * train:
        faults.append(f"other rates end at {ends}")
    return faults


def finished_faults(plant: Plant, run: Run, seed: int) -> list[str]:
    """The loss is below 5 % of the first; no other rate halves it; 200 steps of Adam gain little from here.

    Little is less than 3 % of the first loss, and less than half of the test loss.
    """
    first = float(run.loss(run.start, joined(run)))
    train, test = check.losses(run)
    faults = [] if train < LOW * first else [f"{first:.3g} to {train:.3g}"]
    ends = [score(plant, plant.make(seed, rate=rate)) for rate in (1 / 3, 3.0)]  # type: ignore[call-arg]
    faults += [] if min(ends) > HALF * train else [f"{train:.3g}, other rates end at {ends}"]
    for rate in (1e-3, 1e-2):
        more = further(run, optax.adam(rate))
        end, tested = check.losses(more)
        if train - end > LITTLE * first or tested < HALF * test:
            faults.append(f"Adam at {rate}: {train:.3g} to {end:.3g}, test {test:.3g} to {tested:.3g}")
    return faults


def further(run: Run, optimizer: Any, steps: int = 200) -> Run:
    """Train on from the end of a run, on all data in each step."""
    model = (lambda seed: run.params, run.apply)
    return fit(model, joined(run), run.test, optimizer, steps, 0, objective=lambda apply: run.loss)


def cure_faults(plant: Plant, run: Run, seed: int) -> list[str]:
    """The run without the trouble ends much lower, and runs at other rates do as the cause says."""
    mine, cured = score(plant, run), score(plant, plant.make(seed, True))  # type: ignore[call-arg]
    ends = [score(plant, plant.make(seed, rate=rate)) for rate in RATES]  # type: ignore[call-arg]
    text = f"{mine:.3g}, cured {cured:.3g}, other rates {', '.join(f'{end:.3g}' for end in ends)}"
    lower, higher = min(ends[:2]), min(ends[2:])
    if plant.cause == "slow":
        fine = higher < mine / check.WORSE and lower >= mine
    elif plant.cause == "divergence":
        fine = lower < mine / check.WORSE and higher > float(run.loss(run.start, joined(run)))
    elif plant.cause == "oscillation":
        fine = lower < mine / check.WORSE and higher >= mine
    elif plant.cause == "noise":
        fine = lower < mine and higher > lower
    elif plant.cause == "exploding_gradients":
        fine = np.log(mine / min(ends)) < HALF * np.log(mine / cured)
    else:
        fine = mine - min(ends) < HALF * (mine - cured)
    return [] if fine and mine > check.WORSE * cured else [text]


def finish(run: Run, iterations: int) -> float:
    """Training loss after some iterations of SciPy's L-BFGS from the end of the run."""
    from scipy.optimize import minimize

    data = joined(run)
    flat, back = jax.flatten_util.ravel_pytree(run.params)
    both = jax.jit(jax.value_and_grad(lambda at: run.loss(back(at), data)))

    def value(at: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = both(jnp.asarray(at, flat.dtype))
        return float(loss), np.asarray(slope, np.float64)

    start = np.asarray(flat, np.float64)
    return float(minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).fun)


def runs_away(plant: Plant, run: Run, seed: int) -> list[str]:
    """The loss ends above its start, or is no number."""
    first, end = float(run.loss(run.start, joined(run))), score(plant, run)
    return [] if end > first else [f"{first:.3g} to {end:.3g}"]


def turns_back(plant: Plant, run: Run, seed: int) -> list[str]:
    """Gradients of all data at consecutive steps point against each other, in the mean of 20."""
    data, params, state = joined(run), run.params, run.opt_state
    slope = jax.jit(jax.grad(run.loss))
    cosines, last = [], slope(params, data)
    for _ in range(20):
        updates, state = run.optimizer.update(last, state, params)
        params = optax.apply_updates(params, updates)
        new = slope(params, data)
        cosines.append(float(optax.tree.vdot(new, last) / (optax.tree.norm(new) * optax.tree.norm(last))))
        last = new
    return [] if np.mean(cosines) < -0.3 else [f"cosines of gradients {np.mean(cosines):.2f}"]


def scattered(plant: Plant, run: Run, seed: int) -> list[str]:
    """The gradients of the batches differ by more than their mean is long."""
    slope = jax.jit(jax.grad(run.loss))
    slopes = [jax.flatten_util.ravel_pytree(slope(run.params, b))[0] for b in run.train[:60]]
    stack = np.asarray(slopes)
    ratio = np.sqrt(stack.var(axis=0).sum()) / np.linalg.norm(stack.mean(axis=0))
    return [] if ratio > 1 else [f"deviation of gradients {ratio:.2f} of their mean"]


def idle_units(plant: Plant, run: Run, seed: int) -> list[str]:
    """At least nine of ten units of the layer are zero for all training data."""
    units = np.asarray(UNITS[plant.name](run.params, joined(run)[0]))
    share = float(np.mean(np.all(units <= 0, axis=0)))
    return [] if share >= 0.9 else [f"share of units that never answer {share:.2f}"]


def flat_units(plant: Plant, run: Run, seed: int) -> list[str]:
    """Nine of ten values of tanh (or of 2 sigmoid - 1) are within 0.01 of ±1."""
    units = np.asarray(UNITS[plant.name](run.params, joined(run)[0]))
    share = float(np.mean(np.abs(units) > 0.99))
    return [] if share >= 0.9 else [f"share in the flat part {share:.2f}"]


def uneven(plant: Plant, run: Run, seed: int) -> list[str]:
    """Inputs' deviations span a factor of 100, or the largest is beyond 100 or below 1/100."""
    spread = joined(run)[0].std(axis=0)
    spread = spread[spread > 0]
    top = spread.max()
    fine = top / spread.min() > 100 or top > 50 or top < 1 / 50
    return [] if fine else [f"deviations {spread.min():.3g} to {top:.3g}"]


def apart(run: Run) -> float:
    """Balanced accuracy, over five folds, of a linear classifier that tells training from test inputs."""
    train, test = joined(run)[0], run.test[0]
    inputs, label = np.concatenate([train, test]), np.repeat([0, 1], [len(train), len(test)])
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=300)
    order = np.random.default_rng(0).permutation(len(label))
    folds = cross_val_score(model, inputs[order], label[order], cv=5, scoring="balanced_accuracy")
    return float(folds.mean())


def gap(plant: Plant, run: Run, seed: int) -> list[str]:
    """The training loss is a small part of its start, the test loss is not, and inputs are alike."""
    first = float(run.loss(run.start, joined(run)))
    train, test = check.losses(run)
    share = apart(run)
    fine = train < LOW * first and test > 5 * train and share < 0.6
    return [] if fine else [f"{first:.3g} to {train:.3g}, test {test:.3g}; told apart {share:.2f}"]


def moved(plant: Plant, run: Run, seed: int) -> list[str]:
    """Training is well done, and a linear classifier tells training from test inputs."""
    first = float(run.loss(run.start, joined(run)))
    train, share = check.losses(run)[0], apart(run)
    return (
        [] if train < LOW * first and share > 0.6 else [f"{first:.3g} to {train:.3g}; told apart {share:.2f}"]
    )


def at_floor(plant: Plant, run: Run, seed: int) -> list[str]:
    """L-BFGS from the end closes less than half of the gap to the larger model either."""
    mine, cured = score(plant, run), score(plant, plant.make(seed, True))  # type: ignore[call-arg]
    end = finish(run, 500)
    return [] if mine - end < HALF * (mine - cured) else [f"{mine:.3g}, L-BFGS {end:.3g}, cured {cured:.3g}"]


def reachable(plant: Plant, run: Run, seed: int) -> list[str]:
    """The model can do much better: 100 iterations of L-BFGS from the end do."""
    mine, end = score(plant, run), finish(run, 100)
    return [] if end < mine / check.WORSE else [f"{mine:.3g}, L-BFGS {end:.3g}"]


def known(fact: Callable[[Run], list[str]]) -> Any:
    """A fact that the check of the fresh plants has."""
    return lambda plant, run, seed: fact(run)


FACTS: dict[str, Callable[[Plant, Run, int], list[str]]] = {
    "divergence": runs_away,
    "oscillation": turns_back,
    "slow": reachable,
    "noise": scattered,
    "saddle": known(check.negative),
    "dead_units": idle_units,
    "saturation": flat_units,
    "vanishing_gradients": known(check.vanishing),
    "exploding_gradients": known(check.exploding),
    "input_scale": uneven,
    "ill_conditioned": known(check.other_rates),
    "model_bias": at_floor,
    "overfitting": gap,
    "mismatch": moved,
    "optimization": reachable,
}
