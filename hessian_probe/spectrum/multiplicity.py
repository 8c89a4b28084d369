"""Which of some eigenvalues cannot be told apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.results import signed


class Multiplicity(NamedTuple):
    """Eigenvalues that agree within their residuals.

    Attributes:
        value: their mean, in loss / params².
        copies: how many there are.
        exact: True if no further copy can exist (the whole spectrum is known there); else there are
            at least as many.
    """

    value: float
    copies: int
    exact: bool

    def __str__(self) -> str:
        text = f"{signed(self.value)} × {self.copies}"
        return text if self.exact else text + " or more"


def multiplicities(
    values: np.ndarray, radii: np.ndarray, complete: bool | np.ndarray
) -> tuple[Multiplicity, ...]:
    """Group ascending eigenvalues; neighbours belong together where their intervals ±radius meet.

    Args:
        values: shape (k,), ascending.
        radii: shape (k,), half-widths of the intervals.
        complete: whether no copy of an eigenvalue is missing; one flag for each, or for all.

    Returns:
        One entry for each group, ascending.
    """
    if not len(values):
        return ()
    known = np.broadcast_to(np.asarray(complete, bool), values.shape)
    apart = np.diff(values) > radii[1:] + radii[:-1]
    groups = np.split(np.arange(len(values)), np.flatnonzero(apart) + 1)
    return tuple(
        Multiplicity(float(np.mean(values[group])), len(group), bool(np.all(known[group])))
        for group in groups
    )
