"""A line of progress: overwritten on a terminal, sparse in logs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

# Seconds between two lines: on a terminal they replace each other, in a log they pile up.
ON_TERMINAL = 0.1
IN_LOG = 2.0


class Progress:
    """Writes progress; call it with a line of text.

    Args:
        stream: where to; standard error.
        clock: seconds, ascending.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._terminal = stream.isatty()
        self._next = 0.0
        self._open = False
        self.last = ""

    def __call__(self, text: str) -> None:
        """Show a line, unless one was shown just now."""
        self.last = text
        if self._clock() < self._next:
            return
        self._next = self._clock() + (ON_TERMINAL if self._terminal else IN_LOG)
        if self._terminal:
            self._write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            self._open = True
        else:
            self._write(text + "\n")

    def stage(self, text: str) -> None:
        """Show a line that stays."""
        self.close()
        self.last = text
        self._write(text + "\n")

    def close(self) -> None:
        """Clear the line that would be overwritten next."""
        if self._open:
            self._write("\r\x1b[K")
        self._open = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
