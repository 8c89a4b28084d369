"""The search for a lower loss around a saddle, inside a compiled training step.

Three sources of a step: a long step along the gradient; where that fails, one along negative curvature; and,
where it is asked for and within the budget, a random restart.  A descent continues from the first two.

At a saddle where every curvature is lost in rounding (all layers of a deep network near zero) the gradient
still shows the direction, and only a long step shows how far the loss falls along it.  What distinguishes it
from a slope is the bend: f(x + t·u) < f(x) − t·s, with s the slope at x, needs negative curvature between x
and x + t·u (mean value theorem), however small the curvature is at x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Layout, PyTree, Vector, add_scaled, cast, dot, merge, norm, scale
from hessian_probe.spectrum.traced_krylov import KrylovSpace, krylov_space
from hessian_probe.training.backoff import cost_in_gradients
from hessian_probe.training.descent import TRIALS, descend
from hessian_probe.training.random_restart import DISPLACEMENT, FLAT_RATIO, HOPE, random_restart

# The longest step tried, over the length of the parameters (at least 1).
REACH = 2.0
# A decrease must exceed this many rounding errors of the loss and of the variables; of the loss as in
# `escape`.
GAIN_ROUNDINGS = 16.0
# Accept a step only if its loss decrease exceeds WORTH times both the decrease of the last window and that of
# the best gradient step, and if at least CONFIRMED of it is reproduced on a held-out batch.
WORTH = 2.0
CONFIRMED = 0.5
# Trial lengths: each is half of the one before. From twice the scale of the parameters down to 1/256 of it;
# escapes on the plateaus of `benchmarks.truth_points` take 0.05 to 1.3 of the scale.
NUM_TRIALS = 10
# A step bends down where the loss falls by this many times slope · length.  Measured on the plateaus of
# `benchmarks.escape`: 2.4 to 8,000 at their start, 0.2 to 1.1 on the slopes behind them.
BENT = 2.0


class BestTrial(NamedTuple):
    """The best of some lengths, the loss there, and whether the loss bends down between."""

    length: jax.Array
    value: jax.Array
    bent: jax.Array


def trial_lengths(dtype: Any) -> jax.Array:
    """Lengths over the longest: 1, 1/2, 1/4 …, shape (NUM_TRIALS,)."""
    return jnp.asarray(0.5 ** np.arange(NUM_TRIALS), dtype)


def best_trial(
    lengths: jax.Array, values: jax.Array, slope: jax.Array, before: jax.Array, margin: jax.Array
) -> BestTrial:
    """Choose the lowest value, and test whether the loss bends down to it without a barrier.

    Args:
        lengths: along a unit direction, signed.
        values: loss at each; those that are not finite are not taken.
        slope: along the direction, at length 0.
        before: loss at length 0.
        margin: differences below it are rounding errors.

    Returns:
        The best trial.
    """
    values = jnp.where(jnp.isfinite(values), values, jnp.full_like(values, jnp.inf))
    best = jnp.argmin(values)
    length, value = lengths[best], values[best]
    nearer = (lengths * jnp.sign(length) > 0) & (jnp.abs(lengths) < jnp.abs(length))
    barrier = jnp.any(nearer & (values > before + margin))
    explained = jnp.maximum(-slope.astype(value.dtype) * length.astype(value.dtype), 0.0)
    return BestTrial(length, value, (before - value > margin + BENT * explained) & ~barrier)


class SearchResult(NamedTuple):
    """What a search found, and what it cost.

    Attributes:
        step: displacement.
        gain: decrease of the loss; 0 where no step is accepted.
        curvature: lowest curvature; NaN where no products were spent.
        ratio: lowest curvature ÷ ‖H‖, likewise.
        num_hvps: products.
        num_gradients: gradients.
        num_losses: losses.
    """

    step: Vector
    gain: jax.Array
    curvature: jax.Array
    ratio: jax.Array
    num_hvps: jax.Array
    num_gradients: jax.Array
    num_losses: jax.Array


class FirstStep(NamedTuple):
    """A first step, the loss there, whether it may be taken; lowest curvature, ‖H‖, and products spent."""

    step: Vector
    value: jax.Array
    leaves: jax.Array
    curvature: jax.Array
    norm: jax.Array
    num_hvps: jax.Array


class LocalLoss:
    """The loss around the parameters of one training step.

    Args:
        loss: `loss(params)` or `loss(params, batch)`.
        layout: layout of the parameters.
        x: variables, in working dtypes.
        rest: the parameters' other arrays.
        batch: the step's batch, or None.
        dtype: of values.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        layout: Layout,
        x: Vector,
        rest: tuple[Any, ...],
        batch: PyTree,
        dtype: Any,
    ) -> None:
        self.layout, self.x, self.rest, self.batch, self.dtype = layout, x, rest, batch, dtype
        self._loss = loss

    def value(self, x: Vector) -> jax.Array:
        """Loss at `x`, as training sees it: with the parameters' own dtypes."""
        return self._own(x).astype(self.dtype)

    def _own(self, x: Vector) -> jax.Array:
        params = merge(self.layout, cast(x, self.layout.dtypes), self.rest)
        with jax.default_matmul_precision("highest"):
            return jnp.asarray(self._loss(params) if self.batch is None else self._loss(params, self.batch))

    def _eps(self) -> float:
        """Rounding of the parameters' dtype or of the loss's own, whichever is coarser."""
        own = jax.eval_shape(self._own, self.x).dtype
        return max(float(jnp.finfo(dtype).eps) for dtype in (self.layout.dtype, own))

    def _rounding(self, key: jax.Array, before: jax.Array) -> jax.Array:
        """Rounding error of the loss, or its change over half a spacing of the variables if that is more."""
        eps = (float(jnp.finfo(dtype).eps) / 2 for dtype in self.layout.dtypes)
        parts = zip(eps, self._normal(key), self.x, strict=True)
        change = jnp.abs(self.value(tuple(x + e * x * jnp.sign(n) for e, n, x in parts)) - before)
        return jnp.maximum(self._eps() * jnp.abs(before), jnp.where(jnp.isfinite(change), change, 0.0))

    def no_result(self) -> SearchResult:
        """Return what stands for a search where none is made."""
        zero, none = jnp.zeros((), self.dtype), jnp.zeros((), jnp.int32)
        return SearchResult(self._zeros(), zero, zero, zero, none, none, none)

    def search(
        self,
        key: jax.Array,
        decrease: jax.Array,
        num_products: int,
        spend_products: jax.Array,
        restarts: jax.Array | None = None,
    ) -> SearchResult:
        """Search for a lower loss that training does not reach by itself.

        First for a long step along the gradient that bends down (`best_trial`), which costs no products; if
        there is none, for the best step along negative curvature; from that step on by steepest descent while
        it pays.  Last, a random restart.

        Args:
            key: random key.
            decrease: what training itself lowers the loss by within a window.
            num_products: products of the Lanczos run; with 0 none is compiled.
            spend_products: whether to spend products at all.
            restarts: whether to try a random restart where the curvature is not clearly positive; None for
                never, which compiles less.

        Returns:
            What was found.
        """
        with jax.default_matmul_precision("highest"):
            before, gradient = jax.value_and_grad(self.value)(self.x)
            margin = GAIN_ROUNDINGS * self._rounding(key, before)
            enough = jnp.maximum(margin, WORTH * decrease)
            first = straight = self._along_gradient(before, gradient, margin, enough)
            spent = spend_products & ~straight.leaves & (num_products > 0)
            # What a longer step along the gradient gains, a larger rate would: a slope, no saddle.
            slope = jnp.maximum(before - straight.value, 0.0)
            more = jnp.maximum(enough, WORTH * slope)
            if num_products > 0:
                first = jax.lax.cond(
                    spent,
                    lambda: self._along_curvature(key, before, gradient, margin, more, num_products),
                    lambda: straight,
                )
            descent = descend(self.value, self.x, before, first.step, first.value, first.leaves)
            step, value, leaves = descent.step, descent.value, first.leaves
            gradients = 1 + spent.astype(jnp.int32) + descent.num_passes
            evaluations = 1 + NUM_TRIALS + 2 * NUM_TRIALS * spent.astype(jnp.int32) + descent.num_losses
            if restarts is not None:
                go = restarts & ~(first.curvature > FLAT_RATIO * first.norm)
                beyond = jnp.where(leaves, before - value, 0.0)
                restarted = random_restart(
                    self.value, self.x, before, self._random_displacement(key), enough, beyond, go
                )
                gradients = gradients + restarted.num_passes
                evaluations = evaluations + restarted.num_losses
                step = jax.tree.map(lambda a, b: jnp.where(restarted.leaves, a, b), restarted.step, step)
                value = jnp.where(restarted.leaves, restarted.value, value)
                leaves = leaves | restarted.leaves
        gain = jnp.where(leaves, before - value, jnp.zeros_like(before))
        return self._result(step, gain, first, gradients, evaluations)

    def _result(
        self, step: Vector, gain: jax.Array, first: FirstStep, gradients: jax.Array, evaluations: jax.Array
    ) -> SearchResult:
        # Where no product moves anything all curvature is zero; where none was spent the norm is NaN.
        ratio = jnp.where(first.norm == 0, jnp.zeros_like(first.norm), first.curvature / first.norm)
        return SearchResult(step, gain, first.curvature, ratio, first.num_hvps, gradients, evaluations)

    def _along_gradient(
        self, before: jax.Array, gradient: Vector, margin: jax.Array, enough: jax.Array
    ) -> FirstStep:
        """Take a long step along the gradient, if it bends down."""
        size = norm(gradient)
        unit = scale(-_inverse(size), gradient)
        best = self._best_length(unit, self._lengths(size.dtype), -size, before, margin)
        leaves = best.bent & (before - best.value > enough)
        return self.first_step(scale(best.length, unit), best.value, leaves)

    def _along_curvature(
        self,
        key: jax.Array,
        before: jax.Array,
        gradient: Vector,
        margin: jax.Array,
        enough: jax.Array,
        num_products: int,
    ) -> FirstStep:
        """Take the best step along the lowest Ritz vector, if that is negative curvature or bends down."""
        space = self.krylov_space(key, gradient, num_products, ends_early=True)
        lengths = self._lengths(space.values.dtype)
        lengths = jnp.concatenate([lengths, -lengths])
        slope = dot(gradient, space.lowest)
        best = self._best_length(space.lowest, lengths, slope, before, margin)
        leaves = (space.negative | best.bent) & (before - best.value > enough)
        return self.first_step(scale(best.length, space.lowest), best.value, leaves, space)

    def first_step(
        self, step: Vector, value: jax.Array, leaves: jax.Array, space: KrylovSpace | None = None
    ) -> FirstStep:
        """Return a first step with what its Krylov space shows of the curvature, if it has one."""
        if space is None:
            nan = jnp.full((), jnp.nan, self.dtype)
            return FirstStep(step, value, leaves, nan, nan, jnp.zeros((), jnp.int32))
        curvature, size = space.curvature.astype(self.dtype), space.norm.astype(self.dtype)
        return FirstStep(step, value, leaves, curvature, size, space.num_products)

    def krylov_space(
        self, key: jax.Array, gradient: Vector, num_products: int, *, ends_early: bool
    ) -> KrylovSpace:
        """Run Lanczos from a random direction and the gradient."""
        _, product = jax.linearize(jax.grad(self.value), self.x)
        # A random vector has a component along every eigenvector; the gradient on a plateau has already grown
        # along the direction of escape.
        start = self._normal(key)
        start = scale(1 / norm(start), start)
        start = add_scaled(start, _inverse(norm(gradient)), gradient)
        return krylov_space(product, start, self._num_steps(num_products), ends_early=ends_early)

    def _best_length(
        self, unit: Vector, lengths: jax.Array, slope: jax.Array, before: jax.Array, margin: jax.Array
    ) -> BestTrial:
        values = jax.lax.map(lambda t: self.value(add_scaled(self.x, t, unit)), lengths)
        return best_trial(lengths, values, slope, before, margin)

    def longest(self) -> jax.Array:
        """Return the longest step to try, in params."""
        return REACH * jnp.maximum(norm(self.x), 1.0)

    def _lengths(self, dtype: Any) -> jax.Array:
        return self.longest() * trial_lengths(dtype)

    def confirms(self, step: Vector, claimed: jax.Array) -> jax.Array:
        """Whether a step lowers the loss here by more than CONFIRMED of what it did on another batch."""
        gain = self.value(self.x) - self.value(add_scaled(self.x, 1.0, step))
        return gain > CONFIRMED * claimed

    def price(self, num_products: int, spend_products: bool, restarts: bool = False) -> float:
        """Gradients that a search which finds nothing costs at most."""
        gradients, evaluations, products = 1, 1 + NUM_TRIALS, 0
        if spend_products:
            gradients, products = 2, self._num_steps(num_products) + 1
            evaluations += 2 * NUM_TRIALS
        if restarts:
            gradients, evaluations = gradients + HOPE, evaluations + 1 + TRIALS * HOPE
        return cost_in_gradients(products, gradients, evaluations)

    def _num_steps(self, num_products: int) -> int:
        return min(num_products, self.layout.size)

    def _zeros(self) -> Vector:
        return tuple(jnp.zeros_like(leaf) for leaf in self.x)

    def _random_displacement(self, key: jax.Array) -> Vector:
        """A random displacement of each leaf, DISPLACEMENT times as long as the leaf."""
        pairs = zip(self._normal(key), self.x, strict=True)
        return tuple(scale(DISPLACEMENT * norm((x,)) / norm((n,)), (n,))[0] for n, x in pairs)

    def _normal(self, key: jax.Array) -> Vector:
        keys = jax.random.split(key, len(self.x))
        pairs = zip(keys, self.x, strict=True)
        return tuple(jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in pairs)


def _inverse(length: jax.Array) -> jax.Array:
    """Return 1 / length, and 0 for length 0."""
    return jnp.where(length > 0, 1 / jnp.where(length > 0, length, jnp.ones_like(length)), 0 * length)
