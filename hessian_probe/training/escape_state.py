"""What `escape_saddles` remembers from step to step, packed into few arrays, and its log."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.points.sphere_search import SearchState
from hessian_probe.points.thresholds import SPHERE_RADII
from hessian_probe.training.backoff import BackoffState, exceeds_threshold, new_backoff
from hessian_probe.training.plateau_statistics import PlateauStatistics, new_statistics

# Scalars of `HookState` in the order of the packed arrays: its own, those of its backoff, and with a prefix
# those of its search and statistics.
COUNTS = (
    *("num_steps", "num_probes", "num_escapes", "num_rollbacks", "num_gradients", "num_rows", "last_step"),
    *("kind", "waits", "search_sphere", "search_turn", "search_gradients"),
    *("statistics_filled", "statistics_stride", "statistics_held"),
)
NUMBERS = (
    *("search_gain", "pause", "next_probe", "spent_without_result", "rollback_threshold", "last_gain"),
    *("least_gain", "statistics_partial", "statistics_first", "statistics_gain"),
)
# Rows that are kept, the latest ones: pauses grow, so that they cover all of a run but for its many escapes.
ROWS = 32
COLUMNS = ("step", "what", "verdict", "value", "gain", "num_gradients", "next_probe")
# What happened, in the order of the numbers that stand for it.
WHAT = ("nothing", "escaped", "taken_back")


class EscapeState(NamedTuple):
    """State of `escape_saddles`: few arrays, because each costs every step of a Python loop a microsecond.

    What is packed in `counts` and `numbers` can be read by name too.

    Attributes:
        inner: state of the optimiser inside.
        step: displacement that the search is at, or that the latest one found.
        rollback_params: variables before the latest escape.
        log: what the latest searches found and did, read by `escape_events`, shape (33, 7).
        counts: whole numbers, shape (15,).
        numbers: real numbers, shape (10,).
        waiting: losses that are not judged yet, shape (window / 8,).
        blocks: means over the whole run, shape (128,).
        kind: verdict of the plateau test, an index into "none", "flat", "slow", "oscillating", "diverging",
            "noisy"; oscillations are noticed on the host alone.
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
    blocks: jax.Array

    def __getattr__(self, name: str) -> Any:
        if name in COUNTS:
            return self.counts[..., COUNTS.index(name)]
        if name in NUMBERS:
            return self.numbers[..., NUMBERS.index(name)]
        raise AttributeError(f"EscapeState has no {name!r}")


class HookState(NamedTuple):
    """An `EscapeState` unpacked, without the optimiser's state.

    Attributes:
        waits: losses that wait to be added to the statistics.
        search_gradients: gradients that this search has cost so far.
        least_gain: least decrease of the loss that makes an escape, rounding aside.

    The rest as in `EscapeState`.
    """

    search: SearchState
    statistics: PlateauStatistics
    backoff: BackoffState
    rollback_params: Any
    log: jax.Array
    waiting: jax.Array
    waits: jax.Array
    kind: jax.Array
    num_steps: jax.Array
    num_probes: jax.Array
    num_escapes: jax.Array
    num_rollbacks: jax.Array
    num_gradients: jax.Array
    num_rows: jax.Array
    search_gradients: jax.Array
    last_gain: jax.Array
    least_gain: jax.Array


# The parts of a `HookState` that have scalars of their own, and their prefixes.
PARTS: dict[str, tuple[Any, str]] = {
    "search": (SearchState, "search_"),
    "statistics": (PlateauStatistics, "statistics_"),
    "backoff": (BackoffState, ""),
}


def new_state(inner: Any, search: SearchState, rollback_params: Any, window: int, chunk: int) -> EscapeState:
    """Start, with an optimiser's state, an idle search and room for variables."""
    dtype = search.gain.dtype
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    given: dict[str, Any] = {
        "search": search,
        "statistics": new_statistics(jnp, dtype),
        "backoff": new_backoff(jnp, window, dtype),
        "rollback_params": rollback_params,
        "log": jnp.zeros((ROWS + 1, len(COLUMNS)), dtype),
        "waiting": jnp.zeros(chunk, dtype),
        "last_gain": zero,
        "least_gain": zero,
    }
    given |= dict.fromkeys([name for name in HookState._fields if name not in given], none)
    return pack(HookState(**given))._replace(inner=inner)


def pack(memory: HookState) -> EscapeState:
    """Put all scalars into two arrays."""
    fields = memory._asdict()
    for part, (_, prefix) in PARTS.items():
        fields |= {prefix + name: value for name, value in fields[part]._asdict().items()}
    return EscapeState(
        inner=(),
        step=memory.search.step,
        rollback_params=memory.rollback_params,
        log=memory.log,
        counts=jnp.stack([fields[name] for name in COUNTS]),
        numbers=jnp.stack([fields[name] for name in NUMBERS]),
        waiting=memory.waiting,
        blocks=memory.statistics.blocks,
    )


def unpack(state: EscapeState) -> HookState:
    """Take them out again."""
    fields = state._asdict() | dict(zip(COUNTS, state.counts, strict=True))
    fields |= dict(zip(NUMBERS, state.numbers, strict=True))
    fields |= {"search_step": state.step, "statistics_blocks": state.blocks}
    for part, (kind, prefix) in PARTS.items():
        fields[part] = kind(**{name: fields[prefix + name] for name in kind._fields})
    return HookState(**{name: fields[name] for name in HookState._fields})


def record_loss(state: EscapeState, value: jax.Array) -> tuple[EscapeState, jax.Array]:
    """Count a step and keep its loss; say whether to judge, to search, or to go back."""
    # Three small operations, all that a healthy step does.  A loss that is not finite is left out.
    index, waits = np.arange(len(COUNTS)), state.waits
    step = (index == COUNTS.index("num_steps")).astype(np.int32)
    kept = (index == COUNTS.index("waits")).astype(np.int32) * jnp.isfinite(value).astype(jnp.int32)
    waiting = jax.lax.dynamic_update_slice(state.waiting, value[None], (waits.astype(np.uint32),))
    state = state._replace(counts=state.counts + step + kept, waiting=waiting)
    more = (state.waits >= len(waiting)) | (state.search_sphere < len(SPHERE_RADII))
    return state, more | exceeds_threshold(state, value)


def add_row(memory: HookState, happened: jax.Array, *columns: jax.Array) -> HookState:
    """Write a row of the log; it counts, and is not written over by the next, if anything `happened`."""
    log = memory.log
    row = jnp.stack([column.astype(log.dtype) for column in columns])[None]
    at = jax.lax.rem(memory.num_rows, np.int32(ROWS + 1)).astype(np.uint32)
    return memory._replace(
        log=jax.lax.dynamic_update_slice(log, row, (at, np.uint32(0))),
        num_rows=memory.num_rows + happened.astype(jnp.int32),
    )
