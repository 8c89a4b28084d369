"""What `escape_saddles` remembers from step to step, and how each step changes that."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.points.sphere_search import MOST_EVALUATIONS, SearchState, idle
from hessian_probe.points.thresholds import SPHERE_RADII
from hessian_probe.training.backoff import (
    BackoffState,
    asks_for_search,
    exceeds_threshold,
    least_gain,
    new_backoff,
)
from hessian_probe.training.plateau import TracedPlateau, new_plateau
from hessian_probe.training.plateau_statistics import PlateauStatistics

# Scalars of `HookState` in the order of the packed arrays: its own, those of its backoff, and with a prefix
# those of its plateau and statistics.
COUNTS = (
    "num_steps",
    "num_probes",
    "num_escapes",
    "num_rollbacks",
    "num_gradients",
    "num_rows",
    "last_step",
    "search_sphere",
    "search_turn",
    "search_gradients",
    "plateau_held",
    "statistics_count",
    "statistics_filled",
    "statistics_stride",
    "statistics_held",
    "statistics_kind",
    "statistics_candidate",
)
NUMBERS = (
    "search_gain",
    "pause",
    "next_probe",
    "level",
    "scale",
    "spent_without_result",
    "rollback_threshold",
    "cooldown_until",
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
    "gain",
    "num_gradients",
    "next_probe",
)
# What happened, in the order of the numbers that stand for it.
WHAT = ("nothing", "escaped", "taken_back")


class EscapeState(NamedTuple):
    """State of `escape_saddles`: few arrays, because each costs every step of a Python loop a microsecond.

    What is packed in `counts` and `numbers` can be read by name too.

    Attributes:
        inner: state of the optimiser inside.
        step: displacement that the search is at, or that the latest one found.
        rollback_params: variables before the latest escape.
        log: what the latest searches found and did, read by `escape_events`, shape (32, 7).
        counts: whole numbers, shape (17,).
        numbers: real numbers, shape (15,).
        waiting: losses that are not judged yet, shape (every,).
        recent: losses before them, shape (window,).
        blocks: means over the whole run, shape (128,).
        kind: verdict of the plateau test, an index into "none", "flat", "slow", "oscillating", "diverging",
            "noisy".
        num_steps: updates.
        num_probes: searches begun.
        num_escapes: steps off saddles that were accepted.
        num_rollbacks: escapes that were taken back, because training could not continue from there.
        num_gradients: gradients evaluated beside the optimiser's.
        num_rows: rows that were ever written to `log`.
        next_probe: update before which a plateau starts no search.
        last_gain: mean decrease of the loss by the latest escape on the four batches that checked it.
        last_step: update at which it was accepted; 0 before the first.
    """

    inner: Any
    step: Any
    rollback_params: Any
    log: jax.Array
    counts: jax.Array
    numbers: jax.Array
    waiting: jax.Array
    recent: jax.Array
    blocks: jax.Array

    def __getattr__(self, name: str) -> Any:
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
        search: the search on spheres.
        rollback_params: variables before the latest escape.
        log: what the latest searches found and did.
        plateau: what the plateau test remembers.
        backoff: what the hook remembers of its searches.
        search_gradients: gradients that this search has cost so far.

    The rest as in `EscapeState`.
    """

    inner: Any
    search: SearchState
    rollback_params: Any
    log: jax.Array
    plateau: TracedPlateau
    backoff: BackoffState
    num_steps: jax.Array
    num_probes: jax.Array
    num_escapes: jax.Array
    num_rollbacks: jax.Array
    num_gradients: jax.Array
    num_rows: jax.Array
    search_gradients: jax.Array
    last_gain: jax.Array

    def due(self, every: int) -> jax.Array:
        """Whether the plateau test asks for a search, or in its silence the schedule, and no pause lasts."""
        now = self.num_steps.astype(self.backoff.pause.dtype)
        free = now >= jnp.maximum(self.backoff.next_probe, self.backoff.cooldown_until)
        statistics = self.plateau.statistics
        return asks_for_search(statistics.kind, statistics.count, every) & free

    def enough(self, value: jax.Array, eps: float) -> jax.Array:
        """Least gain of an escape: beyond rounding, training's own, and a share of the run's gain so far."""
        plateau = self.plateau
        return least_gain(
            jnp, plateau.statistics, plateau.fall, plateau.noise, plateau.level, eps * jnp.abs(value)
        )

    def after_progress(self, window: int) -> HookState:
        """End the backoff once the loss has left the plateau of the latest search; let old escapes stand."""
        return self._replace(backoff=self.backoff.after_progress(self.num_steps, self.plateau.level, window))

    def after_probe(self, fruitless: jax.Array, max_share: float) -> HookState:
        """Where a search was `fruitless`, add its cost; see `BackoffState.after_probe`."""
        plateau = self.plateau
        new = self.backoff.after_probe(
            self.num_steps,
            fruitless=fruitless,
            hopeless=jnp.zeros_like(fruitless),
            cost=self.search_gradients,
            price=MOST_EVALUATIONS,
            level=plateau.level,
            scale=jnp.maximum(jnp.abs(plateau.fall), plateau.noise),
            max_share=max_share,
        )
        return self._replace(backoff=new)

    def after_escape(self, moved: jax.Array, window: int, x: Any, value: jax.Array) -> HookState:
        """Where a step off a saddle was taken, start the plateau test again; `BackoffState.after_escape`."""
        dtype, every, gain = self.backoff.pause.dtype, self.plateau.waiting.shape[0], self.search.gain
        fresh = new_plateau(window, every, dtype, gain)
        return self._replace(
            plateau=_where(moved, fresh, self.plateau),
            backoff=self.backoff.after_escape(self.num_steps, moved, value, gain, window),
            rollback_params=_where(moved, x, self.rollback_params),
            num_escapes=self.num_escapes + moved.astype(jnp.int32),
            last_gain=jnp.where(moved, gain, self.last_gain),
        )

    def after_rollback(self, back: Any, window: int) -> HookState:
        """Take the latest escape back by the step `back`, and start a cooldown as long as the run so far."""
        dtype, every = self.backoff.pause.dtype, self.plateau.waiting.shape[0]
        return self._replace(
            search=idle(back, dtype)._replace(step=back),
            plateau=new_plateau(window, every, dtype),
            backoff=self.backoff.after_rollback(self.num_steps, window),
            num_rollbacks=self.num_rollbacks + 1,
        )


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def new_state(inner: Any, search: SearchState, rollback_params: Any, window: int, every: int) -> EscapeState:
    """Start, with an optimiser's state, an idle search and room for variables."""
    dtype = search.gain.dtype
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    counts = {name: none for name in HookState._fields if name.startswith("num_")}
    memory = HookState(
        inner=inner,
        search=search,
        rollback_params=rollback_params,
        log=jnp.zeros((ROWS, len(COLUMNS)), dtype),
        plateau=new_plateau(window, every, dtype),
        backoff=new_backoff(jnp, window, dtype),
        search_gradients=none,
        last_gain=zero,
        **counts,
    )
    return pack(memory)


def pack(memory: HookState) -> EscapeState:
    """Put all scalars into two arrays."""
    plateau, statistics = memory.plateau, memory.plateau.statistics
    fields = memory._asdict()
    for part, prefix in ((memory.search, "search_"), (memory.backoff, ""), (plateau, "plateau_")):
        fields |= {prefix + name: value for name, value in part._asdict().items()}
    fields |= {f"statistics_{name}": value for name, value in statistics._asdict().items()}
    return EscapeState(
        inner=memory.inner,
        step=memory.search.step,
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
    search = parts(SearchState, "search_", step=state.step, found=jnp.zeros((), jnp.bool_))
    arrays = {name: getattr(state, name) for name in ("inner", "rollback_params", "log")}
    held = {"search": search, "plateau": plateau, "backoff": parts(BackoffState, "")}
    return cast(HookState, parts(HookState, "", **arrays, **held))


def record_loss(state: EscapeState, value: jax.Array) -> tuple[EscapeState, jax.Array]:
    """Count a step and keep its loss; say whether to judge, to search, or to go back."""
    # Three small operations, all that a healthy step does.  A loss that is not finite is left out.
    index = np.arange(len(COUNTS))
    held = COUNTS.index("plateau_held")
    value = value.astype(state.waiting.dtype)
    step = (index == COUNTS.index("num_steps")).astype(np.int32)
    kept = (index == held).astype(np.int32) * jnp.isfinite(value).astype(jnp.int32)
    waiting = jax.lax.dynamic_update_index_in_dim(state.waiting, value, state.counts[held], 0)
    state = state._replace(counts=state.counts + step + kept, waiting=waiting)
    more = (state.counts[held] >= waiting.shape[0]) | (state.search_sphere < len(SPHERE_RADII))
    return state, more | exceeds_threshold(state, value)


def add_row(before: HookState, after: HookState, value: jax.Array) -> HookState:
    """Add a row to the log if a search, an escape or a rollback ended in the step between two states."""
    dtype = after.log.dtype
    escaped = after.num_escapes > before.num_escapes
    back = after.num_rollbacks > before.num_rollbacks
    ended = before.search.going & ~after.search.going
    what = jnp.where(back, 2, jnp.where(escaped, 1, 0))
    gain = jnp.where(escaped | back, after.last_gain, 0)
    pause = jnp.maximum(after.backoff.next_probe, after.backoff.cooldown_until)
    spent = jnp.where(ended, after.search_gradients, after.num_gradients - before.num_gradients)
    numbers = (after.num_steps, what, before.plateau.statistics.kind, value, gain, spent, pause)
    row = jnp.stack([jnp.asarray(entry).astype(dtype) for entry in numbers])
    new = jax.lax.dynamic_update_index_in_dim(after.log, row, after.num_rows % ROWS, 0)
    happened = ended | back
    return after._replace(
        log=jnp.where(happened, new, after.log), num_rows=after.num_rows + happened.astype(jnp.int32)
    )
