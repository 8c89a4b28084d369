"""A few steps of training on a copy, to measure what a change would bring."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import at_least_float32
from hessian_probe.operators.samples import Samples

# Steps of a trial: enough for a rate sixteen times too small to show, few enough to be cheap.
STEPS = 40
# Steps of the own Adam that show what training could still gain.
ADAM_STEPS = 200
# Own Adam, for what can be gained by any means: constants of Kingma and Ba 2015, arXiv:1412.6980.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Trial(NamedTuple):
    """Loss on the whole training data before and after some steps.

    Attributes:
        before: loss at the start.
        after: loss at the end; infinite if it was not finite.
        flips: share of consecutive full gradients, along the direction asked for, that change sign;
            NaN if none was asked for.
    """

    before: float
    after: float
    flips: float = float("nan")

    @property
    def gain(self) -> float:
        """Share of the loss that was gained; negative where it rose."""
        return (self.before - self.after) / self.before if self.before > 0 else self.before - self.after


class GradientDescent:
    """Gradient descent at rate 1, in the form of an optax transformation."""

    @staticmethod
    def update(gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """The negative gradient."""
        return jax.tree.map(lambda g: -g, gradient), state


def float_leaf(leaf: Any) -> bool:
    """Whether a leaf is trained."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def takes_value(optimizer: Any) -> bool:
    """Whether an optimiser may ask for the loss beside the gradient."""
    return "ExtraArgs" in type(optimizer).__name__


def zeros(params: Any) -> Any:
    """Zeros in place of what is trained."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if float_leaf(leaf) else leaf, params)


def moved(params: Any, updates: Any) -> Any:
    """Add updates where there are any."""

    def leaf(x: Any, u: Any) -> Any:
        return x + u.astype(x.dtype) if float_leaf(x) else x

    return jax.tree.map(leaf, params, updates)


class TrialRunner:
    """Steps of the user's optimiser from a copy of its state, with every update multiplied by a factor.

    Multiplying the update is the same as multiplying the learning rate.

    Args:
        loss: `loss(params, batch)`.
        optimizer: the optax transformation.
        samples: the training data.
        batch_size: samples in a step; None takes all of them.
        count: number of steps.
        pull: whether the optimiser sees the parameters, and so can let weights decay; else it sees zeros.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        optimizer: Any,
        samples: Samples,
        batch_size: int | None,
        count: int,
        *,
        pull: bool = True,
    ) -> None:
        self.loss, self.samples = loss, samples
        self.batch = jax.tree.map(jnp.asarray, samples.batch)
        self.index = _order(samples.size, batch_size, count)
        told = takes_value(optimizer)

        @jax.jit
        def run(params: Any, state: Any, factor: Any, data: Any, index: Any, direction: Any) -> Any:
            def step(carry: Any, rows: Any) -> Any:
                at, inner = carry
                batch = data if rows is None else jax.tree.map(lambda leaf: leaf[rows], data)
                value, gradient = jax.value_and_grad(loss, allow_int=True)(at, batch)
                slope = sum(
                    jnp.vdot(d, g) for d, g in zip(direction, jax.tree.leaves(gradient), strict=False)
                )
                keywords = {"value": value} if told else {}
                seen = at if pull else zeros(at)
                updates, inner = optimizer.update(gradient, inner, seen, **keywords)
                scaled = jax.tree.map(lambda u: u * jnp.asarray(factor, u.dtype), updates)
                return (moved(at, scaled), inner), jnp.asarray(slope, jnp.float32)

            length = None if index is not None else count
            (end, _), slopes = jax.lax.scan(step, (params, state), index, length=length)
            return end, loss(end, data), slopes

        self._run = run

    def run(
        self, params: Any, state: Any, before: float, factor: float = 1.0, direction: Any = None
    ) -> Trial:
        """Take the steps.

        Args:
            params: start.
            state: state of the optimiser.
            before: loss there.
            factor: multiplies every update.
            direction: leaves of a direction along which the gradient's sign is followed.

        Returns:
            Trial.
        """
        leaves = () if direction is None else tuple(jax.tree.leaves(direction))
        _, after, slopes = self._run(params, state, factor, self.batch, self.index, leaves)
        value = float(after)
        flips = float("nan")
        if direction is not None:
            signs = np.sign(np.asarray(slopes, np.float64))
            flips = float(np.mean(signs[1:] * signs[:-1] < 0))
        return Trial(before, value if np.isfinite(value) else float("inf"), flips)


def _order(count: int, batch_size: int | None, steps: int) -> Any:
    """Rows of each step, from reshuffled passes over the data; None for all of them."""
    if batch_size is None or batch_size >= count:
        return None
    rng = np.random.default_rng(0)
    passes = -(-steps * batch_size // (count - count % batch_size))
    rows = np.concatenate([rng.permutation(count)[: count - count % batch_size] for _ in range(passes)])
    return jnp.asarray(rows[: steps * batch_size].reshape(steps, batch_size))


@partial(jax.jit, static_argnums=(0, 4))
def _adam(loss: Callable[..., Any], params: Any, batch: Any, rate: Any, steps: int) -> tuple[Any, Any]:
    """The best loss seen in some steps of Adam on one batch, and where it ended."""
    leaves, structure = jax.tree.flatten(params)
    trained = [float_leaf(leaf) for leaf in leaves]

    def whole(values: Any) -> Any:
        free = iter(values)
        merged = [next(free) if on else leaf for leaf, on in zip(leaves, trained, strict=True)]
        return jax.tree.unflatten(structure, merged)

    def value(values: Any) -> Any:
        return loss(whole(values), batch)

    start = [leaf for leaf, on in zip(leaves, trained, strict=True) if on]
    # In half precision ε is zero, and the squares of small gradients are.
    zero = [jnp.zeros(leaf.shape, at_least_float32(leaf.dtype)) for leaf in start]

    def step(carry: Any, count: Any) -> Any:
        at, mean, square, best = carry
        now, gradient = jax.value_and_grad(value)(at)
        gradient = [g.astype(m.dtype) for g, m in zip(gradient, mean, strict=True)]
        mean = [(BETA1 * m + (1 - BETA1) * g).astype(g.dtype) for m, g in zip(mean, gradient, strict=True)]
        square = [
            (BETA2 * s + (1 - BETA2) * g * g).astype(g.dtype) for s, g in zip(square, gradient, strict=True)
        ]
        size = jnp.sqrt(1 - BETA2**count) / (1 - BETA1**count)
        at = [
            (x.astype(m.dtype) - (rate * size).astype(m.dtype) * m / (jnp.sqrt(s) + EPSILON)).astype(x.dtype)
            for x, m, s in zip(at, mean, square, strict=True)
        ]
        return (at, mean, square, jnp.where(now < best, now, best)), None

    counts = jnp.arange(1, steps + 1, dtype=jnp.float32)
    first = value(start)
    (end, _, _, best), _ = jax.lax.scan(step, (start, zero, zero, first), counts)
    last = value(end)
    return jnp.where(last < best, last, best), whole(end)


# Rates tried by the own Adam: ten times the usual one, and the usual one (Kingma and Ba 2015).
RATES = (1e-3, 1e-2)


def best_by_adam(loss: Callable[..., Any], params: Any, batch: Any, steps: int) -> tuple[float, Any]:
    """Lowest loss that Adam sees in some steps, the better of two rates, and where that run ended.

    Args:
        loss: `loss(params, batch)`.
        params: start.
        batch: the data, all of it used in each step.
        steps: number of steps for each rate.

    Returns:
        The loss (NaN where none was finite) and the parameters.
    """
    arrays = jax.tree.map(jnp.asarray, batch)
    found = [_adam(loss, params, arrays, jnp.float32(rate), steps) for rate in RATES]
    losses = [float(best) for best, _ in found]
    if not np.any(np.isfinite(losses)):
        return float("nan"), found[0][1]
    return float(np.nanmin(losses)), found[int(np.nanargmin(losses))][1]


# Size of a small displacement, over that of the leaf or of one that is drawn anew, whichever is larger.
SMALL = 0.01


def perturb(params: Any, rng: np.random.Generator) -> Any:
    """Parameters with a little noise on each entry, those of leaves of zeros too.

    Args:
        params: pytree.
        rng: source of the noise.

    Returns:
        A pytree like `params`.
    """

    def leaf(x: Any) -> Any:
        if not float_leaf(x):
            return x
        array = np.asarray(x, np.float64)
        usual = 1 / np.sqrt(array.shape[-2]) if array.ndim > 1 else 1.0
        size = SMALL * max(float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0, usual)
        return jnp.asarray(array + size * rng.standard_normal(array.shape), x.dtype)

    return jax.tree.map(leaf, params)


# A leaf whose entries lie around 1 by this many of their deviations is a gain, as of layer norm.
EVEN = 3.0


def reinitialise(params: Any, rng: np.random.Generator) -> Any:
    """Parameters as a usual start has them: weights drawn, biases zero, gains one.

    Args:
        params: pytree; only shapes count, and whether entries lie around 1.
        rng: source of the weights.

    Returns:
        A pytree like `params`.  Weights have variance 2 / (inputs + outputs): Glorot and Bengio 2010,
        equation 16; the leading axes of a kernel multiply both.
    """

    def leaf(x: Any) -> Any:
        if not float_leaf(x) or np.ndim(x) == 0:
            return x
        array = np.asarray(x, np.float64)
        if 0.5 < array.mean() < 2 and array.mean() > EVEN * array.std():
            return jnp.ones_like(x)
        if array.ndim == 1:
            return jnp.zeros_like(x)
        ends = np.prod(array.shape[:-2], dtype=float) * (array.shape[-2] + array.shape[-1])
        return jnp.asarray(rng.standard_normal(array.shape) * np.sqrt(2 / ends), x.dtype)

    return jax.tree.map(leaf, params)
