"""User errors, reported without a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hessian_probe.operators.objective import notes_in_loss


class BadInputError(Exception):
    """What was asked cannot be done; the message names the file, function or argument."""


def told(error: BaseException) -> str:
    """Write an exception in a few lines: its kind, its first paragraph, where in the loss it was."""
    said = f"{type(error).__name__}: {str(error).strip()}".split("\n\n")[0]
    return "\n".join([said, *(f"({note})" for note in notes_in_loss(error))])


@contextlib.contextmanager
def refused_as_bad_input(name: str) -> Iterator[None]:
    """Raise BadInputError for what the package refuses within, and for what the caller's loss raises."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TypeError | ValueError) or notes_in_loss(error):
            raise BadInputError(f"{name}: {told(error)}") from error
        raise
