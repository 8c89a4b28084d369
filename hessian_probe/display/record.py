"""What there is to show, gathered in one frozen record that text, page and figure read."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np

from hessian_probe.escapes.result import Escape, LossProfile
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import summary
from hessian_probe.spectrum.result import EigenResult

Rows = tuple[tuple[str, str], ...]


class Result(Protocol):
    """A result object of the package: it can say what it is in a title and rows."""

    def _summary(self) -> tuple[str, list[tuple[str, str]]]: ...


@dataclasses.dataclass(frozen=True)
class Table:
    """A small table of text.

    Attributes:
        caption: what it shows.
        header: one heading for each column.
        rows: the cells, as long as the header.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """One part of a report, shown in this order: text, facts, results, table.

    Attributes:
        key: short name, the key in JSON.
        title: heading.
        text: paragraphs.
        facts: names and values.
        results: result objects, each with the name that it gets in JSON.
        table: a table, or None.
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    facts: Rows = ()
    results: tuple[tuple[str, Result], ...] = ()
    table: Table | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Loss while training.

    Attributes:
        name: label in the figure.
        role: "before" (up to the point), "after" (from the escape on) or "alone" (from the point
            on without an escape).
        steps: shape (k,), ascending.
        losses: shape (k,).
    """

    name: str
    role: str
    steps: np.ndarray
    losses: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Both ends of a spectrum at one place.

    Attributes:
        name: the place.
        eigenvalues: shape (k,), in loss / params².
        errors: shape (k,), residual norms: some eigenvalue lies within one of each value.
        zero_band: curvature below this counts as zero; NaN if unknown.
    """

    name: str
    eigenvalues: np.ndarray
    errors: np.ndarray
    zero_band: float


def spectrum_at(name: str, *ends: EigenResult, zero_band: float) -> Spectrum:
    """Gather the eigenvalues found at one place for the figure."""
    values = np.concatenate([np.asarray(end.eigenvalues, np.float64) for end in ends])
    errors = np.concatenate([np.asarray(end.residual_norms, np.float64) for end in ends])
    return Spectrum(name, values, errors, zero_band)


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Everything that a run has to show; made by the demo and by `hessian-probe probe`.

    Attributes:
        title: heading.
        summary: the outcome in one or two sentences.
        sections: the parts, in order.
        point: the classification that the report is about, or None if it did not get that far.
        escape: the escape from it, or None.
        curves: training curves.
        spectra: spectrum ends, one record for each place.
        profile: loss along the escape direction, or None.
        loss_name: what the loss is, for the axes.
        footer: versions and the like.
    """

    title: str
    summary: str
    sections: tuple[Section, ...]
    point: CriticalPoint | None = None
    escape: Escape | None = None
    curves: tuple[Curve, ...] = ()
    spectra: tuple[Spectrum, ...] = ()
    profile: LossProfile | None = None
    loss_name: str = "loss"
    footer: str = ""

    @property
    def has_figure(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.curves or self.spectra or self.profile)


def summary_of(result: Any) -> tuple[str, list[tuple[str, str]]]:
    """Title and rows of a result; one line if it cannot be summed up."""
    try:
        title, rows = summary(result)
    except Exception:  # a result must always print
        return repr(result), []
    return title, list(rows)
