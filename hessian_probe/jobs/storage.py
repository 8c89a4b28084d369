"""Files that are whole or refused: named arrays and a header, checked to the last byte.

Layout: a magic word, the format and the length of the whole file, a JSON header that lists the arrays,
their bytes, and a BLAKE2b digest of all that comes before.  Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

MAGIC = b"HESSIAN_PROBE\n\x1a\x00"  # \x1a and \x00: no text file begins so
FORMAT = 1
PREFIX = struct.Struct("<IQQ")  # format, length of the file, length of the header
DIGEST_BYTES = 32


class Record(NamedTuple):
    """What a file holds.

    Attributes:
        kind: what it is, "eigsh job" for instance.
        header: anything that JSON can hold.
        arrays: named arrays, each in its own dtype.
    """

    kind: str
    header: dict[str, Any]
    arrays: Mapping[str, np.ndarray]


def write(path: Path, record: Record) -> int:
    """Write a file so that, whatever happens meanwhile, the old one or the new one is there, whole.

    Args:
        path: where to; a file beside it is written first, forced to the disk, and put in its place.
        record: what to write.

    Returns:
        Bytes written.

    Raises:
        OSError: the folder cannot be written, or the disk is full; an old file is left as it was.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    table = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({"kind": record.kind, "header": record.header, "arrays": table}).encode()
    body = len(header) + sum(array.nbytes for array in arrays.values())
    total = len(MAGIC) + PREFIX.size + body + DIGEST_BYTES
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            front = MAGIC + PREFIX.pack(FORMAT, total, len(header)) + header
            for piece in (np.frombuffer(front, np.uint8), *arrays.values()):
                view = piece.reshape(-1).view(np.uint8).data
                digest.update(view)
                file.write(view)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return total


def read(path: Path) -> Record:
    """Read a file that `write` made.

    Args:
        path: the file.

    Returns:
        What it holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is cut off, damaged, of a newer format, or no such file; the message says which.
    """
    content = path.read_bytes()
    start = len(MAGIC) + PREFIX.size
    if not content.startswith(MAGIC[: len(content)]):
        raise ValueError(f"{path} was not saved by hessian_probe; give the path of a file that it saved")
    if len(content) < start:
        raise ValueError(f"{path} is cut off after {len(content)} bytes; {_REMEDY}")
    version, total, width = PREFIX.unpack_from(content, len(MAGIC))
    if len(content) < total:
        raise ValueError(f"{path} is cut off: {len(content)} of {total} bytes are there; {_REMEDY}")
    whole = memoryview(content)
    if version == FORMAT or len(content) > total:
        found = hashlib.blake2b(whole[:-DIGEST_BYTES], digest_size=DIGEST_BYTES).digest()
        if len(content) > total or found != content[-DIGEST_BYTES:]:
            raise ValueError(f"{path} is damaged: its bytes do not match their checksum; {_REMEDY}")
    if version != FORMAT:
        raise ValueError(
            f"{path} is in format {version}, this hessian_probe reads format {FORMAT}: use the version that "
            "saved it, or start again"
        )
    described = json.loads(bytes(whole[start : start + width]))
    arrays, offset = {}, start + width
    for name, dtype, shape in described["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        kind = jnp.dtype(dtype)
        arrays[name] = np.frombuffer(content, kind, count, offset).reshape(shape)
        offset += count * kind.itemsize
    return Record(described["kind"], described["header"], arrays)


_REMEDY = "delete it and start again, or give a copy that is whole"


def _sync_folder(folder: Path) -> None:
    """Force the new name to the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
