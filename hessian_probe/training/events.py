"""What hooks report: events and their logs."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np

from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.escapes.result import Escape
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.sphere_search import radii_tried
from hessian_probe.results import number, result
from hessian_probe.training.escape_state import COLUMNS, ROWS, WHAT, EscapeState
from hessian_probe.training.plateau_statistics import KINDS


@result(leaves=("params", "opt_state", "value", "point", "escape"))
class Event:
    """What `Monitor.update` saw and did at one step.

    Attributes:
        kind: "none", "flat", "slow", "oscillating", "diverging", "noisy": the state of the loss (see
            `PlateauTest`); "escaped": the parameters were moved to a lower loss that training does not reach
            by itself, off the point that `point.label` names; "taken_back": the latest escape was taken back,
            `params` are those before it; "at_minimum": the loss is flat, and the latest probe found that no
            more than the resolution is left to gain.
        step: the step that was given.
        value: the loss that was given.
        params: what to continue with; the same object if nothing was changed.
        opt_state: what to continue with; the same object if nothing was changed.
        point: the classification, if one was made at this step, else None.
        escape: the escape, if one was tried at this step, else None.
        evidence: short sentences with the numbers that decided.
        num_hvps: Hessian-vector products spent at this step.
        num_evaluations: loss or gradient evaluations spent at this step.
        seconds: time spent at this step, compilation included.
    """

    kind: str
    step: int
    value: float
    params: Any
    opt_state: Any
    point: CriticalPoint | None
    escape: Escape | None
    evidence: tuple[str, ...]
    num_hvps: int
    num_evaluations: int
    seconds: float

    @property
    def moved(self) -> bool:
        """Whether `params` and `opt_state` are others than those that were given."""
        return self.kind in ("escaped", "taken_back")

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        title = f"Event: {self.kind.upper()}   step {self.step}, loss {number(self.value, 5)}"
        rows = [("because", sentence) for sentence in self.evidence]
        if self.point is not None:
            rows.append(("point", f"{self.point.label}, loss {number(self.point.loss, 5)}"))
            rows.extend(self.point.left_to_gain())
        if self.escape is not None:
            losses = f"{number(self.escape.loss_before, 5)} → {number(self.escape.loss_after, 5)}"
            rows.append(("escape", f"{self.escape.status}, loss {losses}"))
        rows.append(("cost", f"{self.num_hvps} HVPs, {self.num_evaluations} evaluations"))
        return title, rows

    def record(self) -> dict[str, Any]:
        """Return the event as a flat dict of numbers and strings, for a log."""
        row: dict[str, Any] = {
            "step": self.step,
            "kind": self.kind,
            "value": float(self.value),
            "evidence": "; ".join(self.evidence),
            "num_hvps": self.num_hvps,
            "num_evaluations": self.num_evaluations,
            "seconds": self.seconds,
        }
        if self.point is not None:
            lowest = self.point.lowest.eigenvalues
            row |= {
                "label": self.point.label,
                "grad_norm": float(self.point.grad_norm),
                "lowest": float(lowest[0]) if len(lowest) else None,
                "left_to_gain": float(self.point.gain),
                "resolution": float(self.point.resolution),
            }
        if self.escape is not None:
            row |= {
                "status": self.escape.status,
                "loss_before": float(self.escape.loss_before),
                "loss_after": float(self.escape.loss_after),
                "gain": float(self.escape.gain),
                "gain_of_slope": float(self.escape.gain_of_slope),
                "distance": float(self.escape.distance),
            }
        return row


def write_events(path: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Append events to a file of JSON lines for `read_events`.

    Args:
        path: the file; it is made where there is none.
        rows: one dict per event, as `escape_events` and `Event.record` return them.

    >>> write_events(os.devnull, [{"step": 8, "kind": "flat"}])
    """
    with open(path, "a", encoding="utf-8") as text:
        for row in rows:
            text.write(
                json.dumps({key: _plain(value) for key, value in row.items()}, ensure_ascii=False) + "\n"
            )


def read_events(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a log back as a table: one dict per event, all with the same keys.

    Args:
        path: file of JSON lines, as `Monitor(log=path)` and `write_events` write it.

    Returns:
        Rows in the order written; what an event lacks is None; NaN and infinities are floats again.

    Raises:
        ValueError: a line is no JSON object; the message names it.

    Example:
        >>> import tempfile
        >>> log = os.path.join(tempfile.mkdtemp(), "log.jsonl")
        >>> write_events(log, [{"step": 8, "kind": "flat"}, {"step": 16, "gain": math.inf}])
        >>> read_events(log)
        [{'step': 8, 'kind': 'flat', 'gain': None}, {'step': 16, 'kind': None, 'gain': inf}]
    """
    rows = []
    with open(path, encoding="utf-8") as text:
        for number_of_line, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{os.fspath(path)}, line {number_of_line}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{os.fspath(path)}, line {number_of_line}: expected a JSON object")
            rows.append({key: _number(value) for key, value in row.items()})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in columns} for row in rows]


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def escape_events(state: EscapeState) -> list[dict[str, Any]]:
    """Read what `escape_saddles` saw and did from its state: a table, one dict per event.

    Kinds are those of `hp.training.Event`: "escaped", or the state of the loss where a search ended without a
    result; "taken_back" is an escape that was taken back.  The evidence says why the hook paused, and when it
    will search again.

    Args:
        state: an `EscapeState`, of one run (not batched by `vmap`).

    Returns:
        The latest 32 rows, oldest first; each has step, kind, value, evidence, num_gradients and gain.
        `write_events` writes them as JSON lines.

    Raises:
        TypeError: `state` is no EscapeState.

    Cost:
        One copy of 231 numbers to the host.  Steps are exact up to 2²⁴ in float32.

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
    order = [index % (ROWS + 1) for index in range(max(0, total - ROWS), total)]
    return [_event(dict(zip(COLUMNS, rows[index].tolist(), strict=True))) for index in order]


def _event(row: dict[str, float]) -> dict[str, Any]:
    what, gain = WHAT[int(row["what"])], row["gain"]
    kind, then = KINDS[int(row["verdict"])], EscapeReason("on_schedule")
    if row["next_probe"] > row["step"]:
        then = EscapeReason("paused", update=f"{row['next_probe']:.0f}")
    if what == "escaped":
        reason = EscapeReason("step_taken", gain=gain)
    elif what == "taken_back":
        reason = EscapeReason("step_taken_back", gain=gain, then=then)
    else:
        reason = EscapeReason("nothing_on_spheres", radii=radii_tried(), then=then)
    return {
        "step": int(row["step"]),
        "kind": kind if what == "nothing" else what,
        "value": row["value"],
        "evidence": str(reason),
        "num_gradients": int(row["num_gradients"]),
        "gain": gain,
    }


def _plain(value: Any) -> Any:
    """Write infinities and NaN, which JSON does not know, as strings."""
    return repr(float(value)) if isinstance(value, float) and not math.isfinite(value) else value
