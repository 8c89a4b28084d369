"""Reference models of the same data, and Adam on copies of the user's model: each run on first use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis import baselines
from hessian_probe.diagnosis.baselines import Task
from hessian_probe.diagnosis.case import Case
from hessian_probe.diagnosis.features import Features, standardise
from hessian_probe.optimizers.trial_runs import map_trained, perturb, reinitialise

# Samples of the test whether a few samples can be fitted.
ONE_BATCH = 16
# Share of the best constant's loss above which a training loss is large; chosen on synthetic failures.
LARGE = 0.2
# Samples at which the rank of the model's Jacobian is computed, and the share of its largest singular value
# below which one is rounding in float32.
FEW = 8
RANK = 1e-4
# Draws of parameters, with standard deviations from 1 / FAR to FAR, each at MANY inputs and FAR times them.
DRAWS = 8
FAR = 10.0
MANY = 64
# A range within [-1, 1] counts only where outputs came NEARLY to its ends; END_TOLERANCE beyond they left it.
NEARLY = 0.9
END_TOLERANCE = 1e-5
UNBOUNDED = (-math.inf, math.inf)


class ReferenceModels(Case):
    """The case with the losses that reference models and other training reach."""

    @cached_property
    def targets(self) -> np.ndarray | None:
        """Targets of the training samples; an autoencoder's are its inputs."""
        samples = self.samples
        if samples is None or samples.targets is not None or samples.inputs is None:
            return None if samples is None else samples.targets
        outputs = self.outputs
        same = outputs is not None and outputs.shape == samples.inputs.shape
        return samples.inputs if same else None

    @cached_property
    def outputs(self) -> np.ndarray | None:
        """Outputs of the model for the training inputs."""
        if self.apply is None or self.samples is None or self.samples.inputs is None:
            return None
        given = self.apply(self.params, jnp.asarray(self.samples.inputs))
        if not hasattr(given, "shape"):
            raise ValueError(f"apply must return the outputs alone, as one array; got {type(given).__name__}")
        found = np.asarray(given)
        if found.ndim == 0 or len(found) != self.samples.size:
            each = f"an output for each of the {self.samples.size} samples along axis 0"
            raise ValueError(f"apply must return {each}; got shape {found.shape}")
        return found

    @cached_property
    def task(self) -> Task | None:
        """The kind of loss, recognised from outputs here and from a few re-initialised ones."""
        if self.outputs is None or self.targets is None or self.samples is None:
            return None
        task = baselines.recognise_task(self.outputs, self.targets, self.value)
        assert self.samples.inputs is not None
        if task is None or len(self.targets) < self.samples.size:
            return task
        some = np.arange(min(self.samples.size, ONE_BATCH))  # one number can agree by accident
        start = self.reinitialised
        value = self.loss_on(self.samples.take(some), start)
        outputs = np.asarray(self.apply(start, jnp.asarray(self.samples.inputs[some])))
        self.cost.add(losses=1)
        if not (math.isfinite(value) and np.all(np.isfinite(outputs))):
            return task
        return task if baselines.recognise_task(outputs, self.targets[some], value, like=task) else None

    @cached_property
    def constant_predictor_loss(self) -> float:
        """Loss of the best constant output.

        Where the task is not recognised, what Adam reaches with every input replaced by the mean input.
        Without targets the first recorded loss takes its place; NaN where there is none.
        """
        if self.task is not None:
            return baselines.constant_predictor_loss(self.task)
        samples = self.samples
        if samples is not None and samples.targets is not None and samples.inputs is not None:
            floating = samples.inputs.dtype.kind == "f"
            one = samples.inputs.mean(axis=0, keepdims=True) if floating else samples.inputs[:1]
            mean = np.broadcast_to(one, samples.inputs.shape).astype(samples.inputs.dtype)
            starts, constant = (self.params, self.reinitialised), samples.with_inputs(mean)
            return least(self.best_by_adam(at, constant)[0] for at in starts)
        recorded = None if self.history is None else self.history.get("loss")
        return math.nan if recorded is None else float(recorded[0])

    @cached_property
    def linear_loss(self) -> float:
        """Training loss of a linear model with outputs clipped to the model's output range.

        NaN where the user's model does not contain it: where it has fewer parameters, or where its Jacobian
        has a lower rank, because a layer is narrow.
        """
        samples, task = self.samples, self._task_of_samples
        if samples is None or samples.inputs is None or task is None:
            return math.nan
        rng = np.random.default_rng(0)
        chosen = baselines.subset(samples.size, rng)
        rows = Features(samples.inputs[chosen], rng)(samples.inputs[chosen])
        free = task.classes - (task.kind == "cross_entropy")  # a constant added to all logits changes nothing
        if rows.shape[1] * task.classes > self.op.size:
            return math.nan
        if jacobian_rank(self.apply, self.reinitialised, samples.inputs) < min(free, rows.shape[1] - 1):
            return math.nan
        return baselines.fit(rows, task.part(chosen), within=self.output_range)[1]

    @cached_property
    def output_range(self) -> tuple[float, float]:
        """Range that outputs did not leave at any parameters tried; infinite where there is no bound."""
        samples, outputs = self.samples, self.outputs
        free = self.task is None or self.task.probabilities  # whose logits may be anything
        if free or samples is None or samples.inputs is None or outputs is None:
            return UNBOUNDED
        if not (np.abs(outputs).max(initial=0) <= 1 + END_TOLERANCE or outputs.min(initial=0) >= 0):
            return UNBOUNDED
        low, high = observed_range(self.apply, self.params, samples.inputs)
        inside = np.all((outputs >= low - END_TOLERANCE) & (outputs <= high + END_TOLERANCE))
        return (low, high) if inside else UNBOUNDED

    @property
    def loss_floor(self) -> float:
        """Lowest loss of outputs within that range."""
        return 0.0 if self.task is None else baselines.lowest_loss(self.task, self.output_range)

    @property
    def random_feature_loss(self) -> float:
        """Held-out loss of a linear model on random features; NaN where the user's loss is not known."""
        losses = None if self._task_of_samples is None else self.random_feature_held_out
        return math.nan if losses is None else losses[0].mean()

    @cached_property
    def random_feature_held_out(self) -> tuple[np.ndarray, np.ndarray, float] | None:
        """Its losses on held-out training samples and on test samples, and the loss of the best constant.

        Where the user's loss is not known, it is the one that such targets usually have.
        """
        train = self.samples
        if train is None or train.inputs is None or self.targets is None or train.size < 2 * baselines.FOLDS:
            return None
        task = self._task_of_samples or baselines.guess_task(self.targets)
        if task is None:
            return None
        rng = np.random.default_rng(0)
        rows = baselines.subset(train.size, rng)
        test = self._test_part(task, rng)
        losses = baselines.held_out_losses(train.inputs[rows], task.part(rows), rng, test)
        return *losses, baselines.constant_predictor_loss(task)

    def _test_part(self, task: Task, rng: np.random.Generator) -> tuple[np.ndarray, Task] | None:
        """Test inputs and targets, where they have the shapes of the training ones."""
        train, test = self.samples, self.test_samples
        if train is None or test is None or train.inputs is None or test.inputs is None:
            return None
        targets = test.inputs if train.targets is None else test.targets
        if targets is None or self.targets is None or test.inputs.shape[1:] != train.inputs.shape[1:]:
            return None
        same = targets.shape[1:] == self.targets.shape[1:]
        other = baselines.guess_task(targets, like=task) if same else None
        if other is None:
            return None
        rows = baselines.subset(test.size, rng)
        return test.inputs[rows], other.part(rows)

    @property
    def _task_of_samples(self) -> Task | None:
        """The task, where it has one target for each sample."""
        task, samples = self.task, self.samples
        each = task is not None and samples is not None and len(task.targets) == samples.size
        return task if each else None

    @property
    def reinitialised(self) -> Any:
        """Parameters as at a usual start."""
        return reinitialise(self.params, np.random.default_rng(0))

    @cached_property
    def adam_from_reinit(self) -> float:
        """Lowest training loss of Adam from re-initialised weights."""
        whole = self.whole
        return math.nan if whole is None else self.best_by_adam(self.reinitialised, whole.batch)[0]

    @cached_property
    def adam_on_standardised(self) -> float:
        """The same with inputs of mean 0 and deviation 1; NaN where the targets are the inputs."""
        samples = self.samples
        if samples is None or samples.inputs is None or samples.targets is None:
            return math.nan
        batch = samples.with_inputs(standardise(samples.inputs))
        return self.best_by_adam(self.reinitialised, batch)[0]

    @cached_property
    def _adam_run(self) -> tuple[float, Any]:
        return (math.nan, None) if self.whole is None else self.best_by_adam(self.params, self.whole.batch)

    @cached_property
    def adam_from_perturbed(self) -> tuple[float, float]:
        """Training loss at a small perturbation of the parameters, and the lowest of Adam from there.

        What the optimiser holds fixed stays as it is.
        """
        if self.whole is None:
            return math.nan, math.nan
        start = perturb(self.params, np.random.default_rng(0))
        first = self.loss_on(self.whole.batch, start, self.loss_of_moved)
        return first, self.best_by_adam(start, self.whole.batch, self.loss_of_moved)[0]

    @property
    def adam_from_here(self) -> float:
        """Lowest training loss of Adam from here."""
        return self._adam_run[0]

    @cached_property
    def one_batch(self) -> tuple[float, float, float, float]:
        """Loss on a few samples: here, re-initialised, and after training from here on these alone.

        The last is what training on a single one of them reaches: the floor of a loss that has one.
        """
        if self.samples is None:
            return math.nan, math.nan, math.nan, math.nan
        rows = np.sort(self.rng.permutation(self.samples.size)[:ONE_BATCH])
        batch, alone = self.samples.take(rows), self.samples.take(np.full_like(rows, rows[0]))
        here, anew = self.loss_on(batch, self.params), self.loss_on(batch, self.reinitialised)
        after, floor = (self.best_by_adam(self.params, some)[0] for some in (batch, alone))
        return here, anew, after, floor


def least(losses: Iterable[float]) -> float:
    """The lowest loss that is finite; NaN where none is."""
    return min((loss for loss in losses if math.isfinite(loss)), default=math.nan)


def jacobian_rank(apply: Callable[..., Any], params: Any, inputs: np.ndarray) -> float:
    """Rank of the outputs' Jacobian by the inputs: the narrowest layer; infinite where it is not known."""
    if inputs.dtype.kind != "f":
        return math.inf

    def one(x: jax.Array) -> jax.Array:
        return jnp.ravel(apply(params, x[None]))

    some = jnp.asarray(inputs[:: max(1, len(inputs) // FEW)][:FEW])
    try:
        slopes = np.asarray(jax.jit(jax.vmap(jax.jacrev(one)))(some), np.float64)
    except Exception:  # a model that cannot take one sample
        return math.inf
    flat = np.nan_to_num(slopes.reshape(*slopes.shape[:2], -1))
    found = np.linalg.svd(flat, compute_uv=False)
    return int(np.max(np.sum(found > RANK * found[:, :1], axis=1)))


def observed_range(apply: Callable[..., Any], params: Any, inputs: np.ndarray) -> tuple[float, float]:
    """The range of the outputs: within [-1, 1] behind a tanh, a sigmoid or a softmax, or never below zero.

    It is observed, not proved: at random parameters and their opposites, small and large, and at inputs ten
    times as large.  Outputs must come near the ends of a range within [-1, 1] and never leave it.

    Returns:
        (0, 1), (-1, 1) or (0, inf); (-inf, inf) where there is no such range, or where such
        parameters are not accepted.
    """
    try:
        low, high = _range(apply, params, inputs)
    except Exception:  # not every function takes any parameters
        return UNBOUNDED
    if NEARLY <= max(high, -low) <= 1 + END_TOLERANCE and low >= -1 - END_TOLERANCE:
        return (0.0 if low >= 0 else -1.0), 1.0
    return (0.0 if low >= 0 else -math.inf), math.inf


def _range(apply: Callable[..., Any], params: Any, inputs: np.ndarray) -> tuple[float, float]:
    """Least and greatest output at all draws; infinite where one is not finite."""
    rng = np.random.default_rng(0)
    some = inputs[:: max(1, len(inputs) // MANY)][:MANY]
    larger = some * np.asarray(FAR, some.dtype) if some.dtype.kind == "f" else some
    run = jax.jit(lambda at, x: apply(at, x))
    low, high = math.inf, -math.inf
    for size in np.geomspace(1 / FAR, FAR, DRAWS):
        drawn = map_trained(lambda x: rng.standard_normal(np.shape(x)), params)
        for sign in (1, -1):
            at = map_trained(lambda x, f, by=size * sign: jnp.asarray(by * f, x.dtype), params, drawn)
            for rows in (some, larger):
                out = np.asarray(run(at, jnp.asarray(rows)), np.float64)
                if not np.all(np.isfinite(out)):
                    return UNBOUNDED
                low, high = min(low, float(out.min())), max(high, float(out.max()))
    return low, high
