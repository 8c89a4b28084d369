"""What `escape_saddles` saw and did, kept in its state and read on the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.results import number, signed
from hessian_probe.training.plateau_statistics import KINDS
from hessian_probe.training.random_restart import DEGENERATE

if TYPE_CHECKING:
    from hessian_probe.training.escape_state import EscapeState, HookState

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
    "num_evaluations",
    "next_probe",
)
COSTS = ("num_hvps", "num_gradients", "num_evaluations")
# What a row tells, in the order of the numbers that stand for it.
WHAT = ("looked", "found", "escaped", "denied", "taken_back")


def add_row(before: HookState, after: HookState, value: jax.Array) -> HookState:
    """Add a row where a look, an escape or a return took place.

    Args:
        before: memory at the beginning of a step.
        after: memory at its end.
        value: the step's loss.

    Returns:
        The memory at the end, with its row.
    """
    dtype = after.log.dtype
    looked = after.num_probes > before.num_probes
    escaped = after.num_escapes > before.num_escapes
    back = after.num_rollbacks > before.num_rollbacks
    waits = after.pending_gain > 0
    denied = (before.pending_gain > 0) & ~escaped & ~back
    what = jnp.where(waits, 1, 0) + jnp.where(denied & ~looked, 3, 0)
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
    happened = looked | escaped | back | denied
    return after._replace(
        log=jnp.where(happened, new, after.log), num_rows=after.num_rows + happened.astype(jnp.int32)
    )


def escape_events(state: EscapeState) -> list[dict[str, Any]]:
    """Read what `escape_saddles` saw and did from its state: a table, one dict per event.

    Kinds are those of `hp.training.Event`: "escaped", "at_minimum" (all curvature that the latest look's
    products saw is clearly positive), or the state of the loss; "taken_back" is an escape that was undone.
    The evidence says why it stopped asking, and when it will look again.

    Args:
        state: an `EscapeState`, of one run (not batched by `vmap`).

    Returns:
        The latest 32 rows, oldest first; each has step, kind, value, evidence, num_hvps, num_gradients,
        num_evaluations, lowest (curvature, NaN where no products were spent) and gain.  `write_events` writes
        them as JSON lines.

    Raises:
        TypeError: `state` is no EscapeState.

    Cost:
        One copy of 352 numbers to the host.  Steps are exact up to 2²⁴ in float32.
    """
    log, count = getattr(state, "log", None), getattr(state, "num_rows", None)
    if log is None or count is None:
        raise TypeError(f"state must be the EscapeState of escape_saddles; got {type(state).__name__}")
    rows, total = np.asarray(log, np.float64), int(count)
    order = [index % ROWS for index in range(max(0, total - ROWS), total)]
    return [_event(dict(zip(COLUMNS, rows[index].tolist(), strict=True))) for index in order]


def _event(row: dict[str, float]) -> dict[str, Any]:
    what, curvature = WHAT[int(row["what"])], row["curvature"]
    kind = KINDS[int(row["verdict"])]
    if what == "looked" and row["ratio"] > DEGENERATE:
        kind = "at_minimum"
    elif what in ("escaped", "taken_back"):
        kind = what
    return {
        "step": int(row["step"]),
        "kind": kind,
        "value": row["value"],
        "evidence": _evidence(what, row),
        **{name: int(row[name]) for name in COSTS},
        "lowest": curvature,
        "gain": row["gain"],
    }


def _evidence(what: str, row: dict[str, float]) -> str:
    """Why, and what comes next, in a sentence."""
    gain, curvature = number(row["gain"], 3), row["curvature"]
    waits = row["next_probe"] > row["step"]
    then = (
        f"the next look is not before update {row['next_probe']:.0f}" if waits else "looks go on as scheduled"
    )
    if what == "escaped":
        return f"a step off a saddle lowers the loss by {gain}"
    if what == "found":
        return f"a way down by {gain} was found and waits for the next batch"
    if what == "denied":
        return f"the next batch denied the step; {then}"
    if what == "taken_back":
        return f"the loss rose by {gain} above that at the saddle: the escape was taken back; {then}"
    if math.isnan(curvature):
        restarted = ", and random kicks lead nowhere lower" if row["num_gradients"] > 1 else ""
        return f"no step along the gradient bends down{restarted}; {then}"
    flat = "not negative" if row["ratio"] > DEGENERATE else "next to nothing beside the highest"
    sign = "negative, but no step along it is worth while" if curvature < 0 else flat
    return f"the lowest curvature seen is {signed(curvature, 3)}, {sign}; {then}"
