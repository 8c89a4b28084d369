"""Runs of an optimiser on a copy of the parameters, to measure what a change of the training would gain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import (
    PyTree,
    add_scaled,
    at_least_float32,
    cast,
    from_tangent,
    merge,
    tangent,
    widest,
)
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.optimizers.optax_state import call_update
from hessian_probe.optimizers.samples import Samples
from hessian_probe.optimizers.thresholds import ADAM_RATES, GAIN_DEVIATIONS, GAIN_MEAN, PERTURBATION
from hessian_probe.results import Cost

NO_OPTAX = "optax: pip install 'hessian_probe[optax]'"


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


def float_leaf(leaf: Any) -> bool:
    """Whether a leaf is trained."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def map_trained(change: Callable[..., Any], params: PyTree, *rest: PyTree) -> PyTree:
    """Change the leaves that are trained."""
    return jax.tree.map(lambda x, *other: change(x, *other) if float_leaf(x) else x, params, *rest)


def zeros(params: PyTree) -> PyTree:
    """Zeros in place of what is trained."""
    return map_trained(jnp.zeros_like, params)


def _trained(tree: PyTree) -> list[jax.Array]:
    """Leaves that are trained, in at least float32."""
    return [x.astype(at_least_float32(x.dtype)) for x in jax.tree.leaves(tree) if float_leaf(x)]


def _descend(tree: PyTree, steps: Sequence[jax.Array]) -> PyTree:
    """A tree with minus the steps in place of the leaves that are trained."""
    left = iter(steps)
    return map_trained(lambda _: -next(left), tree)


class HeavyBall:
    """Heavy ball v ← βv + g, x ← x − rate·v, in the form of an optax transformation.

    Args:
        momentum: β; 0 is gradient descent.
        rates: the rate of each variable, a pytree like the parameters; None for 1.
    """

    def __init__(self, momentum: float = 0.0, rates: PyTree = None) -> None:
        self.momentum, self.rates = momentum, None if rates is None else _trained(rates)

    def init(self, params: PyTree) -> list[jax.Array]:
        """A velocity of zero."""
        return [jnp.zeros_like(x) for x in _trained(params)]

    def update(self, gradient: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        """The step, and the new velocity."""
        velocity = add_scaled(tuple(_trained(gradient)), self.momentum, tuple(state))
        step = velocity
        if self.rates is not None:
            step = tuple(rate * v for rate, v in zip(self.rates, velocity, strict=True))
        return _descend(gradient, step), list(velocity)


class Adam:
    """Optax's Adam at rate 1, on what is trained alone, with moments in at least float32.

    In half precision its ε would be zero, and so would be the squares of small gradients.  ε is added to the
    uncorrected √ν, as at the end of section 2 of Kingma and Ba 2015 (arXiv:1412.6980): first steps are then
    proportional to gradients below ε / √(1 − β₂).

    Raises:
        ImportError: optax is not installed.
    """

    B2, EPSILON = 0.999, 1e-8

    def __init__(self) -> None:
        try:
            import optax
        except ImportError as error:
            raise ImportError(f"training a copy with Adam needs {NO_OPTAX}") from error
        self._scale_by_adam = optax.scale_by_adam

    def init(self, params: PyTree) -> Any:
        """Moments of zero."""
        return self._scale_by_adam().init(_trained(params))

    def update(self, gradient: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        """The step, and the new moments."""
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes inside
            epsilon = self.EPSILON / jnp.sqrt(1 - self.B2 ** jnp.float32(state.count + 1))
            adam = self._scale_by_adam(b2=self.B2, eps=epsilon)
            steps, state = adam.update(_trained(gradient), state)
        return _descend(gradient, steps), state


def take_step(
    optimizer: Any,
    params: PyTree,
    state: Any,
    value: Any,
    gradient: PyTree,
    factor: Any = 1.0,
    *,
    pull: bool = True,
) -> tuple[PyTree, Any]:
    """Parameters and state after one step, its update times `factor`; no weight decays without `pull`."""
    updates, state = call_update(optimizer, gradient, state, params if pull else zeros(params), value)

    def moved(x: Any, u: Any) -> Any:
        dtype = at_least_float32(widest((x.dtype, u.dtype)))
        return (x.astype(dtype) + jnp.asarray(factor).astype(dtype) * u.astype(dtype)).astype(x.dtype)

    return map_trained(moved, params, updates), state


def _compiled(
    loss: Callable[..., Any], optimizer: Any, count: int, *, pull: bool = True
) -> Callable[..., Any]:
    """Some steps as one compiled function: where they end, the losses on the way, the last loss, slopes."""

    @jax.jit
    def run(params: Any, state: Any, factor: Any, data: Any, index: Any, direction: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            at, inner = carry
            batch = data if rows is None else jax.tree.map(lambda leaf: leaf[rows], data)
            value, gradient = jax.value_and_grad(loss, allow_int=True)(at, batch)
            slope = sum(jnp.vdot(d, g) for d, g in zip(direction, jax.tree.leaves(gradient), strict=False))
            reached = take_step(optimizer, at, inner, value, gradient, factor, pull=pull)
            return reached, (value, jnp.asarray(slope, jnp.float32))

        length = None if index is not None else count
        (end, _), (values, slopes) = jax.lax.scan(step, (params, state), index, length=length)
        return end, values, loss(end, data), slopes

    return run


class TrialRunner:
    """Steps of the user's optimiser from a copy of its state, with every update multiplied by a factor.

    Each of `count` steps takes `batch_size` samples, or all of them (None); `cost` is where their gradients
    are entered.  Without `pull` the optimiser sees zeros for the parameters: no weight can decay.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        optimizer: Any,
        samples: Samples,
        batch_size: int | None,
        count: int,
        cost: Cost,
        *,
        pull: bool = True,
    ) -> None:
        self.count, self.cost = count, cost
        self.batch = jax.tree.map(jnp.asarray, samples.batch)
        self.index = _order(samples.size, batch_size, count)
        self._run = _compiled(loss, optimizer, count, pull=pull)

    def run(
        self, params: Any, state: Any, before: float, factor: float = 1.0, direction: Any = None
    ) -> Trial:
        """Take the steps from where the loss is `before`, and watch the gradient along `direction`."""
        self.cost.add(gradients=self.count)
        leaves = () if direction is None else tuple(jax.tree.leaves(direction))
        _, _, after, slopes = self._run(params, state, factor, self.batch, self.index, leaves)
        signs, value = np.sign(np.asarray(slopes, np.float64)), float(after)
        flips = math.nan if direction is None else float(np.mean(signs[1:] * signs[:-1] < 0))
        return Trial(before, value if math.isfinite(value) else math.inf, flips)


def _order(count: int, batch_size: int | None, steps: int) -> Any:
    """Rows of each step, from reshuffled passes over the data; None for all of them."""
    if batch_size is None or batch_size >= count:
        return None
    rng = np.random.default_rng(0)
    passes = -(-steps * batch_size // (count - count % batch_size))
    rows = np.concatenate([rng.permutation(count)[: count - count % batch_size] for _ in range(passes)])
    return jnp.asarray(rows[: steps * batch_size].reshape(steps, batch_size))


class AdamRunner:
    """Full-batch steps of Adam from a start, at each of ADAM_RATES; compiled once for each shape of data.

    Raises:
        ImportError: optax is not installed.
    """

    def __init__(self, loss: Callable[..., Any], steps: int, cost: Cost) -> None:
        self._adam, self.steps, self.cost = Adam(), steps, cost
        self._run = _compiled(loss, self._adam, steps)

    def best(self, params: Any, batch: Any) -> tuple[float, Any]:
        """Lowest loss met at the better rate (NaN: none, or the first is not finite), and where it ended."""
        self.cost.add(gradients=len(ADAM_RATES) * self.steps)
        arrays, state = jax.tree.map(jnp.asarray, batch), self._adam.init(params)
        found = [self._run(params, state, rate, arrays, None, ()) for rate in ADAM_RATES]
        met = [np.append(np.asarray(values, np.float64), after) for _, values, after, _ in found]
        losses = [math.nan if math.isnan(seen[0]) else float(np.nanmin(seen)) for seen in met]
        if not np.any(np.isfinite(losses)):
            return float("nan"), found[0][0]
        return float(np.nanmin(losses)), found[int(np.nanargmin(losses))][0]


def loss_after_steps(
    op: HessianOperator, optimizer: Any, state: Any, steps: int, factor: float = 1.0
) -> float:
    """Loss over all data after steps on one batch each, updates times `factor`; infinite if not finite."""
    layout, rest = op.layout, op.objective.non_variables

    @jax.jit
    def step(x: PyTree, gradient: PyTree, value: Any, state: Any) -> Any:
        given = tangent(layout, cast(gradient, layout.dtypes), rest)
        params, state = take_step(optimizer, merge(layout, x, rest), state, value, given, factor)
        return cast(from_tangent(layout, params, "the parameters"), layout.dtypes), state

    x = op.x
    passes = itertools.chain.from_iterable(op.objective.data for _ in itertools.count())
    for batch in itertools.islice(passes, steps):
        value, gradient = op.objective.gradient_of(batch, x)
        x, state = step(x, gradient, value, state)
    op.objective.cost.add(gradients=steps)
    end = op.objective.value(x)
    return end if math.isfinite(end) else math.inf


def perturb(params: Any, rng: np.random.Generator, share: float = PERTURBATION) -> Any:
    """Parameters with noise on each entry, a share of their size, those of leaves of zeros too."""

    def leaf(x: Any) -> Any:
        array = np.asarray(x, np.float64)
        usual = 1 / np.sqrt(array.shape[-2]) if array.ndim > 1 else 1.0
        size = share * max(float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0, usual)
        return jnp.asarray(array + size * rng.standard_normal(array.shape), x.dtype)

    return map_trained(leaf, params)


def reinitialise(params: Any, rng: np.random.Generator) -> Any:
    """Parameters as at a usual start: random weights, biases of zero, gains (entries around 1) of one."""

    def leaf(x: Any) -> Any:
        array = np.asarray(x, np.float64)
        if array.ndim == 0:
            return x
        if GAIN_MEAN[0] < array.mean() < GAIN_MEAN[1] and array.mean() > GAIN_DEVIATIONS * array.std():
            return jnp.ones_like(x)
        if array.ndim == 1:
            return jnp.zeros_like(x)
        # Variance 2 / (inputs + outputs): Glorot and Bengio 2010, equation 16; leading axes multiply both.
        ends = np.prod(array.shape[:-2], dtype=float) * (array.shape[-2] + array.shape[-1])
        return jnp.asarray(rng.standard_normal(array.shape) * np.sqrt(2 / ends), x.dtype)

    return map_trained(leaf, params)
