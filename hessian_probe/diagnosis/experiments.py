"""What several checks share, measured once and only when a check asks for it."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from hessian_probe.diagnosis.decay import decays
from hessian_probe.diagnosis.held_out import Unseen
from hessian_probe.optimizers.stability import Stability, stability
from hessian_probe.optimizers.trial_runs import GradientDescent, Trial, TrialRunner
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint

# Factors on the learning rate that are tried; where the largest is best, ever larger ones up to 16⁷.
FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
LADDER = 16.0
MOST_FACTOR = 16.0**7
# Products that the classification may take.
CLASSIFY_HVPS = 200
# Share that a change of steps must gain of the loss that going on unchanged leaves after as many steps.
MATERIAL = 0.05
# How much better another way must do to prove that this one falls short; chosen on the planted troubles.
BETTER = 1.25
# Share of an array's blocks without gradient that is worth a word.
IDLE = 0.5
# Most that evidence is worth which something else may explain.
LIKELY = 0.8


class Context(Unseen):
    """The user's problem, with measurements that are made on first use."""

    @cached_property
    def stability(self) -> Stability | None:
        """Sharpness against the optimiser's limit."""
        if self.optimizer is None or self.opt_state is None:
            return None
        found = stability(
            self.loss,
            self.params,
            self.data,
            optimizer=self.optimizer,
            opt_state=self.opt_state,
            key=self.key,
        )
        self.num_hvps += found.num_hvps
        return found

    @cached_property
    def point(self) -> CriticalPoint:
        """The classification of the point, among what the optimiser moves."""
        found = classify(self.moving, self.params, self.data, key=self.key, max_hvps=CLASSIFY_HVPS)
        self.num_hvps += found.num_hvps
        self.num_evaluations += found.num_evaluations
        return found

    @cached_property
    def reached(self) -> float:
        """Lowest training loss that other steps, a new start or a simpler model were seen to reach."""
        both = (self.own_reached, self.linear)
        return min((loss for loss in both if math.isfinite(loss)), default=math.nan)

    @cached_property
    def own_reached(self) -> float:
        """The same of this model alone."""
        ways = [self.adam, self.restart, self.undecayed, *(trial.after for trial in self.trials.values())]
        return min((loss for loss in ways if math.isfinite(loss)), default=math.nan)

    @cached_property
    def trials(self) -> dict[float, Trial]:
        """What some steps of the user's optimiser bring at several multiples of its rate."""
        if self.optimizer is None or self.opt_state is None or self.samples is None:
            return {}
        steps = self.steps(self.samples.batch_size, self.num_steps)

        def tried(factor: float) -> Trial:
            self.num_evaluations += self.num_steps
            return steps.run(self.params, self.opt_state, self.value, factor)

        try:
            found = {factor: tried(factor) for factor in FACTORS}
        except Exception as error:  # what the optimiser needs beyond gradients, state and parameters
            said = str(error).strip().split("\n")[0]
            self.no_trials = f"an optimizer that takes steps here; it raised {type(error).__name__}: {said}"
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
        """The same at the shorter rates and as it is, with all samples in every step."""
        if self.samples_in_a_step is None:
            return self.trials
        steps, factors = self.steps(None, self.num_steps), [f for f in FACTORS if f <= 1]
        self.num_evaluations += self.num_steps * len(factors)
        return {f: steps.run(self.params, self.opt_state, self.value, f) for f in factors}

    @property
    def still(self) -> bool:
        """Whether no step of any length moves."""
        return len({trial.after for trial in self.trials.values()}) == 1

    @cached_property
    def going_on(self) -> float:
        """Loss after as many steps of the user's optimiser as the own Adam takes; NaN without one."""
        return self.going_on_by(1.0) if self.trials else math.nan

    def going_on_by(self, factor: float) -> float:
        """The same at a multiple of the rate."""
        self.num_evaluations += self.num_adam_steps
        return self._many_steps.run(self.params, self.opt_state, self.value, factor).after

    @cached_property
    def _many_steps(self) -> TrialRunner:
        return self.steps(self.samples_in_a_step, self.num_adam_steps)

    @cached_property
    def decaying(self) -> bool | None:
        """Whether the optimiser lets weights decay; None where that cannot be told."""
        return decays(self.optimizer, self.opt_state, self.params, self.op.gradient, self.value)

    @cached_property
    def undecayed(self) -> float:
        """Loss after the steps of a trial without decay of weights; NaN where none is seen."""
        if not self.trials or not self.decaying:
            return math.nan
        self.num_evaluations += self.num_steps
        steps = self.steps(self.samples_in_a_step, self.num_steps, pull=False)
        return steps.run(self.params, self.opt_state, self.value).after

    @cached_property
    def held_by_decay(self) -> bool:
        """Whether steps without decay of weights end far below steps with it, at any rate and batch."""
        if not math.isfinite(self.undecayed):
            return False
        others = [*self.trials.values(), self.full_batch[1.0]]
        return BETTER * self.undecayed < min(trial.after for trial in others)

    def descent(self, rate: float) -> Trial:
        """What some steps of gradient descent on all samples bring."""
        assert self.samples is not None
        self.num_evaluations += self.num_steps
        steps = TrialRunner(self.loss, GradientDescent, self.samples, None, self.num_steps)
        return steps.run(self.params, (), self.value, rate)

    @cached_property
    def unasked(self) -> tuple[str, int, int] | None:
        """Array with the largest share of blocks (along its first axis) without any gradient; their number.

        Experts that no sample is sent to, or heads that nothing listens to.  Arrays of fewer than three axes
        have no blocks, those without any gradient at all are no part of the loss.
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
        """The multiple of the rate that brought the lowest loss."""
        return _best(self.trials)

    def gain(self, unchanged: float, changed: float) -> float:
        """Share that a change gains of the loss that going on leaves."""
        worse = min(unchanged, 10 * self.value)  # a trial that ran away counts as a loss ten times as large
        return (worse - changed) / worse if min(worse, self.value) > 0 else 0.0

    @cached_property
    def begun_again(self) -> Trial | None:
        """What the steps bring with the optimiser's state as at its start: its schedule begins again."""
        if not self.trials:
            return None
        assert self.samples is not None
        self.num_evaluations += self.num_steps
        state = self.optimizer.init(self.params)
        return self.steps(self.samples.batch_size, self.num_steps).run(self.params, state, self.value)

    @property
    def samples_in_a_step(self) -> int | None:
        """Samples in a batch, or None for all of them."""
        return None if self.samples is None else self.samples.batch_size

    def steps(self, batch_size: int | None, count: int, *, pull: bool = True) -> TrialRunner:
        """Steps of the user's optimiser on training batches of a size, with or without decay of weights."""
        assert self.samples is not None
        return TrialRunner(self.loss, self.optimizer, self.samples, batch_size, count, pull=pull)


def _best(trials: dict[float, Trial]) -> float:
    """The factor of the lowest loss; the smallest of those that gain all but a thousandth as much."""
    low = min(trial.after for trial in trials.values())
    gain = max(trial.before for trial in trials.values()) - low
    return min(f for f, trial in trials.items() if trial.after <= low + 1e-3 * max(gain, 0.0))
