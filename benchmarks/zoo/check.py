"""Checks of synthetic failures without `diagnose`: cures, competing cures, a fact of each kind, the action.

Run as `python -m benchmarks.zoo.check`.  Rounds 4 to 9 are checked.

A failure must end well above what the same run without the trouble reaches (for overfitting and mismatch: on
test data).  From round 5 on competing cures are ruled out.  For causes that are not about the rate, training
again at 1/10, 1/3, 3 and 10 times the rate must close less than half of the gap to the run without the
trouble (of the logarithms where gradients explode).  Too small a rate must be mended by larger ones alone;
too large a rate by smaller ones alone; noise by larger batches and by smaller rates.  A curable failure's
training loss must fall by the action that `benchmarks.diagnose` takes for its cause.
"""

import functools
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
from benchmarks.endings.stops import flat_loss, for_scipy
from benchmarks.report import command_line
from benchmarks.zoo import FAILURES
from benchmarks.zoo.image_models import excitation, excited_channels
from benchmarks.zoo.layers import linear, normalised
from benchmarks.zoo.models import dense, forks, routed
from benchmarks.zoo.rounds_6_to_9 import SHARP, TOKENS, second_layer
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
# Factors of the rate that the action takes (`diagnose` proposes its own), and the other causes' actions.
FACTORS = {"slow": 10.0, "oscillation": 0.1}
REMEDIES = {"saddle": "escape", "noise": "decay_rate"}
Fact = Callable[["Trial"], tuple[bool, str]]  # whether it is so, and numbers to print where it is not


def gates(sums: Any) -> Any:
    """Sigmoids, stretched to -1 to 1."""
    return 2 * jax.nn.sigmoid(sums) - 1


# The units that a failure is about: for `dead_units` their values, for `saturation` values from -1 to 1.
UNITS: dict[str, Callable[[Any, Any], Any]] = {
    "offset behind a norm": lambda at, x: (
        normalised(x @ at["layers"][0]["w"]) * at["layers"][0]["scale"] + at["layers"][0]["offset"]
    ),
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
    parser = command_line(__doc__, seeds=10, only="failures")
    parser.add_argument("--round", type=int, choices=range(4, 10), help="default: all")
    options = parser.parse_args()
    bad = 0
    for failure in FAILURES:
        if failure.round >= 4 and options.only in failure.name and options.round in (None, failure.round):
            faults = [text for seed in range(options.seeds) for text in faults_of(Trial(failure, seed))]
            bad += bool(faults)
            print(f"{failure.name:30s} {failure.cause:20s} {'; '.join(faults) or 'holds'}", flush=True)
    return bool(bad)


class Trial:
    """A failure at a seed: its run, and losses at the start and at the end of training."""

    def __init__(self, failure: Failure, seed: int) -> None:
        self.failure, self.seed, self.run = failure, seed, failure.make(seed)
        self.data = joined(self.run)
        self.first = float(self.run.loss(self.run.start, self.data))
        self.end, self.test = losses(self.run)
        self.mine = self.score(self.run)

    def score(self, run: Run) -> float:
        """Final loss, on test data where the cause is about them; infinite where it is no number."""
        value = losses(run)[self.failure.cause in TEST_CAUSES]
        return value if np.isfinite(value) else np.inf

    @functools.cached_property
    def cured(self) -> float:
        """Final loss without the trouble."""
        return self.score(self.failure.make(self.seed, True))

    def at_rates(self, rates: tuple[float, ...]) -> list[float]:
        """Final losses of the same run at multiples of its rate."""
        return [self.score(self.failure.make(self.seed, rate=rate)) for rate in rates]

    def trained_on(self, optimizer: Any, params: Any, steps: int) -> Any:
        """Parameters after more steps on all data."""
        state = optimizer.init(params)
        return train(self.run.loss, optimizer, params, state, self.data, None, steps)[0]

    def faults(self, facts: dict[str, Fact]) -> list[str]:
        """What is not so of the fact of its cause."""
        fine, text = facts[self.failure.cause](self)
        return [] if fine else [text]


def losses(run: Run) -> tuple[float, float]:
    """Training and test loss at the end."""
    test = np.nan if run.test_data is None else float(run.loss(run.params, run.test_data))
    return float(run.loss(run.params, joined(run))), test


def faults_of(trial: Trial) -> list[str]:
    """What speaks against a failure at a seed."""
    failure = trial.failure
    if failure.cause == "minimum":
        faults = minimum_faults(trial)
    elif failure.round == 4:
        faults = low_faults(trial, 0.2) if failure.cause == "healthy" else plain_cure_faults(trial)
    elif failure.cause == "healthy":
        faults = healthy_faults(trial) + (finished_faults(trial) if failure.round > 5 else [])
    else:
        faults = cure_faults(trial) + trial.faults(FACTS)
    if failure.curable and failure.round > 4:
        factor = FACTORS.get(failure.cause)
        remedy = REMEDIES.get(failure.cause, "adam") if factor is None else "multiply_rate"
        plain, acted = act(trial.run, types.SimpleNamespace(remedy=remedy, factor=factor))
        faults += [] if acted < plain else [f"the action ends at {acted:.3g}, going on at {plain:.3g}"]
    return [f"{trial.seed}: {text}" for text in faults]


# Healthy runs, and a minimum


def low_faults(t: Trial, low_test: float) -> list[str]:
    """The loss falls to a small part, on test data too."""
    fine = t.end < 0.15 * t.first and t.test < low_test * t.first
    return [] if fine else [f"{t.first:.3g} to {t.end:.3g}, test {t.test:.3g}"]


def healthy_faults(t: Trial) -> list[str]:
    """The loss falls smoothly to a small part, on test data too, and no other rate is much better."""
    faults = low_faults(t, LOW_TEST)
    parts = [float(np.mean(part)) for part in np.array_split(t.run.history["loss"], 10)]
    if not all(b < a + 0.02 * t.first for a, b in itertools.pairwise(parts)):
        faults.append(f"not smooth: {np.round(parts, 3)}")
    ends = t.at_rates((1 / 3, 3.0))
    if t.end > LOW * t.first and min(ends) < 0.5 * t.end:
        faults.append(f"other rates end at {ends}")
    return faults


def finished_faults(t: Trial) -> list[str]:
    """The loss is below 5 % of the first; no other rate halves it; 200 steps of Adam gain little."""
    faults = [] if t.end < LOW * t.first else [f"{t.first:.3g} to {t.end:.3g}"]
    ends = t.at_rates((1 / 3, 3.0))
    faults += [] if min(ends) > HALF * t.end else [f"{t.end:.3g}, other rates end at {ends}"]
    for rate in (1e-3, 1e-2):
        params = t.trained_on(optax.adam(rate), t.run.params, 200)
        end, test = (float(t.run.loss(params, part)) for part in (t.data, t.run.test_data))
        if t.end - end > LITTLE * t.first or test < HALF * t.test:
            faults.append(f"Adam at {rate}: {t.end:.3g} to {end:.3g}, test {t.test:.3g} to {test:.3g}")
    return faults


def minimum_faults(t: Trial) -> list[str]:
    """A regression's Hessian is positive definite, and its gradient is zero to rounding."""
    slope, curvature = second_order(t)
    fine = slope < 1e-5 and curvature[0] > 1e-3
    return [] if fine else [f"gradient {slope:.2g}, least curvature {curvature[0]:.2g}"]


def second_order(t: Trial) -> tuple[float, np.ndarray]:
    """Norm of the gradient, and all eigenvalues of the dense Hessian."""
    loss, x, _ = flat_loss(t.run.loss, t.run.params, t.data)
    curvature = np.linalg.eigvalsh(jax.hessian(loss)(x, t.data))
    return float(jnp.linalg.norm(jax.grad(loss)(x, t.data))), curvature


# Cures


def plain_cure_faults(t: Trial) -> list[str]:
    """The run without the trouble ends much lower; for some causes a fact is checked too (round 4)."""
    mine, history = t.mine, t.run.history["loss"]
    if t.failure.cause in WANDERING:  # the last step may be a lucky one
        mine = float(np.mean(history[len(history) // 2 :]))
    faults = [] if not mine < WORSE * t.cured else [f"{mine:.3g}, without the trouble {t.cured:.3g}"]
    return faults + (t.faults(FACTS_OF_ROUND_4) if t.failure.cause in FACTS_OF_ROUND_4 else [])


def cure_faults(t: Trial) -> list[str]:
    """The run without the trouble ends much lower, and runs at other rates do as the cause says."""
    ends = t.at_rates(RATES)
    lower, higher = min(ends[:2]), min(ends[2:])
    if t.failure.cause == "slow":
        fine = higher < t.mine / WORSE and lower >= t.mine
    elif t.failure.cause == "divergence":
        fine = lower < t.mine / WORSE and higher > t.first
    elif t.failure.cause == "oscillation":
        fine = lower < t.mine / WORSE and higher >= t.mine
    elif t.failure.cause == "noise":
        fine = lower < t.mine and higher > lower
    elif t.failure.cause == "exploding_gradients":
        fine = np.log(t.mine / min(ends)) < HALF * np.log(t.mine / t.cured)
    else:
        fine = t.mine - min(ends) < HALF * (t.mine - t.cured)
    text = f"{t.mine:.3g}, cured {t.cured:.3g}, other rates {', '.join(f'{end:.3g}' for end in ends)}"
    return [] if fine and t.mine > WORSE * t.cured else [text]


def lbfgs(t: Trial, iterations: int, *, from_zero: bool = False) -> float:
    """Training loss after some iterations of SciPy's L-BFGS from the end of the run, in float64."""
    loss, x, _ = flat_loss(t.run.loss, t.run.params, t.data)
    start, options = np.asarray(0 * x if from_zero else x, np.float64), {"maxiter": iterations}
    value = for_scipy(loss, t.data, x.dtype)
    return float(minimize(value, start, jac=True, method="L-BFGS-B", options=options).fun)


# Facts of each cause


def turns_back(t: Trial) -> tuple[bool, str]:
    """Gradients of all data at consecutive steps point against each other, in the mean of 20."""
    params, state = t.run.params, t.run.opt_state
    slope = jax.jit(jax.grad(t.run.loss))
    cosines, last = [], slope(params, t.data)
    for _ in range(20):
        updates, state = t.run.optimizer.update(last, state, params)
        params = optax.apply_updates(params, updates)
        new = slope(params, t.data)
        cosines.append(float(optax.tree.vdot(new, last) / (optax.tree.norm(new) * optax.tree.norm(last))))
        last = new
    return bool(np.mean(cosines) < -0.3), f"cosines of gradients {np.mean(cosines):.2f}"


def scattered(t: Trial) -> tuple[bool, str]:
    """The gradients of the batches differ by more than their mean is long."""
    slope = jax.jit(jax.grad(t.run.loss))
    slopes = [jax.flatten_util.ravel_pytree(slope(t.run.params, batch))[0] for batch in t.run.data[:60]]
    stack = np.asarray(slopes)
    ratio = np.sqrt(stack.var(axis=0).sum()) / np.linalg.norm(stack.mean(axis=0))
    return bool(ratio > 1), f"deviation of gradients {ratio:.2f} of their mean"


def negative(t: Trial) -> tuple[bool, str]:
    """The gradient is small, and one direction curves down: dense Hessian."""
    slope, curvature = second_order(t)
    fine = curvature[0] < -0.01 * curvature[-1] and slope < 0.01 * curvature[-1]
    return fine, f"gradient {slope:.2g}, curvature {curvature[0]:.2g} to {curvature[-1]:.2g}"


def units_share(units: Callable[[np.ndarray], Any], text: str) -> Fact:
    """A share of nine tenths, of the units that a failure is about or of their values."""

    def fact(t: Trial) -> tuple[bool, str]:
        share = float(np.mean(units(np.asarray(UNITS[t.failure.name](t.run.params, t.data[0])))))
        return share >= 0.9, f"{text} {share:.2f}"

    return fact


def gradient_norms(t: Trial) -> list[float]:
    """Norms of the gradient at the start by array of weights, in the order of the pytree."""
    gradient = jax.grad(t.run.loss)(t.run.start, t.data)
    return [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient) if leaf.ndim > 1]


def exploding(t: Trial) -> tuple[bool, str]:
    """The gradient is a thousand times the parameters, or more."""
    norms, size = gradient_norms(t), float(optax.tree.norm(t.run.start))
    return max(norms) > 1e3 * size, f"norms {norms} at parameters of {size:.2g}"


def uneven(t: Trial) -> tuple[bool, str]:
    """Inputs' deviations span a factor of 100, or the largest is beyond 100 or below 1/100."""
    spread = t.data[0].std(axis=0)
    spread = spread[spread > 0]
    top = spread.max()
    fine = top / spread.min() > 100 or top > 50 or top < 1 / 50
    return fine, f"deviations {spread.min():.3g} to {top:.3g}"


def other_rates(t: Trial) -> tuple[bool, str]:
    """No multiple of the rate ends below half of the excess over the best linear model."""
    best, steps = lbfgs(t, 500, from_zero=True), len(t.run.history["loss"])
    optimizers = [optax.chain(t.run.optimizer, optax.scale(factor)) for factor in (0.5, 1.0, 2.0, 4.0)]
    ends = [float(t.run.loss(t.trained_on(each, t.run.start, steps), t.data)) - best for each in optimizers]
    start, end = t.end - best, np.nanmin(ends)
    return end > 0.5 * start, f"another rate lowers the excess {start:.3g} to {end:.3g}"


def at_rest(t: Trial) -> tuple[bool, str]:
    """The linear model is within 5 % of its least loss."""
    best = lbfgs(t, 500, from_zero=True)
    return t.end < 1.05 * best, f"loss {t.end:.4g}, least {best:.4g}"


def at_floor(t: Trial) -> tuple[bool, str]:
    """L-BFGS from the end closes less than half of the gap to the larger model either."""
    end = lbfgs(t, 500)
    return t.mine - end < HALF * (t.mine - t.cured), f"{t.mine:.3g}, L-BFGS {end:.3g}, cured {t.cured:.3g}"


def reachable(t: Trial) -> tuple[bool, str]:
    """The model can do much better: 100 iterations of L-BFGS from the end do."""
    end = lbfgs(t, 100)
    return end < t.mine / WORSE, f"{t.mine:.3g}, L-BFGS {end:.3g}"


def apart(t: Trial) -> float:
    """Balanced accuracy, over five folds, of a linear classifier that tells training from test inputs."""
    seen, unseen = t.data[0], t.run.test_data[0]
    inputs, label = np.concatenate([seen, unseen]), np.repeat([0, 1], [len(seen), len(unseen)])
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=300)
    order = np.random.default_rng(0).permutation(len(label))
    folds = cross_val_score(model, inputs[order], label[order], cv=5, scoring="balanced_accuracy")
    return float(folds.mean())


def gap(t: Trial) -> tuple[bool, str]:
    """The training loss is a small part of its start, the test loss is not, and inputs are alike."""
    share = apart(t)
    fine = t.end < LOW * t.first and t.test > 5 * t.end and share < 0.6
    return fine, f"{t.first:.3g} to {t.end:.3g}, test {t.test:.3g}; told apart {share:.2f}"


def moved(t: Trial) -> tuple[bool, str]:
    """Training is well done, and a linear classifier tells training from test inputs."""
    share = apart(t)
    return t.end < LOW * t.first and share > 0.6, f"{t.first:.3g} to {t.end:.3g}; told apart {share:.2f}"


FACTS: dict[str, Fact] = {
    # The loss ends above its start, or is no number.
    "divergence": lambda t: (t.mine > t.first, f"{t.first:.3g} to {t.mine:.3g}"),
    "oscillation": turns_back,
    "slow": reachable,
    "noise": scattered,
    "saddle": negative,
    # The units are zero for all training data.
    "dead_units": units_share(lambda x: np.all(x <= 0, axis=0), "share of units that are never active"),
    # Values of tanh (or of 2 sigmoid - 1) are within 0.01 of ±1.
    "saturation": units_share(lambda x: np.abs(x) > 0.99, "share in the flat part"),
    # At the start, no layer of weights has a gradient above a thousandth (of losses of about 1).
    "vanishing_gradients": lambda t: (max(gradient_norms(t)) < 1e-3, f"norms {gradient_norms(t)}"),
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
