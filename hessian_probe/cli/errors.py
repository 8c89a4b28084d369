"""User errors, reported without a traceback."""

from __future__ import annotations

from hessian_probe.operators.objective import notes_in_loss


class BadInputError(Exception):
    """What was asked cannot be done; the message names the file, function or argument."""


def told(error: BaseException) -> str:
    """Write an exception in a few lines: its kind, its first paragraph, where in the loss it was."""
    said = f"{type(error).__name__}: {str(error).strip()}".split("\n\n")[0]
    return "\n".join([said, *(f"({note})" for note in notes_in_loss(error))])


def raised_in_loss(error: BaseException) -> bool:
    """Whether an exception came out of the caller's loss."""
    return bool(notes_in_loss(error))
