"""Results and reports as JSON: labels, numbers and evidence, never parameter arrays."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from hessian_probe.display.record import Report, Section

# Fields that hold parameters or vectors like them, and the classification within an escape, which
# stands beside it.
OMITTED = frozenset({"params", "eigenvectors", "point"})
DIRECTIONS = frozenset({"escape_direction", "descent"})  # of these JSON says whether they are there


def to_json(item: Any) -> Any:
    """Return a report, a result or a value that one holds as what `json.dumps` takes.

    Numbers that are not finite become None, as JSON has no NaN.  The point and the escape that a
    report is about stand at its top level, and not a second time in its sections.

    Raises:
        TypeError: a value is of a kind that a report never holds.
    """
    if isinstance(item, Report):
        return _report(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return _fields(item)
    if item is None or isinstance(item, (str, bool)):
        return item
    if isinstance(item, (np.ndarray, np.generic)):
        return to_json(item.tolist())
    if isinstance(item, (int, float)):
        return item if math.isfinite(item) else None
    if isinstance(item, (list, tuple)):
        return [to_json(entry) for entry in item]
    raise TypeError(f"{type(item).__name__} has no place in JSON")


def _fields(item: Any) -> dict[str, Any]:
    out = {}
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if field.name in DIRECTIONS:
            out[f"has_{field.name}"] = value is not None
        elif field.name not in OMITTED:
            out[field.name] = to_json(value)
    return out


def _report(report: Report) -> dict[str, Any]:
    return {
        "title": report.title,
        "summary": report.summary,
        "point": to_json(report.point),
        "escape": to_json(report.escape),
        "sections": {section.key: _section(report, section) for section in report.sections},
        "spectra": to_json(report.spectra),
        "profile": to_json(report.profile),
    }


def _section(report: Report, section: Section) -> dict[str, Any]:
    out: dict[str, Any] = {"title": section.title, "text": list(section.text)}
    if section.facts:
        out["facts"] = dict(section.facts)
    own = [pair for pair in section.results if pair[1] not in (report.point, report.escape)]
    if own:
        out["results"] = {name: to_json(result) for name, result in own}
    if section.table is not None:
        out["table"] = to_json(section.table)
    return out
