"""What this model makes of samples that it was not trained on: measured on first use."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis.case import FEWEST_LOSSES
from hessian_probe.diagnosis.reference_models import LARGE, Others
from hessian_probe.operators.samples import assign_folds
from hessian_probe.optimizers.trial_runs import best_by_adam

# One part of so many of the training data is held out of this model's own training.
PARTS = 4
# Samples below which one part is too small to tell.
SMALL_PART = 64


class Unseen(Others):
    """The problem with this model's losses on test data and on training samples held out."""

    @cached_property
    def own_held_out(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Losses of this model, trained anew on a part of the training data: of the rest, and of test data.

        Where the rest is small, each part is held out in turn; copies of a sample are kept together and
        count once.  None where there are too few samples, where the loss cannot take one, where the optimiser
        holds a part of the model fixed, or where the model does not learn its part that way.
        """
        train, test = self.samples, self.test_samples
        if train is None or test is None or min(train.size // PARTS, test.size) < FEWEST_LOSSES or self.held:
            return None
        rows = np.arange(train.size) if train.inputs is None else train.inputs
        part, first = assign_folds(rows, PARTS, np.random.default_rng(0))
        if np.sum(first) // PARTS < FEWEST_LOSSES:
            return None
        inside, outside = [], []
        for start in range(PARTS if train.size < PARTS * SMALL_PART else 1):
            out = np.flatnonzero((part == start) & first)
            kept = train.take(np.flatnonzero(part != start))
            self.num_evaluations += 2 * self.num_adam_steps
            reached, end = best_by_adam(self.loss, self._new_start, kept, self.num_adam_steps)
            here, there = self.single_losses(train.part(out), end), self.single_losses(test, end)
            if not reached < LARGE * self.trivial or here is None or there is None:
                return None
            inside.append(here)
            outside.append(there)
        return np.concatenate(inside), np.mean(outside, axis=0)

    @cached_property
    def _lowest_end(self) -> Any:
        """Parameters where the training loss was lowest: the own Adam's end, or a Newton step's; or None."""
        ends = [end for end in (self._adam_run, *self.ends) if end[1] is not None and math.isfinite(end[0])]
        return min(ends, key=lambda pair: pair[0])[1] if ends else None

    @cached_property
    def test_losses(self) -> tuple[float, float]:
        """Test loss here, and where the training loss was lowest."""
        samples, end = self.test_samples, self._lowest_end
        if samples is None or end is None:
            return float("nan"), float("nan")
        batch = jax.tree.map(jnp.asarray, samples.batch)
        value = jax.jit(self.loss)
        self.num_evaluations += 2
        return float(value(self.params, batch)), float(value(end, batch))

    @cached_property
    def test_gain(self) -> float:
        """By how many standard errors more than half of the test samples have a lower loss there; or NaN."""
        samples, end = self.test_samples, self._lowest_end
        if samples is None or end is None or samples.size < FEWEST_LOSSES:
            return float("nan")
        here, there = (self.single_losses(samples, at) for at in (self.params, end))
        if here is None or there is None:
            return float("nan")
        # A sign test: squared errors have a few large ones that decide their mean.
        lower = float(np.mean((there < here) + 0.5 * (there == here)))
        return (lower - 0.5) * 2 * math.sqrt(len(here))
