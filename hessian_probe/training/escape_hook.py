"""`escape_saddles`, an optax transformation: it judges the loss, searches, and steps off saddles.

A search takes one evaluation a step (`points.sphere_search`) while training goes on; an escape after which
training does worse is taken back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout, PyTree, Vector, cast, merge, select, split, tangent, widest
from hessian_probe.operators.derivatives import real_scalar
from hessian_probe.optimizers.adjust_moments import adjust_moments
from hessian_probe.optimizers.optax_state import accepted
from hessian_probe.optimizers.untrained_params import moved_variables
from hessian_probe.points.sphere_search import advance, idle, run_if, words_of
from hessian_probe.points.thresholds import SPHERE_RADII
from hessian_probe.training.backoff import asks_for_search, check_common, exceeds_threshold, least_gain
from hessian_probe.training.escape_state import (
    EscapeState,
    HookState,
    add_row,
    new_state,
    pack,
    record_loss,
    unpack,
)
from hessian_probe.training.plateau import chunk_of
from hessian_probe.training.plateau_statistics import NONE, absorb, judge, new_statistics
from hessian_probe.training.thresholds import GAIN_ROUNDINGS


def escape_saddles(
    optimizer: Any,
    loss: Callable[..., Any],
    *,
    trainable: Any = None,
    key: jax.Array | None = None,
    moments: str = "reset",
    window: int = 64,
    max_share: float = 0.01,
) -> Any:
    """Wrap an optax optimiser so that it leaves saddles; works inside `jit` and `lax.scan`.

    A search begins when the plateau test calls the loss flat or slow (and, where noise allows no verdict
    and no pause lasts, 128, 256, 512 … steps after the start and after every escape).  Training goes on
    meanwhile; each step lends its batch to one evaluation of the search:

    1. All weights are displaced at random, by as much as an initialiser draws.
    2. 20 normalised gradient steps lower the loss along the spheres of these displacements.
    3. On four fresh batches the loss must be lower with the displacement than without it, beyond rounding,
       by twice what training gains in a window, and by 1 % of what the run has gained so far.  Training has
       gone on until then, so that what the gradient gives anyway is not counted.
    4. Where that fails spheres of 0.3 and 0.1 of that radius are tried.

    The displacement then becomes part of the update (`params + updates` is the new point).  It proves that a
    lower loss is near, beside which training stood still; saddles of any order are left so.  If within 4
    windows the loss rises above what it was before by what the escape gained, the optimiser cannot continue
    from there: the escape is taken back, and a cooldown as long as the run so far follows.

    Searches without a result are followed by pauses that grow geometrically.  Nothing is compiled twice, and
    the host is not asked.  Parameters that the optimiser never moves (`optax.set_to_zero` in a partition or
    a mask) and leaves that are not varied (`trainable`) stay as they are; a Python number is an array in
    compiled steps, and varied.  Sharded arrays under `jit` work; under `shard_map` or `pmap` every device
    would search on its own batch and take its own step, so give all of them the same batch.  An update cannot
    be differentiated in reverse mode: it contains a `jax.lax.while_loop`.

    `hp.training.Monitor` labels the point as well; this hook only searches for a lower loss.  `escape_events`
    reads from its state what it saw, what it did, and why it paused.

    Args:
        optimizer: an optax gradient transformation.
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        key: random key; None means `jax.random.key(0)`.
        moments: what becomes of the optimiser's state after an escape, and after one is taken back, when the
            next update begins: "keep", "reset" or "project" (see `adjust_moments`).
        window: steps until the first verdict of the plateau test, a multiple of 32 (see `PlateauTest`).
        max_share: no search begins while those without a result have cost more than this share of the run's
            gradients; an escape resets what they have cost.

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
        While healthy, inside `lax.scan`: 3 to 10 μs a step, and a pass over a vector as long as the
        parameters (1 to 3 % of steps of 1 to 4 ms; nothing is seen at 6 ms).  A Python loop of compiled steps
        pays 30 to 50 μs, for the buffers of the state.  Compiling takes 0.8 s more, and as long again as the
        gradient does.
        A search: one gradient a step, two on the four steps that compare; 28 where the first sphere shows a
        lower loss, at most 84 in all.  Memory: two copies of the parameters.  The compiled step holds the
        loss and its gradient once more.

    Example:
        >>> import jax, optax
        >>> loss = lambda p: 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2
        >>> params = jax.numpy.zeros(2)  # a saddle, which gradient descent never leaves
        >>> optimizer = escape_saddles(optax.sgd(0.1), loss)
        >>> state = optimizer.init(params)
        >>> for _ in range(300):
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
    options = HookOptions(moments, window, max_share, trainable)
    check_options(optimizer, loss, key, options)
    hook = EscapeHook(optax.with_extra_args_support(optimizer), loss, key, options)
    return optax.GradientTransformationExtraArgs(hook.init, hook.update)


class HookOptions(NamedTuple):
    """Options of `escape_saddles`, by name."""

    moments: str = "reset"
    window: int = 64
    max_share: float = 0.01
    trainable: Any = None


class EscapeHook:
    """Init and update of `escape_saddles`."""

    def __init__(self, optimizer: Any, loss: Any, key: Any, options: HookOptions) -> None:
        self.optimizer, self.loss, self.options = optimizer, loss, options
        self.chunk, self.words = chunk_of(options.window), words_of(key)
        self._compiled, self._adjusted = jax.jit(self._step), jax.jit(self._moments)
        self._moved: dict[Layout, frozenset[str]] = {}

    def init(self, params: PyTree) -> EscapeState:
        """Start."""
        arrays = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, params)
        layout, _, _ = self._split(arrays)  # as compiled steps see Python numbers

        def room() -> Vector:
            sizes = zip(layout.shapes, layout.work_dtypes, strict=True)
            return tuple(jnp.zeros(shape, dtype) for shape, dtype in sizes)

        inner, dtype = self.optimizer.init(params), widest(layout.work_dtypes)
        return new_state(inner, idle(room(), dtype), room(), self.options.window, self.chunk)

    def _split(self, params: PyTree) -> tuple[Layout, Vector, tuple[Any, ...]]:
        """Split, with what the optimiser never moves among the arrays that are no variables."""
        layout, x, rest = split(params, trainable=self.options.trainable)
        layout.require_variables()
        if layout not in self._moved:
            self._moved[layout] = moved_variables(self.optimizer, layout, x, rest)
        return split(params, trainable=lambda path, _: path in self._moved[layout])

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
        # The gradient is done before the hook looks at the value: on a CPU XLA runs operations side by side,
        # and a loop among them makes all wait.
        updates, value = jax.lax.optimization_barrier((updates, value))
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
        loss = jnp.asarray(value).astype(state.numbers.dtype)
        state, more = record_loss(state._replace(inner=()), loss)
        local = LocalLoss(self.loss, layout, cast(x, layout.work_dtypes), rest, batch, state.numbers.dtype)
        still = jnp.zeros((), jnp.bool_)
        state, moved = run_if(more, lambda held: self._act(held, local, loss), (state, still))
        state = state._replace(inner=inner)
        return select(moved, tangent(layout, state.step, rest), updates), state

    def _moments(self, state: EscapeState, params: PyTree) -> PyTree:
        """Adjust the optimiser's state where the update before was a step off a saddle."""
        # Only now: XLA would copy the moments in every step if they were used and changed in the same one.
        how = self.options.moments
        moved = (state.last_step == state.num_steps) & (state.last_step > 0)
        if how == "reset":
            fresh = adjust_moments(state.inner, params, how, init=self.optimizer.init)
            return select(moved, fresh, state.inner)
        layout, _, rest = self._split(params)
        displacement = tangent(layout, state.step, rest)
        return run_if(moved, lambda inner: adjust_moments(inner, params, how, displacement), state.inner)

    def _act(
        self, held: tuple[EscapeState, jax.Array], local: LocalLoss, value: jax.Array
    ) -> tuple[EscapeState, jax.Array]:
        """Judge where that is due; then roll back, or start or continue a search where that is asked for."""
        memory = unpack(held[0])
        fresh = memory.waits >= self.chunk
        before = tuple(getattr(memory, name) for name in JUDGEMENT)
        judged = run_if(fresh, partial(self._judged, memory, local.eps), before)
        memory = memory._replace(**dict(zip(JUDGEMENT, judged, strict=True)))
        search, step = memory.search, memory.num_steps
        alarm, going = exceeds_threshold(memory.backoff, value), search.going
        # The loss and its gradient stand here once: at the parameters where two points are compared, and at
        # the other point.
        ahead = jax.tree.map(operator.add, local.x, search.step)
        there = select(alarm, memory.rollback_params, ahead)
        points = select(alarm | (going & search.checking), 2, going.astype(jnp.int32))
        here, after, gradient = local.evaluate(there, points)
        worse = alarm & jnp.isfinite(after) & ~(here <= after + memory.last_gain)
        start = fresh & self._due(memory) & ~going & ~alarm
        least = jnp.maximum(memory.least_gain, GAIN_ROUNDINGS * local.eps * jnp.abs(value))
        search = run_if(
            start | (going & ~alarm),
            lambda search: advance(
                search, self.words, memory.num_probes, local.x, here - after, gradient, least, start
            ),
            search,
        )
        found, ended = going & ~alarm & search.found, (going & ~search.going) | worse
        moved, spent = found | worse, memory.search_gradients + points
        backoff = memory.backoff.after_probe(
            step, fruitless=ended & ~moved, hopeless=False, cost=spent, max_share=self.options.max_share
        ).after_escape(step, found, value, search.gain, self.options.window)
        backoff = backoff.after_rollback(step, worse, self.options.window)
        # An alarm that is not confirmed raises the threshold a little, so that noise costs little.
        raised = jnp.minimum(value, backoff.rollback_threshold + memory.last_gain)
        raised = select(alarm & ~worse & jnp.isfinite(value), raised, backoff.rollback_threshold)
        gain = select(found, search.gain, memory.last_gain)
        what = found.astype(jnp.int32) + 2 * worse.astype(jnp.int32)
        told = (step, what, memory.kind, value, select(~moved, 0.0, gain), spent, backoff.next_probe)
        fresh_start = new_statistics(jnp, value.dtype, select(~found, 0.0, gain))
        memory = memory._replace(
            search=search._replace(
                step=select(worse, jax.tree.map(operator.sub, there, local.x), search.step),
                sphere=select(worse, len(SPHERE_RADII), search.sphere),
            ),
            statistics=select(moved, fresh_start, memory.statistics),
            backoff=backoff._replace(rollback_threshold=raised),
            rollback_params=select(found, local.x, memory.rollback_params),
            waits=select(moved, 0, memory.waits),
            kind=select(moved, NONE, memory.kind),
            num_probes=memory.num_probes + start.astype(jnp.int32),
            num_escapes=memory.num_escapes + found.astype(jnp.int32),
            num_rollbacks=memory.num_rollbacks + worse.astype(jnp.int32),
            num_gradients=memory.num_gradients + points,
            search_gradients=select(ended, 0, spent),
            last_gain=gain,
        )
        return pack(add_row(memory, ended, *told)), moved

    def _judged(self, memory: HookState, eps: float, held: tuple[Any, ...]) -> tuple[Any, ...]:
        """Add the values that wait, and judge."""
        window = self.options.window
        s = absorb(jnp, held[0], memory.waiting)
        verdict = judge(jnp, s, self.chunk, eps)
        backoff = held[1].after_judgement(memory.num_steps, verdict.kind == NONE, window)
        windows = (s.filled * s.stride).astype(s.partial.dtype) * (self.chunk / (2 * window))
        return s, backoff, jnp.zeros_like(held[2]), verdict.kind, least_gain(jnp, verdict, windows)

    def _due(self, memory: HookState) -> jax.Array:
        """Whether the plateau test asks for a search, or in its silence the schedule, and no pause lasts."""
        s = memory.statistics
        count = (s.filled * s.stride + s.held) * self.chunk
        now = memory.num_steps.astype(s.partial.dtype)
        return asks_for_search(memory.kind, count, self.chunk) & (now >= memory.backoff.next_probe)


# What a judgement changes.
JUDGEMENT = ("statistics", "backoff", "waits", "kind", "least_gain")


class LocalLoss(NamedTuple):
    """The loss around the parameters of one training step, with the step's batch, if any.

    Attributes:
        x: variables, in working dtypes.
        rest: the parameters' other arrays.
        dtype: of values.
    """

    loss: Callable[..., Any]
    layout: Layout
    x: Vector
    rest: tuple[Any, ...]
    batch: PyTree
    dtype: Any

    def value(self, x: Vector) -> jax.Array:
        """Loss at `x`, as training sees it: with the parameters' own dtypes."""
        return self._own(x).astype(self.dtype)

    def _own(self, x: Vector) -> jax.Array:
        params = merge(self.layout, cast(x, self.layout.dtypes), self.rest)
        return jnp.asarray(self.loss(params) if self.batch is None else self.loss(params, self.batch))

    @property
    def eps(self) -> float:
        """Rounding of the parameters' dtype or of the loss's own, whichever is coarser."""
        own = jax.eval_shape(self._own, self.x).dtype
        return max(float(jnp.finfo(dtype).eps) for dtype in (self.layout.dtype, own))

    def evaluate(self, there: Vector, points: jax.Array) -> tuple[jax.Array, jax.Array, Vector]:
        """Return the loss at `x`, that at `there`, and the gradient there.

        Of two `points` both are evaluated, of one `there` alone, of none nothing.
        """

        def one(held: tuple[Any, ...]) -> tuple[Any, ...]:
            left, _, latest, _ = held
            value, gradient = jax.value_and_grad(self.value)(select(left == 1, there, self.x))
            return left - 1, latest, value, gradient

        zero = jnp.zeros((), self.dtype)
        first = points, zero, zero, there  # in place of a gradient
        return jax.lax.while_loop(lambda held: held[0] > 0, one, first)[1:]


def check_options(optimizer: Any, loss: Any, key: Any, options: HookOptions) -> None:
    """Refuse what `escape_saddles` cannot work with; raises TypeError or ValueError."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(
            f"optimizer must be an optax transformation, with init and update; got {type(optimizer).__name__}"
        )
    check_common(loss, options.moments, options.max_share)
    chunk_of(options.window)
    words_of(key)


def check_step(loss: Callable[..., Any], params: PyTree, value: Any, batch: PyTree) -> None:
    """Refuse a loss, or the value of one, that is no real scalar; while a step is traced."""
    if jnp.shape(value) != ():
        raise ValueError(
            f"value has shape {jnp.shape(value)}; expected the step's loss, a scalar: take jnp.mean"
        )
    args = (params,) if batch is None else (params, batch)
    jax.eval_shape(lambda args: real_scalar(loss(*args)), args)
