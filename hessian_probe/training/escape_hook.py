"""`escape_saddles`, an optax transformation: it judges the loss, searches, and steps off saddles.

What a search finds is confirmed on the next batch, and taken back where training does worse after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout, PyTree, Vector, add_scaled, cast, generator, split, tangent, widest
from hessian_probe.operators.derivatives import real_scalar
from hessian_probe.optimizers.adjust_moments import adjust_moments
from hessian_probe.optimizers.optax_state import accepted
from hessian_probe.optimizers.untrained_params import frozen_variables
from hessian_probe.training import backoff
from hessian_probe.training.escape_state import (
    EscapeState,
    HookState,
    add_row,
    new_state,
    pack,
    record_loss,
    unpack,
)
from hessian_probe.training.plateau import check_lengths, judge_waiting, run_if, select, window_full
from hessian_probe.training.plateau_statistics import NOISY
from hessian_probe.training.saddle_search import LocalLoss, SearchResult


def escape_saddles(
    optimizer: Any,
    loss: Callable[..., Any],
    *,
    key: jax.Array | None = None,
    moments: str = "reset",
    confirm: bool = True,
    window: int = 64,
    every: int = 8,
    max_hvps: int = 16,
    max_share: float = 0.02,
) -> Any:
    """Wrap an optax optimiser so that it leaves saddles; works inside `jit` and `lax.scan`.

    A search is made when the plateau test calls the loss flat, slow or oscillating; and 8, 16, 32 … steps
    after the start and after every escape, whatever the test says.

    1. The loss is evaluated along the gradient, at lengths up to twice that of the parameters.  Where it
       falls by twice what the slope explains, it bends down, as at saddles whose curvature is lost in
       rounding.
    2. If it does not bend, a Lanczos run measures the lowest curvature, and steps along its direction are
       tried.  This is done where the plateau test asked, and 16 and 64 steps after the start or an escape.
    3. From the best step on, steepest descent with line searches continues while it pays.
    4. Where the plateau test asked and the lowest curvature is not clearly positive, a random restart: every
       leaf is displaced at random by 1.2 times its length, and line searches descend from there.  It counts
       if it gains twice what curvature gained, and twice what as many line searches gain without it.  Where
       products have shown next to no curvature, later searches there are random restarts alone.

    The result becomes the update (`params + updates` is the new point) if its first step, or the restart,
    lowers the loss by more than rounding errors and by twice what training does within a window (eight times
    where the plateau test has not spoken).  With batches, the next batch must confirm it.

    A step along negative curvature proves a saddle; a restart only proves that a lower loss is near.  If
    within 256 steps the loss rises above the saddle's by what the escape gained, the optimiser cannot
    continue from there: the escape is taken back, and a cooldown as long as the run so far follows.

    Searches without a result are followed by pauses that grow geometrically.  Nothing is compiled twice, and
    the host is not asked.  Parameters that the optimiser never moves (`optax.set_to_zero` in a partition or
    a mask) stay as they are.  Sharded arrays under `jit` work; under `shard_map` or `pmap` every device would
    search on its own batch and take its own step, so give all of them the same batch.  An update cannot be
    differentiated in reverse mode: it contains a `jax.lax.while_loop`.

    `hp.training.Monitor` labels the point as well; this hook only searches for a lower loss.  `escape_events`
    reads from its state what it saw, what it did, and why it paused.

    Args:
        optimizer: an optax gradient transformation.
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        key: random key; None means `jax.random.key(0)`.
        moments: what becomes of the optimiser's state after an escape, when the next update begins: "keep",
            "reset" or "project" (see `adjust_moments`).
        confirm: with batches, move only when the next batch confirms the step.
        window: steps over which the present trend is measured; the plateau test is silent until then.
        every: steps between judgements of the loss; in long runs up to 1/128 of the run.
        max_hvps: products of one search; one more measures the result.
        max_share: share of the run's gradients that searches without a result may cost in the long run; an
            escape resets what they have cost.

    Returns:
        `optax.GradientTransformationExtraArgs`; its update takes `value=` (the loss) and, where `loss`
        takes one, `batch=`.  Its state is an `EscapeState`.

    Raises:
        ImportError: optax is not installed.
        TypeError: `loss` is not callable, `optimizer` is no optax transformation, or an option is of the
            wrong type.
        ValueError: an option is out of range.  `init` raises it where params has no floating-point entry,
            `update` where params or value are missing or value is no scalar.

    Cost:
        While healthy, inside `lax.scan` on two cores: some 10 μs a step and a pass over a vector as long as
        the parameters (0.7 to 1.5 % of steps of 4 ms with 562,000 of them in float32), searches aside.  A
        Python loop of compiled steps pays more, about 0.25 ms, for the buffers of the part that does not run;
        `hp.training.Monitor` costs such loops less.
        A search without a result: one gradient and 11 evaluations; with products one more gradient, at most
        max_hvps + 1 products, 20 more evaluations, and max_hvps vectors of memory while it runs, part
        of the compiled step; with a restart 24 gradients and 49 to 97 evaluations more, if the share allows
        it.  A search that finds a step: fewer products, and up to 16 gradients and 64 evaluations for the
        descent; by a restart up to 96 gradients.

    Source:
        Escape along negative curvature: J. J. Moré and D. C. Sorensen, Math. Programming 16, 1979,
        doi:10.1007/BF01582091.

    Example:
        >>> import jax, optax
        >>> loss = lambda p: 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2
        >>> params = jax.numpy.zeros(2)  # a saddle, which gradient descent never leaves
        >>> optimizer = escape_saddles(optax.sgd(0.1), loss)
        >>> state = optimizer.init(params)
        >>> for _ in range(40):
        ...     value, gradient = jax.value_and_grad(loss)(params)
        ...     updates, state = optimizer.update(gradient, state, params, value=value)
        ...     params = optax.apply_updates(params, updates)
        >>> int(state.num_escapes), bool(value < -0.24)
        (1, True)
    """
    try:
        import optax
    except ImportError as error:
        raise ImportError(
            "escape_saddles wraps an optax optimiser: pip install 'hessian_probe[optax]'"
        ) from error
    options = HookOptions(moments, confirm, window, every, max_hvps, max_share)
    check_options(optimizer, loss, key, options)
    hook = EscapeHook(optax.with_extra_args_support(optimizer), loss, key, options)
    return optax.GradientTransformationExtraArgs(hook.init, hook.update)


class HookOptions(NamedTuple):
    """Options of `escape_saddles`, by name."""

    moments: str = "reset"
    confirm: bool = True
    window: int = 64
    every: int = 8
    max_hvps: int = 16
    max_share: float = 0.02


class EscapeHook:
    """Init and update of `escape_saddles`."""

    local_loss = LocalLoss

    def __init__(self, optimizer: Any, loss: Any, key: Any, options: HookOptions) -> None:
        self.optimizer, self.loss, self.key, self.options = optimizer, loss, key, options
        self._compiled, self._adjusted = jax.jit(self._step), jax.jit(self._moments)
        self._frozen: dict[Layout, tuple[bool, ...]] = {}

    def init(self, params: PyTree) -> EscapeState:
        """Start."""
        layout, _, _ = self._split(params)

        def room() -> Vector:
            sizes = zip(layout.shapes, layout.work_dtypes, strict=True)
            return tuple(jnp.zeros(shape, dtype) for shape, dtype in sizes)

        inner, dtype = self.optimizer.init(params), widest(layout.work_dtypes)
        return new_state(inner, room(), room(), self.options.window, self.options.every, dtype)

    def _split(self, params: PyTree) -> tuple[Layout, Vector, tuple[Any, ...]]:
        """Split, with what the optimiser never moves among the arrays that are no variables."""
        layout, x, rest = split(params)
        check_layout(layout)
        if layout not in self._frozen:
            self._frozen[layout] = frozen_variables(self.optimizer, layout, x, rest)
        frozen = self._frozen[layout]
        return split(params, frozen=frozen) if any(frozen) else (layout, x, rest)

    def update(
        self,
        updates: PyTree,
        state: EscapeState,
        params: PyTree = None,
        *,
        value: Any = None,
        batch: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, EscapeState]:
        """Return the optimiser's updates, or a step off a saddle."""
        if params is None or value is None:
            missing = "params" if params is None else "value"
            raise ValueError(
                f"escape_saddles needs {missing}: call update(grads, state, params, value=loss, batch=…); "
                "with a flax TrainState, hp.training.update_train_state does"
            )
        inner = state.inner if self.options.moments == "keep" else self._adjusted(state, params)
        keywords = accepted(self.optimizer.update, {"value": value, **extra_args})
        inner_updates, inner = self.optimizer.update(updates, inner, params, **keywords)
        # Compiled as a whole even where the caller compiles nothing: branches are slow one by one.
        updates, state = self._compiled(inner_updates, state._replace(inner=inner), params, value, batch)
        return updates, state

    def _step(
        self, updates: PyTree, state: EscapeState, params: PyTree, value: Any, batch: PyTree
    ) -> tuple[PyTree, EscapeState]:
        """Record the loss, act, and choose between the optimiser's updates and a step off a saddle."""
        # A healthy step writes a few numbers; all else is in a loop that does not run then.  Updates and
        # moments are not in its state, so that XLA computes them where they are used, as without the hook.
        check_step(self.loss, params, value, batch)
        layout, x, rest = self._split(params)
        inner = state.inner
        state, more = record_loss(state._replace(inner=()), jnp.asarray(value))
        x = cast(x, layout.work_dtypes)
        local = self.local_loss(self.loss, layout, x, rest, batch, state.numbers.dtype)
        still = jnp.zeros((), jnp.bool_)
        loss = jnp.asarray(value).astype(state.numbers.dtype)
        state, moved = run_if(more, lambda held: self._act(held, local, loss), (state, still))
        state = state._replace(inner=inner)
        return select(moved, tangent(layout, state.pending, rest), updates), state

    def _moments(self, state: EscapeState, params: PyTree) -> PyTree:
        """Adjust the optimiser's state where the update before was a step off a saddle."""
        # Only now: XLA would copy the moments in every step if they were used and changed in the same one.
        how = self.options.moments
        moved = (state.last_step == state.num_steps) & (state.last_step > 0)
        if how == "reset":
            fresh = adjust_moments(state.inner, params, how, init=self.optimizer.init)
            return select(moved, fresh, state.inner)
        layout, _, rest = self._split(params)
        displacement = tangent(layout, state.pending, rest)
        return run_if(moved, lambda inner: adjust_moments(inner, params, how, displacement), state.inner)

    def _act(
        self, held: tuple[EscapeState, jax.Array], local: LocalLoss, value: jax.Array
    ) -> tuple[EscapeState, jax.Array]:
        """Judge where that is due; then roll back, search or confirm where that is asked for."""
        memory, still = unpack(held[0]), held[1]
        began, fresh = memory, window_full(memory.plateau)
        memory = memory._replace(plateau=run_if(fresh, judge_waiting, memory.plateau))
        memory = memory.after_progress(self.options.window)
        alarm = backoff.exceeds_threshold(memory.backoff, value)
        memory, back = run_if(alarm, lambda held: self._roll_back(held[0], local, value), (memory, still))
        asked = ((fresh & self._due(memory, local)) | (memory.pending_gain > 0)) & ~back
        memory, moved = run_if(
            asked, lambda held: self._search_or_confirm(held[0], local, value), (memory, still)
        )
        return pack(add_row(began, memory, value)), moved | back

    def _roll_back(
        self, memory: HookState, local: LocalLoss, value: jax.Array
    ) -> tuple[HookState, jax.Array]:
        """Take the latest escape back if this very batch has a lower loss before it than now."""
        before = local.value(memory.rollback_params)
        worse = jnp.isfinite(before) & ~(value <= before + memory.last_gain)
        back = add_scaled(memory.rollback_params, -1.0, local.x)
        returned = memory.after_rollback(back, self.options.window)
        memory = jax.tree.map(lambda new, old: jnp.where(worse, new, old), returned, memory)
        return memory._replace(num_losses=memory.num_losses + 1), worse

    def _search_or_confirm(
        self, memory: HookState, local: LocalLoss, value: jax.Array
    ) -> tuple[HookState, jax.Array]:
        """Search, or confirm a waiting step; say whether to take the step that `pending` then holds."""
        options = self.options
        waits = memory.pending_gain > 0
        asked = self._due(memory, local) & ~waits
        found = jax.lax.cond(asked, lambda: self._search(memory, local), local.no_result)
        cost = backoff.cost_in_gradients(found.num_hvps, found.num_gradients, found.num_losses + 2 * waits)
        memory = memory._replace(
            pending=select(asked, found.step, memory.pending),
            num_probes=memory.num_probes + asked.astype(jnp.int32),
            num_hvps=memory.num_hvps + found.num_hvps,
            num_gradients=memory.num_gradients + found.num_gradients,
            num_losses=memory.num_losses + found.num_losses,
            last_curvature=jnp.where(found.num_hvps > 0, found.curvature, memory.last_curvature),
            last_ratio=jnp.where(found.num_hvps > 0, found.ratio, memory.last_ratio),
        )
        price = self._next_price(memory, local)
        if not (options.confirm and local.batch is not None):
            moved = found.gain > 0
            memory = memory.after_probe(asked & ~moved, found, cost, price, options.max_share)
            return memory.after_escape(moved, found.gain, options.window, local.x, value), moved
        step, claimed = memory.pending, memory.pending_gain
        confirmed = jax.lax.cond(waits, lambda: local.confirms(step, claimed), lambda: jnp.zeros_like(waits))
        fruitless = jnp.where(waits, ~confirmed, asked & ~(found.gain > 0))
        # A waiting step is charged at once, in case the next batch denies it; an escape resets the charge.
        spent = memory.backoff.spent_without_result
        spent = spent + jnp.where(asked & ~fruitless, cost, 0.0).astype(spent.dtype)
        memory = memory._replace(
            num_losses=memory.num_losses + 2 * waits.astype(jnp.int32),
            pending_gain=found.gain,
            backoff=memory.backoff._replace(spent_without_result=spent),
        )
        memory = memory.after_probe(fruitless, found, cost, price, options.max_share)
        return memory.after_escape(confirmed, claimed, options.window, local.x, value), confirmed

    def _due(self, memory: HookState, local: LocalLoss) -> jax.Array:
        """Whether to search after a judgement: the plateau test asks for it, or the schedule."""
        early = self._early(memory.plateau.statistics.count, memory.plateau.statistics.kind)
        free = memory.now >= memory.backoff.cooldown_until
        return memory.stalled | (early & free & self._affords(memory, local, False))

    def _early(self, count: jax.Array, kind: jax.Array) -> jax.Array:
        """Whether the schedule asks for a search."""
        return backoff.scheduled(count, self.options.every)

    def _flat(self, memory: HookState) -> jax.Array:
        """Whether a search should be a random restart alone."""
        return memory.flat

    def _affords(
        self, memory: HookState, local: LocalLoss, with_products: bool, *, restart: bool = False
    ) -> jax.Array:
        price = local.price(self.options.max_hvps, with_products, restart)
        full = restart | (memory.plateau.statistics.kind == NOISY)
        return memory.backoff.within_budget(memory.now, price, self.options.max_share, full)

    def _next_price(self, memory: HookState, local: LocalLoss) -> jax.Array:
        """Gradients that the next search costs at most: a random restart alone where the loss is flat."""
        dtype = memory.backoff.spent_without_result.dtype
        restart, products = (
            jnp.asarray(local.price(self.options.max_hvps, *kind), dtype)
            for kind in ((False, True), (True, False))
        )
        return jnp.where(self._flat(memory), restart, products)

    def _search(self, memory: HookState, local: LocalLoss) -> SearchResult:
        options, plateau, kind = self.options, memory.plateau, memory.plateau.statistics.kind
        key = jax.random.fold_in(jax.random.key(0) if self.key is None else self.key, memory.num_probes)
        asked = memory.stalled
        # On this plateau, products have already shown that the loss is flat along the lowest curvature.
        alone = asked & self._flat(memory) & jnp.isfinite(memory.backoff.level)
        alone = alone & self._affords(memory, local, False, restart=True)
        restarts = alone | self._affords(memory, local, True, restart=True)
        early = backoff.spend_products(plateau.statistics.count, options.every, kind)
        with_products = (asked | (early & self._affords(memory, local, True))) & ~alone
        decrease = jnp.where(
            asked,
            backoff.recent_decrease(jnp, kind, plateau.fall, plateau.noise),
            backoff.EARLY * backoff.expected_decrease(jnp, plateau.statistics),
        )
        return local.search(key, decrease, options.max_hvps, with_products, asked & restarts)


def check_options(optimizer: Any, loss: Any, key: Any, options: HookOptions) -> None:
    """Refuse what `escape_saddles` cannot work with; raises TypeError or ValueError."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(
            f"optimizer must be an optax transformation, with init and update; got {type(optimizer).__name__}"
        )
    if not isinstance(options.confirm, bool):
        raise TypeError(f"confirm={options.confirm!r}; expected True or False")
    if not isinstance(options.max_hvps, int):
        raise TypeError(f"max_hvps={options.max_hvps!r}; expected an integer")
    if options.max_hvps < 2:
        raise ValueError(f"max_hvps={options.max_hvps}; expected at least 2")
    backoff.check_common(loss, options.moments, options.max_share)
    check_lengths(options.window, options.every)
    generator(key)


def check_layout(layout: Layout) -> None:
    """Refuse parameters of which nothing can be trained."""
    if layout.size == 0:
        raise ValueError(
            "params has no floating-point entry, so there is nothing to train; got leaves "
            f"{list(layout.names) or list(layout.kinds)}"
        )


def check_step(loss: Callable[..., Any], params: PyTree, value: Any, batch: PyTree) -> None:
    """Refuse a loss, or the value of one, that is no real scalar; while a step is traced.

    Raises:
        TypeError: the loss returns several things, or what is no real floating-point number.
        ValueError: the loss or `value` is an array.
    """
    if jnp.shape(value) != ():
        raise ValueError(
            f"value has shape {jnp.shape(value)}; expected the step's loss, a scalar: take jnp.mean"
        )
    args = (params,) if batch is None else (params, batch)
    jax.eval_shape(lambda args: real_scalar(loss(*args)), args)
