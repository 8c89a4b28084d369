"""The one shape of all tables: a row is a ``KnownPoint``, made from the seed and the row's case."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hessian_probe.problems import KnownPoint

DATA = Path(__file__).parents[1] / "data"
TABLES: dict[str, list[Callable[[int], list[KnownPoint]]]] = {}


def table(kind: str, cases: Iterable[tuple[Any, ...]] | int) -> Callable[[Any], Any]:
    """Register ``make(seed, *case)``: a row, or a list of rows, of a kind for each case, or number of one."""
    listed = [(number,) for number in range(cases)] if isinstance(cases, int) else list(cases)

    def register(make: Callable[..., KnownPoint | list[KnownPoint]]) -> Any:
        def points(seed: int) -> list[KnownPoint]:
            made = [make(seed, *case) for case in listed]
            rows = [row for group in made for row in (group if isinstance(group, list) else [group])]
            return [dataclasses.replace(row, kind=kind) for row in rows]

        TABLES.setdefault(kind, []).append(points)
        return make

    return register


def of_data(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """Make a function of parameters and arrays a loss of parameters and data: these arrays, or the one."""
    return lambda params, data: function(params, *(data if isinstance(data, tuple) else (data,)))


def draws(*key: int) -> np.random.Generator:
    """Return random numbers of their own for one row."""
    return np.random.default_rng(key)


def changed(point: KnownPoint, name: str, **facts: Any) -> KnownPoint:
    """Give a point another name and other facts."""
    return dataclasses.replace(point, name=name, **facts)


def extremum(sign: float) -> str:
    """Name the extremum whose curvature has this sign."""
    return "minimum" if sign > 0 else "maximum"
