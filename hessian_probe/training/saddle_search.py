"""A look for a way off a saddle inside a compiled training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout, PyTree, Vector, add_scaled, cast, dot, merge, norm, scale
from hessian_probe.spectrum.traced_krylov import krylov_space
from hessian_probe.training.backoff import cost_in_gradients
from hessian_probe.training.descent import TRIALS, TrialValues, best_trial, steepest_descent
from hessian_probe.training.random_restart import DEGENERATE, DISPLACEMENT, HOPE, random_restart
from hessian_probe.training.trial_steps import DEFAULT, NUM_TRIALS, STRATEGIES, best_of, trial_lengths

# The longest step tried, over the length of the parameters (at least 1).
REACH = 2.0
# A decrease must exceed this many roundings of the loss and of the variables; the former as in `escape`.
ROUNDING = 16.0
# An escape must bring this many times what training brings within a window, and what the slope would bring
# at the best rate; and on other data at least this share of what it brought on its own.
WORTH = 2.0
CONFIRMED = 0.5


class SearchResult(NamedTuple):
    """What a look found, and what it cost.

    Attributes:
        step: displacement.
        gain: what it brings; 0 for nothing.
        curvature: lowest curvature; NaN where no products were spent.
        ratio: that ÷ ‖H‖, likewise.
        num_hvps: products.
        num_gradients: gradients.
        num_evaluations: losses.
    """

    step: Vector
    gain: jax.Array
    curvature: jax.Array
    ratio: jax.Array
    num_hvps: jax.Array
    num_gradients: jax.Array
    num_evaluations: jax.Array


class _FirstStep(NamedTuple):
    """A first step, the loss there, whether it may be taken; curvature, ‖H‖, and the products it took."""

    step: Vector
    value: jax.Array
    leaves: jax.Array
    curvature: jax.Array
    size: jax.Array
    negative: jax.Array
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
        """What rounding of the loss changes it by, or half a spacing of the variables if that is more."""
        eps = (float(jnp.finfo(dtype).eps) / 2 for dtype in self.layout.dtypes)
        parts = zip(eps, self._normal(key), self.x, strict=True)
        change = jnp.abs(self.value(tuple(x + e * x * jnp.sign(n) for e, n, x in parts)) - before)
        return jnp.maximum(self._eps() * jnp.abs(before), jnp.where(jnp.isfinite(change), change, 0.0))

    def no_result(self) -> SearchResult:
        """Return what a look finds where none is taken."""
        zero, none = jnp.zeros((), self.dtype), jnp.zeros((), jnp.int32)
        return SearchResult(self._zeros(), zero, zero, zero, none, none, none)

    def search(
        self,
        strategy: str,
        key: jax.Array,
        fall: jax.Array,
        num_products: int,
        spend_products: jax.Array,
        restarts: jax.Array | None = None,
    ) -> SearchResult:
        """Look for a way down that training does not see.

        With the default strategy, first for a long step along the gradient that bends down (see
        `training.slide`), which costs no products; then, if that finds nothing, for the best step along
        negative curvature; then on downhill from there while it pays; or else a kick (see `training.kick`).
        The other strategies are their own steps alone.

        Args:
            strategy: a name of `STRATEGIES`.
            key: random key.
            fall: what training itself brings within a window.
            num_products: products of the Lanczos run; with 0 of the default strategy none is compiled.
            spend_products: whether to spend products at all.
            restarts: whether to try a kick where they show no way; None for never, which compiles less.

        Returns:
            What was found.
        """
        default = strategy == DEFAULT
        with jax.default_matmul_precision("highest"):
            before, gradient = jax.value_and_grad(self.value)(self.x)
            margin = ROUNDING * self._rounding(key, before)
            enough = jnp.maximum(margin, WORTH * fall)
            longest = REACH * jnp.maximum(norm(self.x), 1.0)

            def curved(enough: jax.Array) -> _FirstStep:
                return self._along_curvature(strategy, key, before, gradient, margin, enough, num_products)

            if not default:
                way, spent = (
                    jax.lax.cond(spend_products, lambda: curved(enough), self._no_way),
                    spend_products,
                )
            else:
                way = straight = self._along_gradient(before, gradient, longest, margin, enough)
                spent = spend_products & ~straight.leaves & (num_products > 0)
                # What a longer step along the gradient brings, a larger rate would: a slope, no saddle.
                slope = jnp.maximum(before - straight.value, 0.0)
                more = jnp.maximum(enough, WORTH * slope)
                if num_products > 0:
                    way = jax.lax.cond(spent, lambda: curved(more), lambda: straight)
            gradients = 1 + spent.astype(jnp.int32)
            evaluations = 1 + NUM_TRIALS * int(default) + self._num_trials(strategy) * spent.astype(jnp.int32)
            step, value = way.step, way.value
            if default:
                descent = steepest_descent(self.value, self.x, before, step, value, way.leaves)
                step, value = descent.step, descent.value
                gradients, evaluations = gradients + descent.num_passes, evaluations + descent.num_evaluations
            if default and restarts is not None:
                go = restarts & ~(way.curvature > DEGENERATE * way.size)
                beyond = jnp.where(way.leaves, before - value, 0.0)
                restarted = random_restart(
                    self.value, self.x, before, self._random_displacement(key), enough, beyond, go
                )
                gradients = gradients + restarted.num_passes
                evaluations = evaluations + restarted.num_evaluations
                step = jax.tree.map(lambda a, b: jnp.where(restarted.leaves, a, b), restarted.step, step)
                value = jnp.where(restarted.leaves, restarted.value, value)
                way = way._replace(leaves=way.leaves | restarted.leaves)
        gain = jnp.where(way.leaves, before - value, jnp.zeros_like(before))
        # Where no product moves anything all curvature is zero; where none was spent the size is NaN.
        ratio = jnp.where(way.size == 0, jnp.zeros_like(way.size), way.curvature / way.size)
        return SearchResult(step, gain, way.curvature, ratio, way.num_hvps, gradients, evaluations)

    def _along_gradient(
        self, before: jax.Array, gradient: Vector, longest: jax.Array, margin: jax.Array, enough: jax.Array
    ) -> _FirstStep:
        """Take a long step along the gradient, if it bends down."""
        size = norm(gradient)
        inverse = jnp.where(size > 0, -1 / jnp.where(size > 0, size, jnp.ones_like(size)), 0 * size)
        unit = scale(inverse, gradient)
        lengths = longest * trial_lengths(longest.dtype)
        values = jax.lax.map(lambda t: self.value(add_scaled(self.x, t, unit)), lengths)
        rung = best_trial(TrialValues(lengths, values, -size), before, margin)
        leaves = rung.bent & (before - rung.value > enough)
        nan = jnp.full((), jnp.nan, self.dtype)
        none = jnp.zeros((), jnp.int32)
        return _FirstStep(scale(rung.length, unit), rung.value, leaves, nan, nan, leaves, none)

    def _along_curvature(
        self,
        strategy: str,
        key: jax.Array,
        before: jax.Array,
        gradient: Vector,
        margin: jax.Array,
        enough: jax.Array,
        num_products: int,
    ) -> _FirstStep:
        """Take the best of the strategy's steps, if there is negative curvature or the step bends down."""
        _, product = jax.linearize(jax.grad(self.value), self.x)
        length = norm(gradient)
        # Noise finds every direction; the gradient on a plateau has grown along the way out already.
        start = self._normal(key)
        start = scale(1 / norm(start), start)
        inverse = jnp.where(length > 0, 1 / jnp.where(length > 0, length, jnp.ones_like(length)), 0 * length)
        start = add_scaled(start, inverse, gradient)
        num_steps = self._num_steps(num_products)
        space = krylov_space(product, start, gradient, num_steps, ends_early=strategy == DEFAULT)
        longest = REACH * jnp.maximum(norm(self.x), 1.0)
        ladder = STRATEGIES[strategy](space, longest)
        best = best_of(space, ladder, self.x, self.value)
        negative = space.negative
        if strategy == DEFAULT:
            lengths = ladder.inside[:, 0]
            rung = best_trial(TrialValues(lengths, best.values, dot(gradient, space.lowest)), before, margin)
            negative = negative | rung.bent
        leaves = negative & (before - best.value > enough)
        curvature = space.curvature.astype(self.dtype)
        size = space.norm.astype(self.dtype)
        return _FirstStep(best.step, best.value, leaves, curvature, size, negative, space.num_products)

    def _no_way(self) -> _FirstStep:
        zero, no = jnp.zeros((), self.dtype), jnp.zeros((), jnp.bool_)
        nan = jnp.full((), jnp.nan, self.dtype)
        return _FirstStep(self._zeros(), zero, no, nan, nan, no, jnp.zeros((), jnp.int32))

    def perturbation(self, key: jax.Array, radius: float) -> SearchResult:
        """Draw a step uniformly from a ball (Jin et al. 2017); nothing is claimed about the loss there."""
        direction_key, length_key = jax.random.split(key)
        step = self._normal(direction_key)
        share = jax.random.uniform(length_key, (), self.dtype) ** (1 / self.layout.size)
        step = scale(radius * share / norm(step).astype(self.dtype), step)
        return self.no_result()._replace(step=step)

    def confirms(self, step: Vector, expected: jax.Array) -> jax.Array:
        """Whether a step lowers the loss here by the larger part of what it did elsewhere."""
        gain = self.value(self.x) - self.value(add_scaled(self.x, 1.0, step))
        return gain > CONFIRMED * expected

    def price(self, strategy: str, num_products: int, spend_products: bool, restarts: bool = False) -> float:
        """Gradients that a look which finds nothing costs at most."""
        if strategy not in STRATEGIES:
            return 0.0
        gradients, evaluations, products = 1, 1 + NUM_TRIALS * (strategy == DEFAULT), 0
        if spend_products:
            gradients, products = 2, self._num_steps(num_products) + 1
            evaluations += self._num_trials(strategy)
        if restarts:
            gradients, evaluations = gradients + HOPE, evaluations + 1 + TRIALS * HOPE
        return cost_in_gradients(products, gradients, evaluations)

    def _num_steps(self, num_products: int) -> int:
        return min(num_products, self.layout.size)

    def _num_trials(self, strategy: str) -> int:
        return 2 * NUM_TRIALS if strategy == DEFAULT else NUM_TRIALS

    def _zeros(self) -> Vector:
        return tuple(jnp.zeros_like(leaf) for leaf in self.x)

    def _random_displacement(self, key: jax.Array) -> Vector:
        """A random displacement of each leaf, KICK times as long as the leaf."""
        pairs = zip(self._normal(key), self.x, strict=True)
        return tuple(scale(DISPLACEMENT * norm((x,)) / norm((n,)), (n,))[0] for n, x in pairs)

    def _normal(self, key: jax.Array) -> Vector:
        keys = jax.random.split(key, len(self.x))
        pairs = zip(keys, self.x, strict=True)
        return tuple(jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in pairs)
