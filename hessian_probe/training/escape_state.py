"""What `escape_saddles` remembers from step to step, and how each step changes that."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.training.backoff import BackoffState, exceeds_threshold, is_stalled, new_backoff
from hessian_probe.training.plateau import TracedPlateau, new_plateau
from hessian_probe.training.plateau_statistics import PlateauStatistics
from hessian_probe.training.random_restart import FLAT_RATIO
from hessian_probe.training.saddle_search import SearchResult

# Scalars of `HookState` in the order of the packed arrays: its own, those of its backoff, and with a prefix
# those of its plateau and statistics.
COUNTS = (
    "num_steps",
    "num_probes",
    "num_escapes",
    "num_rollbacks",
    "num_hvps",
    "num_gradients",
    "num_losses",
    "num_rows",
    "last_step",
    "plateau_held",
    "statistics_count",
    "statistics_filled",
    "statistics_stride",
    "statistics_held",
    "statistics_kind",
    "statistics_candidate",
)
NUMBERS = (
    "pending_gain",
    "pause",
    "next_probe",
    "level",
    "scale",
    "spent_without_result",
    "rollback_threshold",
    "cooldown_until",
    "last_curvature",
    "last_ratio",
    "last_gain",
    "plateau_fall",
    "plateau_noise",
    "plateau_level",
    "statistics_partial",
    "statistics_reference",
    "statistics_reference_at",
)
# Rows that are kept, the latest ones: pauses grow, so that they cover all of a run but for its many escapes.
ROWS = 32
COLUMNS = (
    "step",
    "what",
    "verdict",
    "value",
    "curvature",
    "ratio",
    "gain",
    "num_hvps",
    "num_gradients",
    "num_losses",
    "next_probe",
)
COSTS = ("num_hvps", "num_gradients", "num_losses")
# What happened, in the order of the numbers that stand for it.
WHAT = ("nothing", "found", "escaped", "denied", "taken_back")


class EscapeState(NamedTuple):
    """State of `escape_saddles`: few arrays, because each costs every step of a Python loop a microsecond.

    What is packed in `counts` and `numbers` can be read by name too.

    Attributes:
        inner: state of the optimiser inside.
        pending: step that the latest search found, taken already or waiting to be confirmed.
        rollback_params: variables before the latest escape.
        log: what the latest searches found and did, read by `escape_events`, shape (32, 11).
        counts: whole numbers, shape (16,).
        numbers: real numbers, shape (17,).
        waiting: losses that are not judged yet, shape (every,).
        recent: losses before them, shape (window,).
        blocks: means over the whole run, shape (128,).
        kind: verdict of the plateau test, an index into "none", "flat", "slow", "oscillating", "diverging",
            "noisy".
        num_steps: updates.
        num_probes: searches made.
        num_escapes: steps off saddles that were accepted.
        num_rollbacks: escapes that were taken back, because training could not continue from there.
        num_hvps: Hessian-vector products spent.
        num_gradients: gradients evaluated beside the optimiser's.
        num_losses: losses likewise.
        num_evaluations: gradients and losses together.
        num_rows: rows that were ever written to `log`.
        next_probe: update before which a plateau starts no search.
        last_curvature: lowest curvature of the latest search that spent products; NaN before the first.
        last_ratio: that ÷ ‖H‖, as long as the parameters are where it was measured; else NaN.
        last_gain: decrease of the loss by the latest accepted escape on its own batch.
        last_step: update at which it was accepted; 0 before the first.
    """

    inner: Any
    pending: Any
    rollback_params: Any
    log: jax.Array
    counts: jax.Array
    numbers: jax.Array
    waiting: jax.Array
    recent: jax.Array
    blocks: jax.Array

    def __getattr__(self, name: str) -> Any:
        if name == "num_evaluations":
            return self.num_gradients + self.num_losses
        name = "statistics_kind" if name == "kind" else name
        if name in COUNTS:
            return self.counts[..., COUNTS.index(name)]
        if name in NUMBERS:
            return self.numbers[..., NUMBERS.index(name)]
        raise AttributeError(f"EscapeState has no {name!r}")


class HookState(NamedTuple):
    """An `EscapeState` unpacked.

    Attributes:
        inner: state of the optimiser inside.
        pending: step that the latest search found.
        rollback_params: variables before the latest escape.
        log: what the latest searches found and did.
        plateau: what the plateau test remembers.
        backoff: what the hook remembers of its searches.
        pending_gain: decrease by `pending` on its own batch; 0 where no step waits.

    The rest as in `EscapeState`.
    """

    inner: Any
    pending: Any
    rollback_params: Any
    log: jax.Array
    plateau: TracedPlateau
    backoff: BackoffState
    pending_gain: jax.Array
    num_steps: jax.Array
    num_probes: jax.Array
    num_escapes: jax.Array
    num_rollbacks: jax.Array
    num_hvps: jax.Array
    num_gradients: jax.Array
    num_losses: jax.Array
    num_rows: jax.Array
    last_curvature: jax.Array
    last_ratio: jax.Array
    last_gain: jax.Array

    @property
    def now(self) -> jax.Array:
        """Return the number of updates, as a real number."""
        return self.num_steps.astype(self.backoff.pause.dtype)

    @property
    def stalled(self) -> jax.Array:
        """Whether the plateau test asks for a search, no step waits, and no pause or cooldown lasts."""
        free = self.now >= jnp.maximum(self.backoff.next_probe, self.backoff.cooldown_until)
        return is_stalled(self.plateau.statistics.kind) & free & ~(self.pending_gain > 0)

    def after_progress(self, window: int) -> HookState:
        """End the backoff once the loss has left the plateau of the latest search; let old escapes stand."""
        new = self.backoff.after_progress(self.num_steps, self.plateau.level, window)
        left = jnp.isfinite(self.backoff.level) & ~jnp.isfinite(new.level)
        return self._replace(backoff=new, last_ratio=self._forgotten(left))

    def _forgotten(self, where: jax.Array) -> jax.Array:
        """The last ratio, or NaN where the parameters are no longer where it was seen."""
        return jnp.where(where, jnp.full_like(self.last_ratio, jnp.nan), self.last_ratio)

    @property
    def flat(self) -> jax.Array:
        """Whether the lowest curvature here is next to nothing beside the highest."""
        return jnp.abs(self.last_ratio) <= FLAT_RATIO

    def after_probe(
        self, fruitless: jax.Array, found: SearchResult, cost: jax.Array, price: jax.Array, max_share: float
    ) -> HookState:
        """Where a search was `fruitless`, add its cost; see `BackoffState.after_probe`."""
        plateau = self.plateau
        new = self.backoff.after_probe(
            self.num_steps,
            fruitless=fruitless,
            waits=self.stalled,
            hopeless=found.ratio > FLAT_RATIO,
            cost=cost,
            price=price,
            level=plateau.level,
            scale=jnp.maximum(jnp.abs(plateau.fall), plateau.noise),
            max_share=max_share,
        )
        return self._replace(backoff=new)

    def after_escape(
        self, moved: jax.Array, gain: jax.Array, window: int, rollback_params: Any, value: jax.Array
    ) -> HookState:
        """Where a step off a saddle was taken, start the plateau test again; `BackoffState.after_escape`."""
        dtype, every = self.backoff.pause.dtype, self.plateau.waiting.shape[0]
        fresh = new_plateau(window, every, dtype, gain)
        return self._replace(
            plateau=jax.tree.map(lambda new, old: jnp.where(moved, new, old), fresh, self.plateau),
            backoff=self.backoff.after_escape(self.num_steps, moved, value, gain, window),
            rollback_params=jax.tree.map(
                lambda new, old: jnp.where(moved, new, old), rollback_params, self.rollback_params
            ),
            last_ratio=self._forgotten(moved),
            num_escapes=self.num_escapes + moved.astype(jnp.int32),
            last_gain=jnp.where(moved, gain, self.last_gain),
        )

    def after_rollback(self, back: Any, window: int) -> HookState:
        """Take the latest escape back by the step `back`, and start a cooldown as long as the run so far."""
        dtype, every = self.backoff.pause.dtype, self.plateau.waiting.shape[0]
        return self._replace(
            pending=back,
            plateau=new_plateau(window, every, dtype),
            pending_gain=jnp.zeros_like(self.pending_gain),
            backoff=self.backoff.after_rollback(self.num_steps, window),
            last_ratio=jnp.full_like(self.last_ratio, jnp.nan),
            num_rollbacks=self.num_rollbacks + 1,
        )


def new_state(
    inner: Any, pending: Any, rollback_params: Any, window: int, every: int, dtype: Any
) -> EscapeState:
    """Start, with an optimiser's state, room for a step and room for variables."""
    nan, zero = jnp.asarray(np.nan, dtype), jnp.zeros((), dtype)
    counts = {name: jnp.zeros((), jnp.int32) for name in HookState._fields if name.startswith("num_")}
    memory = HookState(
        inner=inner,
        pending=pending,
        rollback_params=rollback_params,
        log=jnp.zeros((ROWS, len(COLUMNS)), dtype),
        plateau=new_plateau(window, every, dtype),
        backoff=new_backoff(jnp, window, dtype),
        pending_gain=zero,
        last_curvature=nan,
        last_ratio=nan,
        last_gain=zero,
        **counts,
    )
    return pack(memory)


def pack(memory: HookState) -> EscapeState:
    """Put all scalars into two arrays."""
    plateau, statistics = memory.plateau, memory.plateau.statistics
    fields = memory._asdict() | memory.backoff._asdict()
    fields |= {f"plateau_{name}": value for name, value in plateau._asdict().items()}
    fields |= {f"statistics_{name}": value for name, value in statistics._asdict().items()}
    return EscapeState(
        inner=memory.inner,
        pending=memory.pending,
        rollback_params=memory.rollback_params,
        log=memory.log,
        counts=jnp.stack([fields[name] for name in COUNTS]),
        numbers=jnp.stack([fields[name] for name in NUMBERS]),
        waiting=plateau.waiting,
        recent=statistics.recent,
        blocks=statistics.blocks,
    )


def unpack(state: EscapeState) -> HookState:
    """Take them out again."""

    def parts(kind: Any, prefix: str, **own: Any) -> Any:
        rest = (name for name in kind._fields if name not in own)
        return kind(**own, **{name: getattr(state, prefix + name) for name in rest})

    statistics = parts(PlateauStatistics, "statistics_", recent=state.recent, blocks=state.blocks)
    plateau = parts(TracedPlateau, "plateau_", statistics=statistics, waiting=state.waiting)
    arrays = {name: getattr(state, name) for name in ("inner", "pending", "rollback_params", "log")}
    return cast(HookState, parts(HookState, "", **arrays, plateau=plateau, backoff=parts(BackoffState, "")))


def record_loss(state: EscapeState, value: jax.Array) -> tuple[EscapeState, jax.Array]:
    """Count a step and keep its loss; say whether to judge, to confirm a step, or to go back."""
    # Three small operations, all that a healthy step does.  A loss that is not finite is left out.
    index = np.arange(len(COUNTS))
    held = COUNTS.index("plateau_held")
    value = value.astype(state.waiting.dtype)
    step = (index == COUNTS.index("num_steps")).astype(np.int32)
    kept = (index == held).astype(np.int32) * jnp.isfinite(value).astype(jnp.int32)
    waiting = jax.lax.dynamic_update_index_in_dim(state.waiting, value, state.counts[held], 0)
    state = state._replace(counts=state.counts + step + kept, waiting=waiting)
    more = (state.counts[held] >= waiting.shape[0]) | (state.pending_gain > 0)
    return state, more | exceeds_threshold(state, value)


def add_row(before: HookState, after: HookState, value: jax.Array) -> HookState:
    """Add a row to the log if a search, an escape or a rollback took place in the step between two states."""
    dtype = after.log.dtype
    searched = after.num_probes > before.num_probes
    escaped = after.num_escapes > before.num_escapes
    back = after.num_rollbacks > before.num_rollbacks
    waits = after.pending_gain > 0
    denied = (before.pending_gain > 0) & ~escaped & ~back
    what = jnp.where(waits, 1, 0) + jnp.where(denied & ~searched, 3, 0)
    what = jnp.where(back, 4, jnp.where(escaped, 2, what))
    gain = jnp.where(escaped | back, after.last_gain, after.pending_gain)
    spent = after.num_hvps > before.num_hvps
    nan = jnp.full_like(after.last_curvature, jnp.nan)
    curvature = jnp.where(spent, after.last_curvature, nan), jnp.where(spent, after.last_ratio, nan)
    pause = jnp.maximum(after.backoff.next_probe, after.backoff.cooldown_until)
    counts = (getattr(after, name) - getattr(before, name) for name in COSTS)
    numbers = (after.num_steps, what, before.plateau.statistics.kind, value, *curvature, gain, *counts, pause)
    row = jnp.stack([jnp.asarray(entry).astype(dtype) for entry in numbers])
    new = jax.lax.dynamic_update_index_in_dim(after.log, row, after.num_rows % ROWS, 0)
    happened = searched | escaped | back | denied
    return after._replace(
        log=jnp.where(happened, new, after.log), num_rows=after.num_rows + happened.astype(jnp.int32)
    )
