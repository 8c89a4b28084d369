"""An optax transformation that leaves saddles inside compiled training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout, PyTree, Vector, add_scaled, cast, split, tangent, widest
from hessian_probe.optimizers.adjust_moments import adjust_moments
from hessian_probe.optimizers.optax_state import accepted
from hessian_probe.optimizers.untrained_params import frozen_variables
from hessian_probe.training import escape_rules as rules
from hessian_probe.training.backoff import (
    PAUSE,
    cost_in_gradients,
    exceeds_threshold,
    recent_decrease,
    within_budget,
)
from hessian_probe.training.early_schedule import EARLY, expected_decrease, scheduled, spend_products
from hessian_probe.training.escape_state import EscapeState, HookState, new_state, pack, record_loss, unpack
from hessian_probe.training.event_log import add_row
from hessian_probe.training.options import HookOptions, check_layout, check_options, check_step
from hessian_probe.training.plateau_statistics import NOISY
from hessian_probe.training.saddle_search import LocalLoss, SearchResult
from hessian_probe.training.traced_plateau import judge_waiting, run_if, select, window_full
from hessian_probe.training.trial_steps import DEFAULT, STRATEGIES


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

    A look is taken when the plateau test calls the loss flat, slow or oscillating; and 8, 16, 32 … steps
    after the start and after every escape, whatever it says.  First the loss is evaluated along the
    gradient, at lengths up to twice that of the parameters: where it falls by twice what the slope
    explains, it bends down, as at saddles whose curvature is lost in rounding.  If it does not, at the
    plateau test's looks and at those after 16 and 64 steps (no others), a Lanczos run looks for negative
    curvature, and steps along it are tried.  From the best step on, steepest descent with line searches goes
    on while it pays.  Last, where the plateau test asked and the lowest curvature seen is not clearly
    positive, a kick: every leaf is displaced at random by 1.2 times its length, and line searches lead down
    from there; it counts if that brings twice what curvature did, and twice what as many line searches bring
    without it.  Where products have shown next to no curvature, later looks there are kicks alone.

    The result becomes the update, `params + updates` being the new point, if its first step alone (or the
    kick) brings more than rounding and twice what training brings within a window (eight times where the
    plateau test has not spoken); with batches, only if the next batch confirms it.

    A step along curvature proves a saddle; a kick only that a lower loss is near.  Where the optimiser cannot
    go on from there (within 256 steps the loss rises above the saddle's by what the escape brought), the
    escape is taken back, and nothing is looked at for as long as the run has lasted.

    Looks that find nothing are followed by pauses that grow geometrically.  Nothing is compiled twice, and
    the host is not asked.  Parameters that the optimiser never moves (`optax.set_to_zero` in a partition or
    a mask) are left where they are.  Sharded arrays under `jit` work; under `shard_map` or `pmap` every
    device would look at its own batch and go its own way, so hand all of them the same one.  An update
    cannot be differentiated in reverse mode: it holds a `jax.lax.while_loop`.

    `hp.training.Monitor` labels the point as well; this one only looks for a way down.  What it saw and did,
    and why it stopped asking, is read from its state by `escape_events`.

    Args:
        optimizer: an optax gradient transformation.
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        key: random key; None means `jax.random.key(0)`.
        strategy: "negative_curvature" (all of the above); "saddle_free_newton" or "cubic_newton" (steps of
            their own, see `training.strategies`); "perturbation" (a random step of length up to `radius`,
            unproved); or "none" (only watch).
        moments: what becomes of the optimiser's state after an escape, when the next update begins: "keep",
            "reset" or "project" (see `adjust_moments`); random perturbations keep it.
        confirm: with batches, move only when the next batch confirms the step.
        window: steps that show the present trend; the plateau test says nothing before so many.
        every: steps between judgements of the loss; in long runs up to 1/128 of the run.
        num_products: products of one look, one more measures the result.
        max_share: share of the run's gradients that looks which find nothing may cost in the long run; what
            they cost is forgiven at an escape.
        radius: length of a perturbation, in params.

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
        the parameters (0.7 to 1.5 % of steps of 4 ms with 562,000 of them in float32), looks aside.  A Python
        loop of compiled steps pays more, about 0.25 ms, for the buffers of the part that does not run;
        `hp.training.Monitor` costs such loops less.
        A look in vain: one gradient and 11 evaluations; with products one more gradient, at most
        num_products + 1 products and 20 more evaluations (10 for the Newton strategies), and num_products
        vectors of memory while it runs, part of the compiled step; with a kick 24 gradients and 49 to 97
        evaluations more, if the share allows it.  A look that finds a way: fewer products, and up to 16
        gradients and 64 evaluations on the way down; by a kick up to 96 gradients.

    Source:
        Perturbation: C. Jin et al. 2017, arXiv:1703.00887; for the rest see `training.strategies`.
    """
    try:
        import optax
    except ImportError as error:
        raise ImportError(
            "escape_saddles wraps an optax optimiser: pip install 'hessian_probe[optax]'"
        ) from error
    options = HookOptions(strategy, moments, confirm, window, every, num_products, max_share, radius)
    check_options(optimizer, loss, key, options)
    hook = EscapeHook(optax.with_extra_args_support(optimizer), loss, key, options)
    return optax.GradientTransformationExtraArgs(hook.init, hook.update)


class EscapeHook:
    """Init and update of `escape_saddles`."""

    def __init__(self, optimizer: Any, loss: Any, key: Any, options: HookOptions) -> None:
        self.optimizer, self.loss, self.key, self.options = optimizer, loss, key, options
        self._compiled, self._adjusted = jax.jit(self._step), jax.jit(self._moments)
        self._frozen: dict[Layout, tuple[bool, ...]] = {}

    def init(self, params: PyTree) -> EscapeState:
        """Start."""
        layout, _, _ = self._split(params)
        options = self.options

        def room() -> Vector:
            sizes = zip(layout.shapes, layout.work_dtypes, strict=True)
            return () if options.strategy == "none" else tuple(jnp.zeros(s, d) for s, d in sizes)

        inner, dtype = self.optimizer.init(params), widest(layout.work_dtypes)
        return new_state(inner, room(), room(), options.window, options.every, dtype)

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
        inner = state.inner
        if self.options.moments != "keep" and self.options.strategy != "none":
            inner = self._adjusted(state, params)
        keywords = accepted(self.optimizer.update, {"value": value, **extra_args})
        inner_updates, inner = self.optimizer.update(updates, inner, params, **keywords)
        # Compiled as a whole even where the caller compiles nothing: branches are slow one by one.
        updates, state = self._compiled(inner_updates, state._replace(inner=inner), params, value, batch)
        return updates, state

    def _step(
        self, updates: PyTree, state: EscapeState, params: PyTree, value: Any, batch: PyTree
    ) -> tuple[PyTree, EscapeState]:
        """Watch, act, and choose between the optimiser's updates and a step off a saddle."""
        # A healthy step writes a few numbers; all else is in a loop that does not run then.  Updates and
        # moments are not in its state, so that XLA computes them where they are used, as without the hook.
        check_step(self.loss, params, value, batch)
        layout, x, rest = self._split(params)
        inner = state.inner
        state, more = record_loss(state._replace(inner=()), jnp.asarray(value))
        local = LocalLoss(self.loss, layout, cast(x, layout.work_dtypes), rest, batch, state.numbers.dtype)
        still = jnp.zeros((), jnp.bool_)
        loss = jnp.asarray(value).astype(state.numbers.dtype)
        state, moved = run_if(more, lambda held: self._act(held, local, loss), (state, still))
        state = state._replace(inner=inner)
        if self.options.strategy == "none":
            return updates, state
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
        """Go back or judge where that is due, and act where the verdict or a waiting step asks for it."""
        memory, still = unpack(held[0]), held[1]
        began, fresh = memory, window_full(memory.plateau)
        memory = memory._replace(plateau=run_if(fresh, judge_waiting, memory.plateau))
        memory = rules.after_progress(memory, self.options.window)
        if self.options.strategy == "none":
            return pack(memory), still
        alarm = exceeds_threshold(memory.backoff, value)
        memory, back = run_if(alarm, lambda held: self._roll_back(held[0], local, value), (memory, still))
        asked = ((fresh & self._due(memory, local)) | (memory.pending_gain > 0)) & ~back
        memory, moved = run_if(
            asked, lambda held: self._probe_or_confirm(held[0], local, value), (memory, still)
        )
        return pack(add_row(began, memory, value)), moved | back

    def _roll_back(
        self, memory: HookState, local: LocalLoss, value: jax.Array
    ) -> tuple[HookState, jax.Array]:
        """Take the latest escape back if this very batch has a lower loss before it than now."""
        before = local.value(memory.rollback_params)
        worse = jnp.isfinite(before) & ~(value <= before + memory.last_gain)
        back = add_scaled(memory.rollback_params, -1.0, local.x)
        returned = rules.after_rollback(memory, back, self.options.window)
        memory = jax.tree.map(lambda new, old: jnp.where(worse, new, old), returned, memory)
        return memory._replace(num_evaluations=memory.num_evaluations + 1), worse

    def _probe_or_confirm(
        self, memory: HookState, local: LocalLoss, value: jax.Array
    ) -> tuple[HookState, jax.Array]:
        """Look, or confirm what waits; say whether to take the step that `pending` then holds."""
        options = self.options
        waits = memory.pending_gain > 0
        asked = self._due(memory, local) & ~waits
        found = jax.lax.cond(asked, lambda: self._probe(memory, local), local.no_result)
        cost = cost_in_gradients(found.num_hvps, found.num_gradients, found.num_evaluations + 2 * waits)
        memory = memory._replace(
            pending=select(asked, found.step, memory.pending),
            num_probes=memory.num_probes + asked.astype(jnp.int32),
            num_hvps=memory.num_hvps + found.num_hvps,
            num_gradients=memory.num_gradients + found.num_gradients,
            num_evaluations=memory.num_evaluations + found.num_evaluations,
            last_curvature=jnp.where(found.num_hvps > 0, found.curvature, memory.last_curvature),
            last_ratio=jnp.where(found.num_hvps > 0, found.ratio, memory.last_ratio),
        )
        if options.strategy == "perturbation":
            next_probe = rules.now(memory) + PAUSE * options.window
            new = memory.backoff._replace(next_probe=jnp.where(asked, next_probe, memory.backoff.next_probe))
            return memory._replace(backoff=new), asked
        if not (options.confirm and local.batch is not None):
            moved = found.gain > 0
            memory = rules.after_probe(memory, asked & ~moved, found, cost, local, options)
            return rules.after_escape(memory, moved, found.gain, options.window, local.x, value), moved
        step, claimed = memory.pending, memory.pending_gain
        confirmed = jax.lax.cond(waits, lambda: local.confirms(step, claimed), lambda: jnp.zeros_like(waits))
        fruitless = jnp.where(waits, ~confirmed, asked & ~(found.gain > 0))
        # A step that waits is charged for already, lest the next batch deny it; else that is forgiven.
        charge = jnp.where(asked & ~fruitless, cost, 0.0).astype(memory.backoff.spent_without_result.dtype)
        memory = memory._replace(
            num_evaluations=memory.num_evaluations + 2 * waits.astype(jnp.int32),
            pending_gain=found.gain,
            backoff=memory.backoff._replace(
                spent_without_result=memory.backoff.spent_without_result + charge
            ),
        )
        memory = rules.after_probe(memory, fruitless, found, cost, local, options)
        return rules.after_escape(memory, confirmed, claimed, options.window, local.x, value), confirmed

    def _due(self, memory: HookState, local: LocalLoss) -> jax.Array:
        """Whether to look after a judgement: the plateau test asks for it, or the schedule."""
        options = self.options
        if options.strategy not in STRATEGIES:
            return rules.stalled(memory)
        count, kind = memory.plateau.statistics.count, memory.plateau.statistics.kind
        slow = options.strategy != DEFAULT
        early = spend_products(count, options.every, kind) if slow else scheduled(count, options.every)
        free = rules.now(memory) >= memory.backoff.cooldown_until
        return rules.stalled(memory) | (early & free & self._affords(memory, local, False))

    def _affords(
        self, memory: HookState, local: LocalLoss, with_products: bool, *, restart: bool = False
    ) -> jax.Array:
        price = local.price(self.options.strategy, self.options.num_products, with_products, restart)
        full = restart | (memory.plateau.statistics.kind == NOISY)
        return within_budget(jnp, rules.now(memory), memory.backoff, price, self.options.max_share, full)

    def _probe(self, memory: HookState, local: LocalLoss) -> SearchResult:
        options = self.options
        key = jax.random.fold_in(jax.random.key(0) if self.key is None else self.key, memory.num_probes)
        if options.strategy == "perturbation":
            return local.perturbation(key, options.radius)
        asked, plateau = rules.stalled(memory), memory.plateau
        again = (
            asked & rules.only_restarts(memory, options) & self._affords(memory, local, False, restart=True)
        )
        restarts = again | self._affords(memory, local, True, restart=True)
        early = spend_products(plateau.statistics.count, options.every, plateau.statistics.kind)
        with_products = (asked | (early & self._affords(memory, local, True))) & ~again
        fall = recent_decrease(jnp, plateau.statistics.kind, plateau.fall, plateau.noise)
        fall = jnp.where(asked, fall, EARLY * expected_decrease(jnp, plateau.statistics))
        return local.search(
            options.strategy, key, fall, options.num_products, with_products, asked & restarts
        )
