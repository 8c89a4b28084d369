"""The state of a job in a file: written whole or not at all; damaged files are refused.

A state is nested dicts and tuples of numbers, texts, None and arrays.  Whatever is saved is one: a search
returns its state, which contains that of its Krylov basis, and `write` puts it into a file.

The file is an npz archive: each array is a member, and the member HEADER is the rest as JSON, with the names
of the members in place of the arrays.  `numpy.load` opens it.  Nothing in a file is ever executed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

State = dict[str, Any]
# Member that says that the file is ours, and how its arrays belong together.
HEADER = "hessian_probe"
# First bytes of a zip archive that is not empty.
MAGIC = b"PK\x03\x04"
_FOREIGN = "was not saved by hessian_probe; give the path of a file that it saved"
_REMEDY = "delete it and start again, or give a copy that is whole"


class CheckpointError(ValueError):
    """A saved file cannot be continued from: it is cut off, damaged, foreign, or of another job."""


def snapshot(state: State) -> State:
    """Copy a state to the host: the arrays that it was taken from may be reused."""
    copied: State = jax.tree.map(
        lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray | jax.Array) else leaf, state
    )
    return copied


def random_state(rng: np.random.Generator) -> str:
    """State of a generator as a text."""
    return json.dumps(rng.bit_generator.state)


def set_random_state(rng: np.random.Generator, text: str) -> None:
    """Put a generator back to a state that `random_state` gave."""
    rng.bit_generator.state = json.loads(text)


def write(path: Path, state: State) -> None:
    """Write a file so that at any moment the old one or the new one is there, whole.

    A file beside it is written first, forced to the disk, and put in its place.

    Raises:
        TypeError: the state contains something else than numbers, texts, None and arrays.
        OSError: the folder cannot be written, or the disk is full; an old file is left as it was.
    """
    arrays: dict[str, np.ndarray] = {}
    header = json.dumps(_described(state, (), arrays)).encode()
    members: dict[str, Any] = {HEADER: np.frombuffer(header, np.uint8), **arrays}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read(path: Path) -> State:
    """Return the state that `write` put into a file; lists come back as tuples, all arrays as NumPy's.

    Raises:
        CheckpointError: it is cut off, damaged, or not one of these files; the message says which.
    """
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        if start != MAGIC[: len(start)]:
            raise CheckpointError(f"{path} {_FOREIGN}")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                names = set(archive.files)
                broken = archive.zip.testzip()  # reads all of it, against the checksums
                if broken is None and HEADER in names:
                    described = json.loads(archive[HEADER].tobytes())
                    state: State = _rebuilt(described, archive)
        except Exception as error:  # bytes that are wrong fail in many ways
            raise CheckpointError(f"{path} is cut off or damaged ({error}); {_REMEDY}") from error
    if broken is not None:
        raise CheckpointError(f"{path} is damaged: {broken} does not match its checksum; {_REMEDY}")
    if HEADER not in names:
        raise CheckpointError(f"{path} {_FOREIGN}")
    return state


def _described(value: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    """Write a value as JSON can hold it, its arrays beside it under the names of their places."""
    name = "/".join(path)
    if isinstance(value, np.ndarray | jax.Array):
        arrays[name] = np.asarray(value)
        return {"array": name, "dtype": arrays[name].dtype.name}
    if isinstance(value, dict):
        return {"dict": {key: _described(part, (*path, key), arrays) for key, part in value.items()}}
    if isinstance(value, tuple | list):
        return [_described(part, (*path, str(index)), arrays) for index, part in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}, which a state cannot hold")


def _rebuilt(described: Any, arrays: Any) -> Any:
    """Undo `_described`."""
    if isinstance(described, list):
        return tuple(_rebuilt(part, arrays) for part in described)
    if not isinstance(described, dict):
        return described
    if "dict" in described:
        return {key: _rebuilt(part, arrays) for key, part in described["dict"].items()}
    array = arrays[described["array"]]
    return array.view(jnp.dtype(described["dtype"]))  # NumPy forgets the name of bfloat16


def _sync_folder(folder: Path) -> None:
    """Force the new name to the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
