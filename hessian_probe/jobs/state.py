"""The state of a search as numbers and arrays that a file can hold."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

# Records that a state may hold, by name; `stored` adds to them.
RECORDS: dict[str, type[Any]] = {}
Record = TypeVar("Record", bound=type[Any])


def stored(cls: Record) -> Record:
    """Class decorator: `pack` may describe instances field by field, and `unpack` makes them again."""
    RECORDS[cls.__name__] = cls
    return cls


class State(NamedTuple):
    """Described values, and the arrays that the descriptions name."""

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]


def pack(values: dict[str, Any]) -> State:
    """Describe values: numbers, texts, arrays, tuples of these, and classes marked `stored`.

    Args:
        values: by name.

    Returns:
        Their state; arrays keep their dtype.

    Raises:
        TypeError: a value is of another kind.
    """
    arrays: dict[str, np.ndarray] = {}

    def describe(name: str, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray | jax.Array):
            arrays[name] = np.array(value)  # a copy: what it came from may be reused
            return {"array": name, "device": isinstance(value, jax.Array)}
        if type(value).__name__ in RECORDS:
            fields = (
                dict(zip(value._fields, value, strict=True)) if hasattr(value, "_fields") else vars(value)
            )
            parts = {key: describe(f"{name}.{key}", part) for key, part in fields.items()}
            return {"record": type(value).__name__, "fields": parts}
        if isinstance(value, tuple | list):
            return {"tuple": [describe(f"{name}.{index}", part) for index, part in enumerate(value)]}
        raise TypeError(f"{name} is a {type(value).__name__}, which a state cannot hold")

    header = {name: describe(name, value) for name, value in values.items()}
    return State(header, arrays)


def unpack(state: State) -> dict[str, Any]:
    """Undo `pack`; lists come back as tuples."""

    def build(described: Any) -> Any:
        if not isinstance(described, dict):
            return described
        if "array" in described:
            array = state.arrays[described["array"]]
            return jnp.asarray(array) if described["device"] else np.array(array)
        if "tuple" in described:
            return tuple(build(part) for part in described["tuple"])
        fields = {key: build(part) for key, part in described["fields"].items()}
        cls = RECORDS[described["record"]]
        if issubclass(cls, tuple):
            return cls(**fields)
        record = object.__new__(cls)
        vars(record).update(fields)
        return record

    return {name: build(described) for name, described in state.header.items()}


def merged(own: State, **parts: State) -> State:
    """Put other states into one, each under a name of its own."""
    header, arrays = dict(own.header), dict(own.arrays)
    for name, part in parts.items():
        header[name] = part.header
        arrays |= {f"{name}/{key}": array for key, array in part.arrays.items()}
    return State(header, arrays)


def parted(state: State, name: str) -> tuple[State, State]:
    """Undo `merged` for one part: what is left, and the part."""
    header = {key: value for key, value in state.header.items() if key != name}
    inside = {k.removeprefix(f"{name}/"): a for k, a in state.arrays.items() if k.startswith(f"{name}/")}
    outside = {key: a for key, a in state.arrays.items() if not key.startswith(f"{name}/")}
    return State(header, outside), State(state.header[name], inside)


def random_state(rng: np.random.Generator) -> str:
    """State of a generator as a text."""
    return json.dumps(rng.bit_generator.state)


def set_random_state(rng: np.random.Generator, text: str) -> None:
    """Put a generator back to a state that `random_state` gave."""
    rng.bit_generator.state = json.loads(text)
