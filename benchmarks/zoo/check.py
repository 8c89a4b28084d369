"""Checks of synthetic failures without `diagnose`: cures, competing cures, a fact of each kind, the action.

Run as `python -m benchmarks.zoo.check`.  Rounds 4 to 9 are checked.

A healthy run of round 4 must end at less than 15 % of its first loss, and at less than 20 % of it on test
data; a failure must end well above what the same run without the trouble reaches (for overfitting and
mismatch: on test data).

From round 5 on competing cures are ruled out.  For causes that are not about the rate, training again at
1/10, 1/3, 3 and 10 times the rate must close less than half of the gap to the run without the trouble (of the
logarithms where gradients explode: those losses span decades).  Too small a rate must be mended by larger
ones alone; too large a rate by smaller ones alone; noise by larger batches and by smaller rates.  A curable
failure's training loss must fall by the action that `benchmarks.diagnose` takes for its cause.  The healthy
runs from round 6 on are held to more: `finished_faults`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from benchmarks.diagnose import act
from benchmarks.zoo import FAILURES
from benchmarks.zoo.image_models import excitation, excited_channels
from benchmarks.zoo.layers import linear, normalised
from benchmarks.zoo.models import dense, forks, routed
from benchmarks.zoo.rounds_6_and_7 import SHARP
from benchmarks.zoo.rounds_8_and_9 import TOKENS, second_layer
from benchmarks.zoo.training import Failure, Run, joined, train

# Least ratio of the failure's loss to that of the run without its trouble.
WORSE = 1.3
TEST_CAUSES = ("overfitting", "mismatch")
WANDERING = ("oscillation", "noise")
# Multiples of the rate that are tried as competing cures.
RATES = (0.1, 1 / 3, 3.0, 10.0)
# Share of the gap to the cured run that a competing cure must leave open.
HALF = 0.5
# A healthy run's greatest final losses, training and test, in units of the first loss.
LOW, LOW_TEST = 0.05, 0.1
# Gain by more steps, in units of the first loss, below which a healthy run is finished.
LITTLE = 0.03
# Factors of the rate that the action takes; `diagnose` proposes its own.
FACTORS = {"slow": 10.0, "oscillation": 0.1}


def gates(sums: Any) -> Any:
    """Sigmoids, stretched to -1 to 1."""
    return 2 * jax.nn.sigmoid(sums) - 1


def normed_units(params: Any, inputs: Any) -> Any:
    """The first layer's values behind their offsets."""
    layer = params["layers"][0]
    return normalised(inputs @ layer["w"]) * layer["scale"] + layer["offset"]


# The units that a failure is about: for `dead_units` their values, for `saturation` values from -1 to 1.
UNITS: dict[str, Callable[[Any, Any], Any]] = {
    "offset behind a norm": normed_units,
    "relu at the output": dense((35, 16, 1), "tanh")[1],
    # At the first four rows of a digit and a state of zero.
    "gates that keep": lambda at, x: gates(
        (x.reshape(len(x), -1, 8)[:, :4] @ at["in"] + at["bias"])[..., :24]
    ),
    "codes of two values": lambda at, x: jnp.tanh(linear(at[0], x)),
    "threshold above all codes": lambda at, x: jnp.abs(x @ at["in"]) - at["threshold"],
    "channels shut": lambda at, x: gates(excitation(at, excited_channels(at, x))),
    # The hidden units of the experts that are asked; those of the others are zero.
    "all to one expert": lambda at, x: routed(at, x, True)[1].reshape(len(x), -1),
    "forks too sharp": lambda at, x: 2 * forks(at, x, SHARP) - 1,
    "unlucky narrow start": second_layer,
    "weights from 0 to 1": lambda at, x: gates(linear(at[0], x)),
    "after steps too long": lambda at, x: linear(at[0], x),
    "sum of 64 vectors": lambda at, x: jnp.tanh(np.sqrt(TOKENS) * at["table"][x].sum(axis=1)),
}


def main() -> int:
    """Check the failures of rounds 4 to 9; 1 where one is bad."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="part of a failure's name")
    parser.add_argument("--round", type=int, choices=range(4, 10), help="default: all")
    options = parser.parse_args()
    bad = 0
    for failure in FAILURES:
        if failure.round >= 4 and options.only in failure.name and options.round in (None, failure.round):
            faults = [text for seed in range(options.seeds) for text in faults_of(failure, seed)]
            bad += bool(faults)
            print(f"{failure.name:30s} {failure.cause:20s} {'; '.join(faults) or 'holds'}", flush=True)
    return bool(bad)


def faults_of(failure: Failure, seed: int) -> list[str]:
    """What speaks against a failure at a seed."""
    run = failure.make(seed)
    if failure.cause == "minimum":
        faults = minimum_faults(run)
    elif failure.round == 4:
        healthy = failure.cause == "healthy"
        faults = low_faults(run, 0.2) if healthy else plain_cure_faults(failure, run, seed)
    elif failure.cause == "healthy":
        faults = healthy_faults(failure, run, seed)
        faults += finished_faults(failure, run, seed) if failure.round > 5 else []
    else:
        faults = cure_faults(failure, run, seed) + FACTS[failure.cause](failure, run, seed)
    if failure.curable and failure.round > 4:
        finding = types.SimpleNamespace(cause=failure.cause, experiment=f"times {FACTORS.get(failure.cause)}")
        plain, acted = act(run, finding)  # type: ignore[arg-type]
        faults += [] if acted < plain else [f"the action ends at {acted:.3g}, going on at {plain:.3g}"]
    return [f"{seed}: {text}" for text in faults]


# Losses


def losses(run: Run) -> tuple[float, float]:
    """Training and test loss at the end."""
    test = np.nan if run.test_data is None else float(run.loss(run.params, run.test_data))
    return float(run.loss(run.params, joined(run))), test


def first_loss(run: Run) -> float:
    """Training loss at the start."""
    return float(run.loss(run.start, joined(run)))


def score(failure: Failure, run: Run) -> float:
    """Final loss, on test data where the cause is about them; infinite where it is no number."""
    value = losses(run)[failure.cause in TEST_CAUSES]
    return value if np.isfinite(value) else np.inf


def at_rates(failure: Failure, seed: int, rates: tuple[float, ...]) -> list[float]:
    """Final losses of the same run at multiples of its rate."""
    return [score(failure, failure.make(seed, rate=rate)) for rate in rates]


# Healthy runs, and a minimum


def low_faults(run: Run, low_test: float) -> list[str]:
    """The loss falls to a small part, on test data too."""
    first, (end, test) = first_loss(run), losses(run)
    return (
        []
        if end < 0.15 * first and test < low_test * first
        else [f"{first:.3g} to {end:.3g}, test {test:.3g}"]
    )


def healthy_faults(failure: Failure, run: Run, seed: int) -> list[str]:
    """The loss falls smoothly to a small part, on test data too, and no other rate is much better."""
    first, (end, _) = first_loss(run), losses(run)
    faults = low_faults(run, LOW_TEST)
    parts = [float(np.mean(part)) for part in np.array_split(run.history["loss"], 10)]
    if not all(b < a + 0.02 * first for a, b in itertools.pairwise(parts)):
        faults.append(f"not smooth: {np.round(parts, 3)}")
    ends = at_rates(failure, seed, (1 / 3, 3.0))
    if end > LOW * first and min(ends) < 0.5 * end:
        faults.append(f"other rates end at {ends}")
    return faults


def finished_faults(failure: Failure, run: Run, seed: int) -> list[str]:
    """The loss is below 5 % of the first; no other rate halves it; 200 steps of Adam gain little from here.

    Little is less than 3 % of the first loss, and less than half of the test loss.
    """
    first, (end, test) = first_loss(run), losses(run)
    faults = [] if end < LOW * first else [f"{first:.3g} to {end:.3g}"]
    ends = at_rates(failure, seed, (1 / 3, 3.0))
    faults += [] if min(ends) > HALF * end else [f"{end:.3g}, other rates end at {ends}"]
    for rate in (1e-3, 1e-2):
        adam = optax.adam(rate)
        params, _, _ = train(run.loss, adam, run.params, adam.init(run.params), joined(run), None, 200)
        later, tested = (float(run.loss(params, part)) for part in (joined(run), run.test_data))
        if end - later > LITTLE * first or tested < HALF * test:
            faults.append(f"Adam at {rate}: {end:.3g} to {later:.3g}, test {test:.3g} to {tested:.3g}")
    return faults


def minimum_faults(run: Run) -> list[str]:
    """A regression's Hessian is positive definite, and its gradient is zero to rounding."""
    slope, curvature = second_order(run)
    fine = slope < 1e-5 and curvature[0] > 1e-3
    return [] if fine else [f"gradient {slope:.2g}, least curvature {curvature[0]:.2g}"]


def second_order(run: Run) -> tuple[float, np.ndarray]:
    """Norm of the gradient, and all eigenvalues of the dense Hessian."""
    data = joined(run)
    flat, back = jax.flatten_util.ravel_pytree(run.params)
    slope = jax.grad(lambda at: run.loss(back(at), data))(flat)
    curvature = np.linalg.eigvalsh(jax.hessian(lambda at: run.loss(back(at), data))(flat))
    return float(jnp.linalg.norm(slope)), curvature


# Cures


def plain_cure_faults(failure: Failure, run: Run, seed: int) -> list[str]:
    """The run without the trouble ends much lower; for some causes a fact is checked too (round 4)."""
    mine, other = score(failure, run), score(failure, failure.make(seed, True))
    if failure.cause in WANDERING:  # the last step may be a lucky one
        mine = float(np.mean(run.history["loss"][len(run.history["loss"]) // 2 :]))
    faults = [] if not mine < WORSE * other else [f"{mine:.3g}, without the trouble {other:.3g}"]
    return faults + FACTS_OF_ROUND_4.get(failure.cause, lambda *_: [])(failure, run, seed)


def cure_faults(failure: Failure, run: Run, seed: int) -> list[str]:
    """The run without the trouble ends much lower, and runs at other rates do as the cause says."""
    mine, cured = score(failure, run), score(failure, failure.make(seed, True))
    ends = at_rates(failure, seed, RATES)
    text = f"{mine:.3g}, cured {cured:.3g}, other rates {', '.join(f'{end:.3g}' for end in ends)}"
    lower, higher = min(ends[:2]), min(ends[2:])
    if failure.cause == "slow":
        fine = higher < mine / WORSE and lower >= mine
    elif failure.cause == "divergence":
        fine = lower < mine / WORSE and higher > first_loss(run)
    elif failure.cause == "oscillation":
        fine = lower < mine / WORSE and higher >= mine
    elif failure.cause == "noise":
        fine = lower < mine and higher > lower
    elif failure.cause == "exploding_gradients":
        fine = np.log(mine / min(ends)) < HALF * np.log(mine / cured)
    else:
        fine = mine - min(ends) < HALF * (mine - cured)
    return [] if fine and mine > WORSE * cured else [text]


def lbfgs(run: Run, iterations: int, *, from_zero: bool = False) -> float:
    """Training loss after some iterations of SciPy's L-BFGS from the end of the run, in float64."""
    data = joined(run)
    flat, back = jax.flatten_util.ravel_pytree(run.params)
    both = jax.jit(jax.value_and_grad(lambda at: run.loss(back(at), data)))

    def value(at: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = both(jnp.asarray(at, flat.dtype))
        return float(loss), np.asarray(slope, np.float64)

    start = np.zeros(flat.size) if from_zero else np.asarray(flat, np.float64)
    return float(minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).fun)


# Facts of each cause


def runs_away(failure: Failure, run: Run, seed: int) -> list[str]:
    """The loss ends above its start, or is no number."""
    first, end = first_loss(run), score(failure, run)
    return [] if end > first else [f"{first:.3g} to {end:.3g}"]


def turns_back(failure: Failure, run: Run, seed: int) -> list[str]:
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


def scattered(failure: Failure, run: Run, seed: int) -> list[str]:
    """The gradients of the batches differ by more than their mean is long."""
    slope = jax.jit(jax.grad(run.loss))
    slopes = [jax.flatten_util.ravel_pytree(slope(run.params, b))[0] for b in run.data[:60]]
    stack = np.asarray(slopes)
    ratio = np.sqrt(stack.var(axis=0).sum()) / np.linalg.norm(stack.mean(axis=0))
    return [] if ratio > 1 else [f"deviation of gradients {ratio:.2f} of their mean"]


def negative(failure: Failure, run: Run, seed: int) -> list[str]:
    """The gradient is small, and one direction curves down: dense Hessian."""
    slope, curvature = second_order(run)
    fine = curvature[0] < -0.01 * curvature[-1] and slope < 0.01 * curvature[-1]
    return [] if fine else [f"gradient {slope:.2g}, curvature {curvature[0]:.2g} to {curvature[-1]:.2g}"]


def idle_units(failure: Failure, run: Run, seed: int) -> list[str]:
    """At least nine of ten units of the layer are zero for all training data."""
    units = np.asarray(UNITS[failure.name](run.params, joined(run)[0]))
    share = float(np.mean(np.all(units <= 0, axis=0)))
    return [] if share >= 0.9 else [f"share of units that are never active {share:.2f}"]


def flat_units(failure: Failure, run: Run, seed: int) -> list[str]:
    """Nine of ten values of tanh (or of 2 sigmoid - 1) are within 0.01 of ±1."""
    units = np.asarray(UNITS[failure.name](run.params, joined(run)[0]))
    share = float(np.mean(np.abs(units) > 0.99))
    return [] if share >= 0.9 else [f"share in the flat part {share:.2f}"]


def gradient_norms(run: Run) -> list[float]:
    """Norms of the gradient at the start by array of weights, in the order of the pytree."""
    gradient = jax.grad(run.loss)(run.start, joined(run))
    return [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient) if leaf.ndim > 1]


def vanishing(failure: Failure, run: Run, seed: int) -> list[str]:
    """At the start, no layer of weights has a gradient above a thousandth (of losses of about 1)."""
    norms = gradient_norms(run)
    return [] if max(norms) < 1e-3 else [f"norms {norms}"]


def exploding(failure: Failure, run: Run, seed: int) -> list[str]:
    """The gradient is a thousand times the parameters, or more."""
    norms, size = gradient_norms(run), float(optax.tree.norm(run.start))
    return [] if max(norms) > 1e3 * size else [f"norms {norms} at parameters of {size:.2g}"]


def uneven(failure: Failure, run: Run, seed: int) -> list[str]:
    """Inputs' deviations span a factor of 100, or the largest is beyond 100 or below 1/100."""
    spread = joined(run)[0].std(axis=0)
    spread = spread[spread > 0]
    top = spread.max()
    fine = top / spread.min() > 100 or top > 50 or top < 1 / 50
    return [] if fine else [f"deviations {spread.min():.3g} to {top:.3g}"]


def other_rates(failure: Failure, run: Run, seed: int) -> list[str]:
    """No multiple of the rate ends below half of the excess over the best linear model."""
    data, steps = joined(run), len(run.history["loss"])
    best = lbfgs(run, 500, from_zero=True)
    start = float(run.loss(run.params, data)) - best
    ends = []
    for factor in (0.5, 1.0, 2.0, 4.0):
        optimizer = optax.chain(run.optimizer, optax.scale(factor))
        params, _, _ = train(run.loss, optimizer, run.start, optimizer.init(run.start), data, None, steps)
        ends.append(float(run.loss(params, data)) - best)
    end = np.nanmin(ends)
    return [] if end > 0.5 * start else [f"another rate lowers the excess {start:.3g} to {end:.3g}"]


def at_rest(failure: Failure, run: Run, seed: int) -> list[str]:
    """The linear model is within 5 % of its least loss."""
    loss, best = losses(run)[0], lbfgs(run, 500, from_zero=True)
    return [] if loss < 1.05 * best else [f"loss {loss:.4g}, least {best:.4g}"]


def at_floor(failure: Failure, run: Run, seed: int) -> list[str]:
    """L-BFGS from the end closes less than half of the gap to the larger model either."""
    mine, cured = score(failure, run), score(failure, failure.make(seed, True))
    end = lbfgs(run, 500)
    return [] if mine - end < HALF * (mine - cured) else [f"{mine:.3g}, L-BFGS {end:.3g}, cured {cured:.3g}"]


def reachable(failure: Failure, run: Run, seed: int) -> list[str]:
    """The model can do much better: 100 iterations of L-BFGS from the end do."""
    mine, end = score(failure, run), lbfgs(run, 100)
    return [] if end < mine / WORSE else [f"{mine:.3g}, L-BFGS {end:.3g}"]


def apart(run: Run) -> float:
    """Balanced accuracy, over five folds, of a linear classifier that tells training from test inputs."""
    seen, unseen = joined(run)[0], run.test_data[0]
    inputs, label = np.concatenate([seen, unseen]), np.repeat([0, 1], [len(seen), len(unseen)])
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=300)
    order = np.random.default_rng(0).permutation(len(label))
    folds = cross_val_score(model, inputs[order], label[order], cv=5, scoring="balanced_accuracy")
    return float(folds.mean())


def gap(failure: Failure, run: Run, seed: int) -> list[str]:
    """The training loss is a small part of its start, the test loss is not, and inputs are alike."""
    first, (end, test), share = first_loss(run), losses(run), apart(run)
    fine = end < LOW * first and test > 5 * end and share < 0.6
    return [] if fine else [f"{first:.3g} to {end:.3g}, test {test:.3g}; told apart {share:.2f}"]


def moved(failure: Failure, run: Run, seed: int) -> list[str]:
    """Training is well done, and a linear classifier tells training from test inputs."""
    first, (end, _), share = first_loss(run), losses(run), apart(run)
    fine = end < LOW * first and share > 0.6
    return [] if fine else [f"{first:.3g} to {end:.3g}; told apart {share:.2f}"]


Fact = Callable[[Failure, Run, int], list[str]]
FACTS: dict[str, Fact] = {
    "divergence": runs_away,
    "oscillation": turns_back,
    "slow": reachable,
    "noise": scattered,
    "saddle": negative,
    "dead_units": idle_units,
    "saturation": flat_units,
    "vanishing_gradients": vanishing,
    "exploding_gradients": exploding,
    "input_scale": uneven,
    "ill_conditioned": other_rates,
    "model_bias": at_floor,
    "overfitting": gap,
    "mismatch": moved,
    "optimization": reachable,
}
SHARED = ("vanishing_gradients", "exploding_gradients", "saddle", "ill_conditioned")
FACTS_OF_ROUND_4 = {cause: FACTS[cause] for cause in SHARED} | {"model_bias": at_rest}


if __name__ == "__main__":
    sys.exit(main())
