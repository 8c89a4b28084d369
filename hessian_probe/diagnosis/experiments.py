"""The experiments that several checks share: each is run on first use, cached, and counted."""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree
from hessian_probe.diagnosis.case import FEWEST_LOSSES
from hessian_probe.diagnosis.reference_models import LARGE, ReferenceModels, least
from hessian_probe.optimizers.optax_state import call_update
from hessian_probe.optimizers.samples import assign_folds
from hessian_probe.optimizers.stability import Stability, stability
from hessian_probe.optimizers.thresholds import MOST_CALLS
from hessian_probe.optimizers.trial_runs import HeavyBall, Trial, TrialRunner, float_leaf, map_trained, zeros
from hessian_probe.optimizers.uphill import UphillLeaf, uphill_leaves
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint

# Factors on the learning rate that are tried; while the largest is best, LADDER times it, up to MOST_FACTOR.
FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
LADDER = 16.0
MOST_FACTOR = 16.0**7
# Steps within which a rising schedule counts as raising the rate by itself.
SOON = 1000
# Budget of the classification, in Hessian-vector products.
CLASSIFY_HVPS = 200
# Share of the loss that a change of the steps must gain over as many unchanged steps.
MATERIAL = 0.05
# Ratio by which another loss must be lower to show that this one can be; chosen on synthetic failures.
BETTER = 1.25
# Share of an array's blocks without gradient that is reported.
IDLE = 0.5
# Highest confidence of evidence that something else may explain.
LIKELY = 0.8
# The training data are split into PARTS to retrain this model without one of them.
PARTS = 4
# Below this size one held-out part is too small, and each is held out in turn.
SMALL_PART = 64
# Weight decay: the part of an update that depends on the parameters points to zero with at least this cosine,
TOWARDS_ZERO = 0.5
# and is the same with a gradient and without one, up to this share.
AGREE = 0.05


class Experiments(ReferenceModels):
    """The case with all experiments that checks share."""

    @cached_property
    def stability(self) -> Stability | None:
        """Sharpness against the optimiser's limit."""
        if self.optimizer is None:
            return None
        found = stability(self.loss, self.params, self.data, key=self.key, **self.of_optimizer)
        self.cost.enter(found)
        return found

    @cached_property
    def uphill(self) -> tuple[UphillLeaf, ...] | None:
        """Leaves that the optimiser moves up their gradient; None where that cannot be measured."""
        return None if self.optimizer is None else uphill_leaves(self.op, self.optimizer, self.opt_state)

    @property
    def known_stability(self) -> Stability | None:
        """The same; None where it is undetermined too."""
        found = self.stability
        return None if found is None or found.status == "undetermined" else found

    @cached_property
    def point(self) -> CriticalPoint:
        """The classification of the point, in the parameters that the optimiser moves."""
        given: dict[str, Any] = {"trainable": self.moved, "key": self.key, "max_hvps": CLASSIFY_HVPS}
        found = classify(self.loss, self.params, self.data, **given)
        self.cost.enter(found)
        return found

    @cached_property
    def best_seen(self) -> float:
        """Lowest training loss that other steps, a re-initialisation or a linear model reached."""
        return least((self.best_of_model, self.linear_loss))

    @cached_property
    def best_of_model(self) -> float:
        """The same of this model alone."""
        others = (self.adam_from_here, self.adam_from_reinit, self.without_weight_decay)
        return least((*others, *(trial.after for trial in self.trials.values())))

    @cached_property
    def trials(self) -> dict[float, Trial]:
        """A trial of the user's optimiser at each of several multiples of its rate."""
        if self.optimizer is None or self.whole is None:
            return {}
        steps = self.steps(self.whole.batch_size, self.num_steps)
        tried = partial(steps.run, self.params, self.opt_state, self.value)
        try:
            found = {factor: tried(factor) for factor in FACTORS}
        except Exception as error:  # what the optimiser needs beyond gradients, state and parameters
            raised = f"{type(error).__name__}: " + str(error).strip().split("\n")[0]
            self.trials_failed = f"an optimiser that takes steps here; it raised {raised}"
            return {}
        while max(found) < MOST_FACTOR and _best(found) == max(found):
            found[LADDER * max(found)] = tried(LADDER * max(found))
        best = _best(found)
        for factor in (best / 4, best * 4):
            if best > max(FACTORS) and factor not in found:
                found[factor] = tried(factor)
        return dict(sorted(found.items()))

    @cached_property
    def full_batch(self) -> dict[float, Trial]:
        """The same with all samples in every step, at factors up to one."""
        if self.samples_in_a_step is None:
            return self.trials
        tried = partial(self.steps(None, self.num_steps).run, self.params, self.opt_state, self.value)
        return {factor: tried(factor) for factor in FACTORS if factor <= 1}

    @property
    def no_step_moves(self) -> bool:
        """Whether trials at all factors end at the same loss."""
        return len({trial.after for trial in self.trials.values()}) == 1

    @cached_property
    def continued(self) -> float:
        """Loss after as many steps of the user's optimiser as trials by Adam take; NaN without one."""
        return self.continued_at(1.0) if self.trials else math.nan

    def continued_at(self, factor: float) -> float:
        """The same at a multiple of the rate."""
        steps = self.steps(self.samples_in_a_step, self.num_adam_steps)
        return steps.run(self.params, self.opt_state, self.value, factor).after

    @cached_property
    def decays_weights(self) -> bool | None:
        """Whether the optimiser applies weight decay; None where that cannot be decided."""
        return applies_weight_decay(self.optimizer, self.opt_state, self.params, self.op.gradient, self.value)

    @cached_property
    def without_weight_decay(self) -> float:
        """Loss after a trial without weight decay; NaN where the optimiser applies none."""
        if not self.trials or not self.decays_weights:
            return math.nan
        steps = self.steps(self.samples_in_a_step, self.num_steps, pull=False)
        return steps.run(self.params, self.opt_state, self.value).after

    @cached_property
    def limited_by_decay(self) -> bool:
        """Whether steps without weight decay end far below steps with it at any rate and batch size."""
        if not math.isfinite(self.without_weight_decay):
            return False
        with_decay = [*self.trials.values(), self.full_batch[1.0]]
        return BETTER * self.without_weight_decay < min(trial.after for trial in with_decay)

    def gradient_descent(self, rate: float) -> Trial:
        """A trial of gradient descent on all samples."""
        assert self.whole is not None
        optimizer = HeavyBall()
        steps = TrialRunner(self.loss, optimizer, self.whole, None, self.num_steps, self.cost)
        return steps.run(self.params, optimizer.init(self.params), self.value, rate)

    @cached_property
    def blocks_without_gradient(self) -> tuple[str, int, int] | None:
        """Array with the largest share of first-axis blocks without gradient; how many of how many.

        For instance experts that no sample is routed to, or heads whose output no layer uses.  Arrays of
        fewer than three axes have no blocks; arrays without any gradient are no part of the loss.
        """
        found = []
        for name, leaf in zip(self.op.layout.names, self.op.gradient_vector, strict=True):
            if leaf.ndim < 3:
                continue
            idle = np.all(np.asarray(leaf) == 0, axis=tuple(range(1, leaf.ndim)))
            if IDLE <= idle.mean() < 1:
                found.append((name, int(idle.sum()), len(idle)))
        return max(found, key=lambda item: item[1] / item[2], default=None)

    @property
    def best_factor(self) -> float:
        """The factor of the trial with the lowest loss."""
        return _best(self.trials)

    def gain(self, unchanged: float, changed: float) -> float:
        """Share by which a changed trial's loss is below the unchanged one's."""
        worse = min(unchanged, 10 * self.value)  # a trial that diverged counts as ten times the present loss
        return (worse - changed) / worse if min(worse, self.value) > 0 else 0.0

    @property
    def samples_in_a_step(self) -> int | None:
        """Samples in a batch; None for all of them."""
        return None if self.samples is None else self.samples.batch_size

    def steps(self, batch_size: int | None, count: int, *, pull: bool = True) -> TrialRunner:
        """Steps of the user's optimiser on batches of a size, with its weight decay or without (`pull`)."""
        assert self.whole is not None
        given, kind = (self.loss, self.optimizer, self.whole), (batch_size, count, pull)
        if kind not in self._trial_runners:  # each is compiled once
            self._trial_runners[kind] = TrialRunner(*given, batch_size, count, self.cost, pull=pull)
        return self._trial_runners[kind]

    @cached_property
    def retrained_held_out(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Losses of this model, retrained on a part of the training data, on the rest and on test data.

        Where parts are small each is held out in turn; copies of a sample stay together and count once.  None
        where there are too few samples, where the loss cannot take one sample, where the optimiser holds some
        parameters fixed, or where the retrained model does not learn its part.
        """
        train, test = self.samples, self.test_samples
        if train is None or test is None or min(train.size // PARTS, test.size) < FEWEST_LOSSES:
            return None
        if self.fixed_by_optimizer:
            return None
        rows = np.arange(train.size) if train.inputs is None else train.inputs
        part, first = assign_folds(rows, PARTS, np.random.default_rng(0))
        if np.sum(first) // PARTS < FEWEST_LOSSES:
            return None
        inside, outside = [], []
        for start in range(PARTS if train.size < PARTS * SMALL_PART else 1):
            out = np.flatnonzero((part == start) & first)
            kept = train.take(np.flatnonzero(part != start))
            reached, end = self.best_by_adam(self.reinitialised, kept)
            here, there = self.sample_losses(train.part(out), end), self.sample_losses(test, end)
            if not reached < LARGE * self.constant_predictor_loss or here is None or there is None:
                return None
            inside.append(here)
            outside.append(there)
        return np.concatenate(inside), np.mean(outside, axis=0)

    @cached_property
    def _lowest_end(self) -> Any:
        """Parameters of the lowest training loss, by Adam or by a Newton step; None where there are none."""
        ends = (self._adam_run, *self.lower_points)
        known = [(loss, at) for loss, at in ends if at is not None and math.isfinite(loss)]
        return min(known, key=lambda pair: pair[0])[1] if known else None

    @cached_property
    def test_losses(self) -> tuple[float, float]:
        """Test loss here, and where the training loss was lowest."""
        samples, end = self.test_samples, self._lowest_end
        if samples is None or end is None:
            return math.nan, math.nan
        return self.loss_on(samples.batch, self.params), self.loss_on(samples.batch, end)

    @cached_property
    def test_sign_score(self) -> float:
        """Sign test, in standard errors, that most test samples have a lower loss there; NaN if unknown."""
        samples, end = self.test_samples, self._lowest_end
        if samples is None or end is None or samples.size < FEWEST_LOSSES:
            return math.nan
        here, there = (self.sample_losses(samples, at) for at in (self.params, end))
        if here is None or there is None:
            return math.nan
        # Signs, because a few large squared errors decide their mean.
        lower = float(np.mean((there < here) + 0.5 * (there == here)))
        return (lower - 0.5) * 2 * math.sqrt(len(here))


def _best(trials: dict[float, Trial]) -> float:
    """The smallest factor whose trial gains at least 0.999 of what the best one gains."""
    low = min(trial.after for trial in trials.values())
    gain = max(trial.before for trial in trials.values()) - low
    return min(f for f, trial in trials.items() if trial.after <= low + 1e-3 * max(gain, 0.0))


def applies_weight_decay(
    optimizer: Any, state: Any, params: PyTree, gradient: PyTree, value: float
) -> bool | None:
    """Whether weight decay is the only use that an optimiser makes of the parameters.

    Decoupled decay adds the same to an update with a gradient and without one, and so does decay before steps
    that are linear in the gradient.  Trust ratios and clipping by the size of parameters do not.  States that
    hold parameters (averages, lookahead) leave the question open, since they ignore the parameters passed in.

    Returns:
        Whether it is; None where the parameters have another use too, or where that cannot be decided.
    """
    try:
        if _holds_params(optimizer, params):
            return None
        pull = _added(optimizer, state, params, zeros(params), value)
        other = _added(optimizer, state, params, gradient, value)
    except Exception:  # what the optimiser needs beyond gradients, state, parameters and the loss
        return None
    if np.linalg.norm(other - pull) > AGREE * np.linalg.norm(pull):
        return None
    where = pull != 0
    x = _flat(params)[where]
    size = float(np.linalg.norm(pull) * np.linalg.norm(x))
    return bool(size > 0 and -float(pull[where] @ x) > TOWARDS_ZERO * size)


def _holds_params(optimizer: Any, params: PyTree) -> bool:
    """Whether the first state depends on the values of the parameters."""
    doubled = map_trained(lambda leaf: 2 * leaf, params)
    pairs = zip(*(jax.tree.leaves(optimizer.init(at)) for at in (params, doubled)), strict=True)
    return any(not np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs if float_leaf(a))


def _added(optimizer: Any, state: Any, params: PyTree, gradient: PyTree, value: float) -> np.ndarray:
    """What the parameters add to the first update of an optimiser that is not zero."""
    states = [state, state]
    for _ in range(MOST_CALLS):
        found = []
        for which, at in enumerate((params, zeros(params))):
            updates, states[which] = call_update(optimizer, gradient, states[which], at, value)
            found.append(_flat(updates))
        if np.any(found[0]) or np.any(found[1]):
            break
    return found[0] - found[1]


def _flat(tree: PyTree) -> np.ndarray:
    parts = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree) if float_leaf(leaf)]
    return np.concatenate([np.zeros(0), *parts])
