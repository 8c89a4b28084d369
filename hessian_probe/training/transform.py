"""An optax transformation that leaves saddles inside compiled training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, Vector, cast, split, tangent, widest
from hessian_probe.training.look import Found, Look
from hessian_probe.training.moments import MOMENTS, adjust_moments
from hessian_probe.training.pacing import BACKOFF, BACKOFF_AT_MINIMUM, LEFT, PAUSE, PRODUCT_COST, earliest
from hessian_probe.training.plateau import check_lengths
from hessian_probe.training.strategies import check_strategy
from hessian_probe.training.stream import FLAT, SLOW
from hessian_probe.training.watch import Watch, new_watch, observe


class EscapeState(NamedTuple):
    """State of `escape_saddles`.

    Attributes:
        inner: state of the optimiser inside.
        watch: what the plateau test remembers; `watch.stream.kind` is its verdict, an index into
            "none", "flat", "slow", "oscillating", "diverging", "noisy".
        pending: step that waits to be confirmed on the next batch.
        expected: what it brought on its own batch; 0 where nothing waits.
        pause: steps that the next look which finds nothing is followed by, at least.
        next_look: update before which nothing is looked at.
        level: loss at the latest look that found nothing; NaN where there is none.
        scale: larger of the loss's noise and its fall over the window then.
        num_steps: updates.
        num_probes: looks taken.
        num_escapes: steps off saddles that were accepted.
        num_hvps: Hessian-vector products spent.
        num_evaluations: losses and gradients evaluated beside the optimiser's.
        last_curvature: lowest curvature of the latest look; NaN before the first.
        last_gain: what the latest accepted escape brought on its own batch.
        last_step: update at which it was accepted; 0 before the first.
    """

    inner: Any
    watch: Watch
    pending: Any
    expected: jax.Array
    pause: jax.Array
    next_look: jax.Array
    level: jax.Array
    scale: jax.Array
    num_steps: jax.Array
    num_probes: jax.Array
    num_escapes: jax.Array
    num_hvps: jax.Array
    num_evaluations: jax.Array
    last_curvature: jax.Array
    last_gain: jax.Array
    last_step: jax.Array


def escape_saddles(
    optimizer: Any,
    loss: Callable[..., Any],
    *,
    key: jax.Array | None = None,
    strategy: str = "negative_curvature",
    moments: str = "reset",
    confirm: bool = True,
    window: int = 64,
    every: int = 8,
    num_products: int = 16,
    max_share: float = 0.02,
    radius: float = 0.01,
) -> Any:
    """Wrap an optax optimiser so that it leaves saddles; works inside `jit` and `lax.scan`.

    When the plateau test calls the loss flat or slow, a Lanczos run of fixed length looks
    for negative curvature beyond rounding.  If there is some, candidate steps are evaluated, and the best
    becomes the update, `params + updates` being the new point, if the loss falls by more than rounding and
    more than training itself brought lately; with batches, only if the next batch confirms it.  Looks that
    find nothing are followed by pauses that grow geometrically.  Nothing is compiled twice, and the host
    is not asked.

    `hp.training.Monitor` labels the point as well, and says why; this one only looks for a way down.

    Args:
        optimizer: an optax gradient transformation.
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        key: random key; None means `jax.random.key(0)`.
        strategy: "negative_curvature", "saddle_free_newton", "cubic_newton" (see `training.strategies`),
            "perturbation" (a random step of length up to `radius`, unproved) or "none" (only watch).
        moments: what becomes of the optimiser's state at an escape: "keep", "reset" or "project" (see
            `adjust_moments`).
        confirm: with batches, move only when the next batch confirms the step; takes a vector like
            the parameters of memory.
        window: steps that show the present trend; nothing is done before so many.
        every: steps between judgements of the loss.
        num_products: products of one look, one more measures the result.
        max_share: share of the run's gradients that looks which find nothing may cost in the long run.
        radius: length of a perturbation, in params.

    Returns:
        `optax.GradientTransformationExtraArgs`; its update takes `value=` (the loss) and, where `loss`
        takes one, `batch=`.  Its state is an `EscapeState`.

    Raises:
        ImportError: optax is not installed.
        TypeError: `loss` is not callable.
        ValueError: an option is out of range.

    Cost:
        While healthy, measured with 26,000 float32 parameters on two cores: 18 μs a step to watch, 25 μs for
        the branch that is not taken, 35 μs for the step that `confirm` keeps (47 % of a step of 165 μs: not
        for steps that short).  A look: num_products + 1 products, one gradient, 20 evaluations (10 for the
        Newton strategies), and num_products vectors of memory while it runs, part of the compiled step.

    Source:
        Perturbation: C. Jin et al. 2017, arXiv:1703.00887; for the rest see `training.strategies`.
    """
    try:
        import optax
    except ImportError as error:
        raise ImportError(
            "escape_saddles wraps an optax optimiser: pip install 'hessian_probe[optax]'"
        ) from error
    if not callable(loss):
        raise TypeError(f"loss must be a function of params; got {type(loss).__name__}")
    if moments not in MOMENTS:
        raise ValueError(f"moments={moments!r}; expected one of {', '.join(MOMENTS)}")
    if num_products < 2:
        raise ValueError(f"num_products={num_products}; expected at least 2")
    if not 0 < max_share <= 1:
        raise ValueError(f"max_share={max_share}; expected a share in (0, 1]")
    check_lengths(window, every)
    check_strategy(strategy)
    hook = _Hook(
        optax.with_extra_args_support(optimizer),
        loss,
        key,
        _Options(strategy, moments, confirm, window, every, num_products, max_share, radius),
    )
    return optax.GradientTransformationExtraArgs(hook.init, hook.update)


class _Options(NamedTuple):
    strategy: str
    moments: str
    confirm: bool
    window: int
    every: int
    num_products: int
    max_share: float
    radius: float


class _Hook:
    """Init and update of `escape_saddles`."""

    def __init__(self, optimizer: Any, loss: Any, key: Any, options: _Options) -> None:
        self.optimizer, self.loss, self.key, self.options = optimizer, loss, key, options
        self._compiled = jax.jit(self._step)

    def init(self, params: PyTree) -> EscapeState:
        """Start."""
        layout, _, _ = split(params)
        dtype = widest(layout.work_dtypes)
        window = self.options.window
        zeros = tuple(jnp.zeros(s, d) for s, d in zip(layout.shapes, layout.work_dtypes, strict=True))

        def whole() -> jax.Array:
            return jnp.zeros((), jnp.int32)

        def real(value: float) -> jax.Array:
            return jnp.asarray(value, dtype)

        return EscapeState(
            inner=self.optimizer.init(params),
            watch=new_watch(window, dtype),
            pending=zeros if self.options.confirm else (),
            expected=real(0.0),
            pause=real(PAUSE * window),
            next_look=real(0.0),
            level=real(np.nan),
            scale=real(0.0),
            num_steps=whole(),
            num_probes=whole(),
            num_escapes=whole(),
            num_hvps=whole(),
            num_evaluations=whole(),
            last_curvature=real(np.nan),
            last_gain=real(0.0),
            last_step=whole(),
        )

    def update(
        self,
        updates: PyTree,
        state: EscapeState,
        params: PyTree = None,
        *,
        value: Any,
        batch: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, EscapeState]:
        """Return the optimiser's updates, or a step off a saddle."""
        if params is None:
            raise ValueError("escape_saddles needs params: call update(grads, state, params, value=loss)")
        inner_updates, inner = self.optimizer.update(updates, state.inner, params, value=value, **extra_args)
        # Compiled as a whole even where the caller compiles nothing: branches are slow one by one.
        updates, state = self._compiled(inner_updates, state._replace(inner=inner), params, value, batch)
        return updates, state

    def _step(
        self, updates: PyTree, state: EscapeState, params: PyTree, value: Any, batch: PyTree
    ) -> tuple[PyTree, EscapeState]:
        """Watch, act, and choose between the optimiser's updates and a step off a saddle."""
        layout, x, rest = split(params)
        dtype = state.pause.dtype
        watch = observe(state.watch, jnp.asarray(value).astype(dtype), self.options.every)
        state = _after_progress(
            state._replace(watch=watch, num_steps=state.num_steps + 1), self.options.window
        )
        look = Look(self.loss, layout, cast(x, layout.work_dtypes), rest, batch, dtype)
        if self.options.strategy == "none":
            return updates, state
        # The branch not taken still costs, measured in the docstring of `escape_saddles`.
        return jax.lax.cond(
            _due(state) | (state.expected > 0),
            lambda: self._act(updates, state, params, look),
            lambda: (updates, state),
        )

    def _act(
        self, updates: PyTree, state: EscapeState, params: PyTree, look: Look
    ) -> tuple[PyTree, EscapeState]:
        """Look, or confirm what waits, and choose between the optimiser's updates and a step."""
        inner = state.inner
        state, step, moved = self._step_off(state, look)

        def choose(own: Any, other: Any) -> Any:
            return jnp.where(moved, jnp.asarray(other).astype(own.dtype), own)

        displacement = tangent(look.layout, step, look.rest)
        if self.options.moments != "keep":
            adjusted = adjust_moments(inner, params, self.options.moments, displacement)
            state = state._replace(inner=jax.tree.map(choose, inner, adjusted))
        return jax.tree.map(choose, updates, displacement), state

    def _step_off(self, state: EscapeState, look: Look) -> tuple[EscapeState, Vector, jax.Array]:
        """Confirm what waits, or look: the new state, a step, and whether to take it."""
        options = self.options
        waits = state.expected > 0
        due = _due(state) & ~waits
        found = jax.lax.cond(due, lambda: self._look(state, look), look.nothing)
        products, evaluations = look.costs(options.strategy, options.num_products)
        state = state._replace(
            num_probes=state.num_probes + due.astype(jnp.int32),
            num_hvps=state.num_hvps + products * due.astype(jnp.int32),
            num_evaluations=state.num_evaluations + evaluations * due.astype(jnp.int32),
            last_curvature=jnp.where(due, found.curvature, state.last_curvature),
        )
        if options.strategy == "perturbation":
            next_look = _now(state) + PAUSE * options.window
            return state._replace(next_look=jnp.where(due, next_look, state.next_look)), found.step, due
        price = PRODUCT_COST * products + evaluations
        if not (options.confirm and look.batch is not None):
            moved = found.gain > 0
            state = _paused(state, due & ~moved, found.negative, price, options.max_share)
            return self._escaped(state, moved, found.gain), found.step, moved
        step, expected = state.pending, state.expected
        confirmed = jax.lax.cond(waits, lambda: look.confirms(step, expected), lambda: jnp.zeros_like(waits))
        fruitless = jnp.where(waits, ~confirmed, due & ~(found.gain > 0))
        state = state._replace(
            num_evaluations=state.num_evaluations + 2 * waits.astype(jnp.int32),
            pending=found.step,
            expected=found.gain,
        )
        state = _paused(state, fruitless, waits | found.negative, price, options.max_share)
        return self._escaped(state, confirmed, expected), step, confirmed

    def _look(self, state: EscapeState, look: Look) -> Found:
        options = self.options
        key = jax.random.fold_in(jax.random.key(0) if self.key is None else self.key, state.num_probes)
        if options.strategy == "perturbation":
            return look.perturbation(key, options.radius)
        return look.along_curvature(options.strategy, key, state.watch.fall, options.num_products)

    def _escaped(self, state: EscapeState, moved: jax.Array, gain: jax.Array) -> EscapeState:
        """Start to watch anew where a step was taken, and count it."""
        window, dtype = self.options.window, state.pause.dtype
        watch = jax.tree.map(
            lambda fresh, old: jnp.where(moved, fresh, old), new_watch(window, dtype, gain), state.watch
        )
        return state._replace(
            watch=watch,
            pause=jnp.where(moved, jnp.asarray(PAUSE * window, dtype), state.pause),
            level=jnp.where(moved, jnp.full_like(state.level, np.nan), state.level),
            num_escapes=state.num_escapes + moved.astype(jnp.int32),
            last_gain=jnp.where(moved, gain, state.last_gain),
            last_step=jnp.where(moved, state.num_steps, state.last_step),
        )


def _now(state: EscapeState) -> jax.Array:
    return state.num_steps.astype(state.pause.dtype)


def _due(state: EscapeState) -> jax.Array:
    """Whether the loss is flat or slow, and no pause lasts."""
    kind = state.watch.stream.kind
    return ((kind == FLAT) | (kind == SLOW)) & (_now(state) >= state.next_look)


def _after_progress(state: EscapeState, window: int) -> EscapeState:
    """Let pauses start anew once the loss has left the plateau of the latest look."""
    left = state.level - state.watch.level > LEFT * state.scale
    return state._replace(
        pause=jnp.where(left, jnp.full_like(state.pause, PAUSE * window), state.pause),
        level=jnp.where(left, jnp.full_like(state.level, np.nan), state.level),
    )


def _paused(
    state: EscapeState, fruitless: jax.Array, negative: jax.Array, price: float, max_share: float
) -> EscapeState:
    """After a look that found nothing, wait; longer each time, and longest without negative curvature."""
    dtype = state.pause.dtype
    now = _now(state)
    spent = PRODUCT_COST * state.num_hvps.astype(dtype) + state.num_evaluations.astype(dtype)
    next_look = earliest(now, state.pause, spent, price, max_share, jnp.maximum)
    longer = (next_look - now) * jnp.where(negative, BACKOFF, BACKOFF_AT_MINIMUM).astype(dtype)
    watch = state.watch
    return state._replace(
        next_look=jnp.where(fruitless, next_look, state.next_look),
        pause=jnp.where(fruitless, longer, state.pause),
        level=jnp.where(fruitless, watch.level, state.level),
        scale=jnp.where(fruitless, jnp.maximum(jnp.abs(watch.fall), watch.noise), state.scale),
    )
