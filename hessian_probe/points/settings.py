"""The options of `classify`, as one record."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Settings(NamedTuple):
    """What was asked of a classification; the arguments of `classify`."""

    budget: int
    confidence: float
    negative_tol: float
    rtol: float | None
    progress: Callable[[str], None] | None
    sampled: bool = True
    counting: bool = False
    resolution: float | None = None
