"""What several checks share, measured once and only when a check asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, generator
from hessian_probe.diagnosis import baselines
from hessian_probe.diagnosis.baselines import Task
from hessian_probe.diagnosis.samples import Samples, join
from hessian_probe.diagnosis.stability import Stability, stability
from hessian_probe.diagnosis.trial import STEPS, Steps, Trial, best_by_adam
from hessian_probe.operators.hessian import HessianOperator, hessian
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint

# Factors on the learning rate that are tried.
FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
# Share of the stability limit that a proposed rate aims at, and the largest multiple that is tried.
PROPOSED = 0.5
MOST_FACTOR = 2.0**30
# Steps of the own Adam that show what training could still gain, and samples of the one-batch test.
ADAM_STEPS = 200
ONE_BATCH = 16
# Products that the classification may take.
CLASSIFY_HVPS = 200
# Share of the loss without inputs above which a training loss is large; chosen on the planted troubles.
LARGE = 0.2
# How much better another way must do to prove that this one falls short; chosen on the planted troubles.
BETTER = 1.25
# Samples whose losses and gradients are taken one by one.
MAX_SINGLE = 512


class Context:
    """The user's problem, with measurements that are made on first use.

    Args:
        loss: `loss(params)`, or `loss(params, batch)` when there is training data.
        params: where training stopped.
        train: training data or None.
        test: test data or None.
        history: recorded losses, or None.
        optimizer: optax transformation or None.
        opt_state: its state or None.
        apply: `apply(params, inputs) -> outputs` or None.
        baseline: what a simpler model reaches, or None.
        key: random key or None.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        params: PyTree,
        train: Any,
        test: Any,
        history: Mapping[str, np.ndarray] | None,
        optimizer: Any,
        opt_state: Any,
        apply: Callable[..., Any] | None,
        baseline: Any,
        key: jax.Array | None,
    ) -> None:
        self.loss, self.params, self.train, self.test = loss, params, train, test
        self.history, self.optimizer, self.opt_state = history, optimizer, opt_state
        self.apply, self.baseline, self.key = apply, baseline, key
        self.rng = generator(key)
        self.measured: dict[str, str] = {}
        self.no_trials = ""
        self.num_hvps = self.num_evaluations = 0
        self.samples: Samples | None = None if train is None else join(train)
        self.test_samples: Samples | None = None if test is None else join(test)
        self.data = train
        self.op: HessianOperator = hessian(loss, params, train, check=False)
        self.value = self.op.value
        self._join_batches()

    def _join_batches(self) -> None:
        """Work on one joined batch where the loss is a mean over samples, so that batches do not matter."""
        samples = self.samples
        if samples is None or samples.batch_size is None:
            return
        joined = hessian(self.loss, self.params, samples.batch, check=False)
        if abs(joined.value - self.value) <= 1e-3 * abs(self.value):
            self.data, self.op = samples.batch, joined
        else:
            self.samples = None

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
        """The classification of the point."""
        found = classify(self.loss, self.params, self.data, key=self.key, max_hvps=CLASSIFY_HVPS)
        self.num_hvps += found.num_hvps
        self.num_evaluations += found.num_evaluations
        return found

    @cached_property
    def outputs(self) -> np.ndarray | None:
        """Outputs of the model for the training inputs."""
        if self.apply is None or self.samples is None or self.samples.inputs is None:
            return None
        return np.asarray(self.apply(self.params, jnp.asarray(self.samples.inputs)))

    @cached_property
    def task(self) -> Task | None:
        """What the loss is, told from the outputs."""
        if self.outputs is None or self.samples is None or self.samples.targets is None:
            return None
        return baselines.recognise_task(self.outputs, self.samples.targets, self.value)

    @cached_property
    def shuffled(self) -> float:
        """Loss when targets are dealt to the wrong samples: what the outputs know shows in the difference."""
        samples = self.samples
        if samples is None or samples.targets is None:
            return float("nan")
        losses = []
        value = jax.jit(self.loss)
        for _ in range(4):
            other = samples.targets[self.rng.permutation(samples.size)]
            losses.append(float(value(self.params, jax.tree.map(jnp.asarray, samples.with_targets(other)))))
        self.num_evaluations += len(losses)
        return float(np.mean(losses))

    @cached_property
    def trivial(self) -> float:
        """Loss without the inputs: that of the best constant where known, else with targets shuffled."""
        return baselines.trivial_loss(self.task) if self.task is not None else self.shuffled

    @cached_property
    def fitted(self) -> dict[str, float]:
        """What other models trained here reach.

        "linear": training loss of a linear model, where it has no more parameters than the user's: only
        then is it a simpler one.  "rich": loss of a linear model on random features, on
        samples that it was not trained on.
        """
        samples, task = self.samples, self.task
        if samples is None or samples.inputs is None or task is None:
            return {}
        rng = np.random.default_rng(0)
        chosen = baselines.subset(samples.size, rng)
        part = task._replace(targets=task.targets[chosen])
        rows = baselines.features(samples.inputs[chosen], rng)
        found = {"rich": baselines.held_out(rows, part, rng)}
        if rows.shape[1] * task.classes <= self.op.size:
            found["linear"] = baselines.fit(rows, part)[1]
        return found

    @cached_property
    def _adam_run(self) -> tuple[float, Any]:
        if self.samples is None:
            return float("nan"), None
        self.num_evaluations += 2 * ADAM_STEPS
        return best_by_adam(self.loss, self.params, self.samples.batch, ADAM_STEPS)

    @property
    def adam(self) -> float:
        """Lowest training loss that the own Adam sees from here."""
        return self._adam_run[0]

    @cached_property
    def test_losses(self) -> tuple[float, float]:
        """Test loss here, and where the own Adam ended."""
        samples, end = self.test_samples, self._adam_run[1]
        if samples is None or end is None:
            return float("nan"), float("nan")
        batch = jax.tree.map(jnp.asarray, samples.batch)
        value = jax.jit(self.loss)
        self.num_evaluations += 2
        return float(value(self.params, batch)), float(value(end, batch))

    @cached_property
    def one_batch(self) -> tuple[float, float]:
        """Loss on a few samples before and after training on them alone."""
        if self.samples is None:
            return float("nan"), float("nan")
        rows = np.sort(self.rng.permutation(self.samples.size)[:ONE_BATCH])
        batch = jax.tree.map(jnp.asarray, self.samples.take(rows))
        before = float(jax.jit(self.loss)(self.params, batch))
        self.num_evaluations += 1
        return before, best_by_adam(self.loss, self.params, batch, ADAM_STEPS)[0]

    @cached_property
    def trials(self) -> dict[float, Trial]:
        """What some steps of the user's optimiser bring at several multiples of its rate."""
        if self.optimizer is None or self.opt_state is None or self.samples is None:
            return {}
        steps = self.steps(self.samples.batch_size, STEPS)
        factors = [*FACTORS, *self._proposed()]
        try:
            found = {f: steps.run(self.params, self.opt_state, self.value, f) for f in factors}
        except Exception as error:  # what the optimiser needs beyond gradients, state and parameters
            said = str(error).strip().split("\n")[0]
            self.no_trials = f"an optimizer that takes steps here; it raised {type(error).__name__}: {said}"
            return {}
        self.num_evaluations += STEPS * len(factors)
        return found

    def _proposed(self) -> list[float]:
        """A multiple of the rate that brings the sharpness to half the limit, where that is far from here."""
        found = self.stability
        if found is None or not 0 < found.ratio < PROPOSED / max(FACTORS):
            return []
        return [min(PROPOSED / found.ratio, MOST_FACTOR)]

    @property
    def samples_in_a_step(self) -> int | None:
        """Samples in a batch, or None for all of them."""
        return None if self.samples is None else self.samples.batch_size

    def steps(self, batch_size: int | None, count: int) -> Steps:
        """Steps of the user's optimiser on training batches of a size."""
        assert self.samples is not None
        return Steps(self.loss, self.optimizer, self.samples, batch_size, count)

    def single_losses(self, samples: Samples) -> np.ndarray | None:
        """Loss of each sample (of some of them); None where the loss is not a mean over samples."""
        rows = np.sort(self.rng.permutation(samples.size)[:MAX_SINGLE])
        batch = jax.tree.map(jnp.asarray, samples.take(rows))
        try:
            alone = jax.vmap(lambda b: self.loss(self.params, jax.tree.map(lambda leaf: leaf[None], b)))
            losses = np.asarray(jax.jit(alone)(batch), np.float64)
            together = float(jax.jit(self.loss)(self.params, batch))
        except Exception:  # a loss that cannot take one sample is no mean over samples
            return None
        self.num_evaluations += 2
        mean = abs(losses.mean() - together) <= 1e-3 * abs(together) + 1e-6
        return losses if mean and np.all(np.isfinite(losses)) else None
