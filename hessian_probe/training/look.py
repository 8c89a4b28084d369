"""A look for a way off a saddle inside a compiled training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout, PyTree, Vector, add_scaled, cast, merge, norm, scale
from hessian_probe.training.lanczos import krylov_space
from hessian_probe.training.strategies import RUNGS, STRATEGIES, best_of

# The longest step tried, over the length of the parameters (at least 1).
REACH = 2.0
# A Ritz value is a negative eigenvalue's where it lies twice the zero band below zero and its residual is at
# most half of it; as in `points.search`.
SIGN_MARGIN = 2.0
SIGN_RESIDUAL = 0.5
# A decrease must exceed this many roundings of the loss; as in `escape`.
ROUNDING = 16.0
# An escape must bring this many times what the loss fell by over the last window, and on other data at
# least this share of what it brought on its own.
WORTH = 2.0
CONFIRMED = 0.5


class Found(NamedTuple):
    """What a look found: a step, what it brings (0: nothing), the lowest curvature, if it is negative."""

    step: Vector
    gain: jax.Array
    curvature: jax.Array
    negative: jax.Array


class Look:
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
        params = merge(self.layout, cast(x, self.layout.dtypes), self.rest)
        with jax.default_matmul_precision("highest"):
            found = self._loss(params) if self.batch is None else self._loss(params, self.batch)
        return jnp.asarray(found).astype(self.dtype)

    def nothing(self) -> Found:
        """Return what a look finds where none is taken."""
        zero = jnp.zeros((), self.dtype)
        return Found(self._zeros(), zero, zero, jnp.zeros((), jnp.bool_))

    def along_curvature(self, strategy: str, key: jax.Array, fall: jax.Array, num_products: int) -> Found:
        """Look for negative curvature, and for the best of the strategy's steps.

        Args:
            strategy: a name of `STRATEGIES`.
            key: random key.
            fall: fall of the loss over the last window.
            num_products: products of the Lanczos run.

        Returns:
            What was found.
        """
        with jax.default_matmul_precision("highest"):
            (before, gradient), product = jax.linearize(jax.value_and_grad(self.value), self.x)
            length = norm(gradient)
            # Noise finds every direction; the gradient on a plateau has grown along the way out already.
            start = self._normal(key)
            start = scale(1 / norm(start), start)
            inverse = jnp.where(
                length > 0, 1 / jnp.where(length > 0, length, jnp.ones_like(length)), 0 * length
            )
            start = add_scaled(start, inverse, gradient)
            num_steps = min(num_products, self.layout.size)
            space = krylov_space(lambda v: product(v)[1], start, gradient, num_steps)
            longest = REACH * jnp.maximum(norm(self.x), 1.0)
            ladder = STRATEGIES[strategy](space, longest)
            best = best_of(space, ladder, self.x, self.value)
        negative = (space.curvature < -SIGN_MARGIN * space.band) & (
            space.residual <= SIGN_RESIDUAL * jnp.abs(space.curvature)
        )
        gain = before - best.value
        margin = ROUNDING * float(jnp.finfo(self.layout.dtype).eps) * jnp.abs(before)
        worth = negative & (gain > margin) & (gain > WORTH * jnp.maximum(fall, 0.0))
        curvature = space.curvature.astype(self.dtype)
        return Found(best.step, jnp.where(worth, gain, jnp.zeros_like(gain)), curvature, negative)

    def perturbation(self, key: jax.Array, radius: float) -> Found:
        """Draw a step uniformly from a ball (Jin et al. 2017); nothing is claimed about the loss there."""
        direction_key, length_key = jax.random.split(key)
        step = self._normal(direction_key)
        share = jax.random.uniform(length_key, (), self.dtype) ** (1 / self.layout.size)
        step = scale(radius * share / norm(step).astype(self.dtype), step)
        return self.nothing()._replace(step=step)

    def confirms(self, step: Vector, expected: jax.Array) -> jax.Array:
        """Whether a step lowers the loss here by the larger part of what it did elsewhere."""
        gain = self.value(self.x) - self.value(add_scaled(self.x, 1.0, step))
        return gain > CONFIRMED * expected

    def costs(self, strategy: str, num_products: int) -> tuple[int, int]:
        """Products and evaluations of one look."""
        if strategy not in STRATEGIES:
            return 0, 0
        return min(num_products, self.layout.size) + 1, 1 + (
            2 * RUNGS if strategy == "negative_curvature" else RUNGS
        )

    def _zeros(self) -> Vector:
        return tuple(jnp.zeros_like(leaf) for leaf in self.x)

    def _normal(self, key: jax.Array) -> Vector:
        keys = jax.random.split(key, len(self.x))
        pairs = zip(keys, self.x, strict=True)
        return tuple(jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in pairs)
