"""Reads the log of `escape_saddles` from its state, on the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hessian_probe.results import number, signed
from hessian_probe.training.escape_state import COLUMNS, COSTS, ROWS, WHAT, EscapeState
from hessian_probe.training.plateau_statistics import KINDS
from hessian_probe.training.random_restart import FLAT_RATIO


def escape_events(state: EscapeState) -> list[dict[str, Any]]:
    """Read what `escape_saddles` saw and did from its state: a table, one dict per event.

    Kinds are those of `hp.training.Event`: "escaped", "at_minimum" (all curvature that the latest search
    measured is clearly positive), or the state of the loss; "taken_back" is an escape that was taken back.
    The evidence says why the hook paused, and when it will search again.

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

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from hessian_probe.training import escape_saddles
        >>> optimizer = escape_saddles(optax.sgd(0.1), lambda p: jnp.sum(p**2))
        >>> escape_events(optimizer.init(jnp.ones(2)))  # before the first search
        []
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
    if what == "nothing" and row["ratio"] > FLAT_RATIO:
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
    """What was found, and what follows, in a sentence."""
    gain, curvature = number(row["gain"], 3), row["curvature"]
    pauses = row["next_probe"] > row["step"]
    then = f"no search before update {row['next_probe']:.0f}" if pauses else "searches continue on schedule"
    if what == "escaped":
        return f"a step off a saddle lowers the loss by {gain}"
    if what == "found":
        return f"a step that lowers the loss by {gain} was found; the next batch must confirm it"
    if what == "denied":
        return f"the next batch did not confirm the step; {then}"
    if what == "taken_back":
        return f"the loss rose by {gain} above the saddle's, so the escape was taken back; {then}"
    if math.isnan(curvature):
        restarts = ", and random restarts reach no lower loss" if row["num_gradients"] > 1 else ""
        return f"along the gradient the loss does not bend down{restarts}; {then}"
    flat = "not negative" if row["ratio"] > FLAT_RATIO else "next to nothing beside the highest"
    sign = "negative, but no step along it lowers the loss enough" if curvature < 0 else flat
    return f"the lowest curvature measured is {signed(curvature, 3)}, {sign}; {then}"
