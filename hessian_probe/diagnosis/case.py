"""What the user gave: loss, data and optimiser, checked and joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, generator, hashable, leaf_name, split
from hessian_probe.operators.data import Data
from hessian_probe.operators.hessian import HessianOperator, hessian
from hessian_probe.optimizers.samples import Samples, join_batches
from hessian_probe.optimizers.thresholds import ADAM_STEPS, TRIAL_STEPS
from hessian_probe.optimizers.trial_runs import NO_OPTAX, AdamRunner, float_leaf, perturb, reinitialise
from hessian_probe.optimizers.untrained_params import moved_variables
from hessian_probe.programs.mixes import Mix, find_mix
from hessian_probe.results import Cost

# At most this number of samples enter where losses or gradients of single samples are computed.
MAX_SINGLE = 512
# Fewer samples than this give no standard error of a mean loss.
FEWEST_LOSSES = 8
# Share of usual weights at which outputs are small.
NEAR = 1e-3
# A prime that no other axis has by chance.
PRIME = 10_007


@dataclasses.dataclass(frozen=True)
class OfParams:
    """A loss of the parameters alone, called with a batch of nothing."""

    loss: Callable[..., Any]

    def __call__(self, params: PyTree, *batch: Any) -> Any:
        """The loss."""
        return self.loss(params)


# What a loss of the parameters alone takes in place of samples.
NOTHING = Samples((), 1, None, None, None)


class Case:
    """What the user passed in, checked and joined.

    The arguments are those of `diagnose`.

    Attributes:
        cost: what was computed, by the operator too.
        measured: every figure that was measured, as text by its name.
        lower_points: lower training losses, each with its parameters.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        params: PyTree,
        data: Any = None,
        *,
        trainable: Any = None,
        test_data: Any = None,
        history: Mapping[str, np.ndarray] | None = None,
        optimizer: Any = None,
        opt_state: Any = None,
        apply: Callable[..., Any] | None = None,
        baseline: Any = None,
        key: jax.Array | None = None,
        trainer: Callable[..., Any] | None = None,
        trial_factor: int = 1,
    ) -> None:
        layout = split(params, trainable=trainable)[0].require_variables()
        self.trainable, self.variables, self.given_data = layout.mask, str(layout), data
        # Training on copies needs leaves with a dtype; the loss gets those that are not varied as they are.
        self.given_params = params
        self.params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, params)
        loss = OfParams(loss) if data is None and callable(loss) else loss
        self.loss = self._holding(loss, frozenset(layout.names))
        self.history, self.optimizer, self.opt_state = history, optimizer, opt_state
        self.apply: Any = apply
        self.trainer: Any = trainer
        self.baseline, self.key = baseline, key
        self.rng = generator(key)
        self.num_steps, self.num_adam_steps = trial_factor * TRIAL_STEPS, trial_factor * ADAM_STEPS
        self.measured: dict[str, str] = {}
        self.trials_failed = self.adam_failed = ""
        self._adam_runners: dict[Hashable, AdamRunner] = {}
        self._trial_runners: dict[Hashable, Any] = {}
        self.cost = Cost()
        self.lower_points: list[tuple[float, Any]] = []
        self.samples: Samples | None = None if data is None else join_batches(data)
        self.test_samples: Samples | None = None if test_data is None else join_batches(test_data)
        self.given_samples = self.samples  # before any test whether the loss is a mean over them
        _check_alike(self.samples, self.test_samples)
        self.data = data  # joined into one batch below, where that changes nothing
        self.op = self._operator(data)
        self.value = self.op.value
        self._join_batches()
        if self.samples is not None and not self._takes_few(self.samples):
            self.samples = None

    def _operator(self, data: Any) -> HessianOperator:
        op = hessian(self.loss, self.params, data, check=False, trainable=self.trainable)
        op.objective.cost.wholes = (self.cost,)
        return op

    @property
    def whole(self) -> Samples | None:
        """What a step is taken on: the samples, a batch that is no set of them, nothing without data."""
        if self.samples is not None or self.given_data is None:
            return NOTHING if self.samples is None else self.samples
        arrays = all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(self.given_data))
        single = not self.op.objective.data.is_sequence and arrays
        return NOTHING._replace(batch=self.given_data) if single else None

    @property
    def need_of_samples(self) -> str:
        """What a check of single samples lacks where there are none."""
        if self.given_data is None:
            return "data: batches of arrays with samples along axis 0"
        return "data as batches of arrays with samples along axis 0, and a loss that is a mean over them"

    def _takes_few(self, samples: Samples) -> bool:
        """Whether the loss accepts some of the samples; a loss over a whole graph does not."""
        few = samples.take(np.arange(min(FEWEST_LOSSES, samples.size)))
        try:
            jax.eval_shape(self.loss, self.params, few)
        except Exception:  # whatever a user's loss raises for another number of samples
            return False
        return True

    def _join_batches(self) -> None:
        """Join all batches into one where the loss is a mean over samples, which makes them equivalent."""
        samples = self.samples
        if samples is None or samples.batch_size is None:
            return
        joined = self._operator(samples.batch)
        if abs(joined.value - self.value) <= 1e-3 * abs(self.value):
            self.data, self.op = samples.batch, joined
        else:
            self.samples = None

    @cached_property
    def fixed_by_optimizer(self) -> tuple[str, ...]:
        """Names of the arrays that the optimiser never moves by their gradient."""
        if self.optimizer is None:
            return ()
        layout, rest = self.op.layout, self.op.objective.non_variables
        moved = moved_variables(self.optimizer, layout, self.op.x, rest)
        return tuple(name for name in layout.names if name not in moved)

    @property
    def of_optimizer(self) -> dict[str, Any]:
        """Arguments of what measures the optimiser."""
        return {"trainable": self.trainable, "optimizer": self.optimizer, "opt_state": self.opt_state}

    def moved(self, path: str, _: Any) -> bool:
        """Whether a leaf is a variable that the optimiser moves."""
        return path in self.op.layout.names and path not in self.fixed_by_optimizer

    @cached_property
    def loss_of_moved(self) -> Callable[..., Any]:
        """The loss as a function of what the optimiser moves: what it holds fixed stays as it is."""
        return self._holding(self.loss, frozenset(self.op.layout.names) - {*self.fixed_by_optimizer})

    def _holding(self, loss: Callable[..., Any], varied: frozenset[str]) -> Callable[..., Any]:
        """The loss as a function of the leaves of these names: all other floating ones stay as they are."""

        def leaf(path: Any, new: Any, own: Any, given: Any) -> Any:
            return given if float_leaf(own) and leaf_name(path) not in varied else new

        if len(varied) == sum(map(float_leaf, jax.tree.leaves(self.params))):
            return loss
        return lambda params, *batch: loss(
            jax.tree_util.tree_map_with_path(leaf, params, self.params, self.given_params), *batch
        )

    def best_by_adam(
        self, params: PyTree, batch: Any, loss: Callable[..., Any] | None = None
    ) -> tuple[float, PyTree | None]:
        """Lowest loss that Adam meets, and where that run ended; NaN and None without optax."""
        loss = self.loss if loss is None else loss
        if hashable(loss) not in self._adam_runners:
            try:
                self._adam_runners[hashable(loss)] = AdamRunner(loss, self.num_adam_steps, self.cost)
            except ImportError:
                self.adam_failed = NO_OPTAX
                return float("nan"), None
        return self._adam_runners[hashable(loss)].best(params, batch)

    def loss_on(self, batch: Any, params: PyTree, loss: Callable[..., Any] | None = None) -> float:
        """The loss, or another one, on a batch at any parameters."""
        self.cost.add(losses=1)
        return float(jax.jit(loss or self.loss)(params, jax.tree.map(jnp.asarray, batch)))

    def random_batch(self, samples: Samples) -> Any:
        """At most MAX_SINGLE samples, in their order."""
        rows = np.sort(self.rng.permutation(samples.size)[:MAX_SINGLE])
        return jax.tree.map(jnp.asarray, samples.take(rows))

    def sample_losses(self, samples: Samples, params: Any = None) -> np.ndarray | None:
        """Loss of each of at most MAX_SINGLE samples; None where the loss is not a mean over samples."""
        found = self.alone_and_together(samples, self.params if params is None else params)
        return found[0] if found is not None and is_mean(*found) else None

    def alone_and_together(self, samples: Samples, params: PyTree) -> tuple[np.ndarray, float] | None:
        """Loss of each of at most MAX_SINGLE samples, and that of all of these; None where there is none."""
        batch = jax.tree.map(jnp.asarray, samples.take(single_rows(samples)))
        try:
            alone = jax.vmap(lambda b: self.loss(params, jax.tree.map(lambda leaf: leaf[None], b)))
            losses = np.asarray(jax.jit(alone)(batch), np.float64)
            self.cost.add(losses=1)
            return losses, self.loss_on(batch, params)
        except Exception:  # a loss that cannot take one sample, or this number of them
            return None

    def compared(self, samples: Samples, at: PyTree) -> tuple[np.ndarray, float] | None:
        """The same without samples that have no loss alone, as masked ones; None unless all are finite."""
        found = self.alone_and_together(samples, at)
        if found is None:
            return None
        rows = np.flatnonzero(np.isfinite(found[0]))
        if 1 < len(rows) < len(found[0]):
            found = self.alone_and_together(samples.part(single_rows(samples)[rows]), at)
        return found if found is not None and np.all(np.isfinite([*found[0], found[1]])) else None

    @cached_property
    def compared_here(self) -> tuple[np.ndarray, float] | None:
        """The same at the parameters, of the samples as they were given."""
        return None if self.given_samples is None else self.compared(self.given_samples, self.params)

    @cached_property
    def draws(self) -> tuple[PyTree, ...]:
        """The parameters, re-initialised ones, ones as far away as they are large, and very small ones."""
        # Outputs that a loss clips are far outside at all usual weights, and not at very small ones.
        rng = np.random.default_rng(0)
        usual = reinitialise(self.params, rng)
        small = (
            jax.tree.map(lambda x, by=by: (by * x).astype(x.dtype) if float_leaf(x) else x, usual)
            for by in (NEAR, -NEAR)
        )
        return self.params, usual, perturb(self.params, rng, 1.0), *small

    @cached_property
    def sample_programs(self) -> tuple[Any, list[int], int, int] | None:
        """The loss's program for a number of samples that no other axis has, if it takes that number.

        With it a label for each input, 0 for the parameters and others for data; that number of samples; and
        the usual one, which takes its place in texts.  None where the loss takes neither number.
        """
        samples = self.given_samples
        if samples is None:
            return None
        usual = samples.batch_size or samples.size
        leaves, tree = jax.tree.flatten(samples.batch)
        for size in (PRIME, usual):
            shapes = [jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in leaves]
            batch = next(iter(Data(jax.tree.unflatten(tree, shapes))))
            try:
                program = self.op.objective.program(batch, self.op.x)
            except Exception:  # whatever a user's loss raises for another number of samples
                continue
            num_params = len(program.jaxpr.invars) - len(shapes)
            return program, [0] * num_params + list(range(1, len(shapes) + 1)), size, usual
        return None

    @cached_property
    def mix(self) -> Mix | None:
        """An operation of the loss that mixes samples, where it takes a number of them that no axis has."""
        known = self.sample_programs
        return find_mix(*known[:3]) if known is not None and known[2] == PRIME else None


def single_rows(samples: Samples) -> np.ndarray:
    """Rows of at most MAX_SINGLE samples, always the same."""
    return np.sort(np.random.default_rng(0).permutation(samples.size)[:MAX_SINGLE])


def is_mean(alone: np.ndarray, together: float) -> bool:
    """Whether the loss of some samples is the mean of their losses, all finite."""
    return bool(abs(alone.mean() - together) <= 1e-3 * abs(together) + 1e-6 and np.all(np.isfinite(alone)))


def _check_alike(train: Samples | None, test: Samples | None) -> None:
    """Refuse test samples that differ from training samples in structure or shape."""
    if train is None or test is None:
        return
    expected, got = (
        f"batches {jax.tree.structure(part.batch)} with samples of shapes "
        f"{[leaf.shape[1:] for leaf in jax.tree.leaves(part.batch)]}"
        for part in (train, test)
    )
    if got != expected:
        raise ValueError(f"test_data must be of the same kind as data; got {got}, expected {expected}")
