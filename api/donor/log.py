"""The agent's log: the last lines in memory for who asks, all of them in files that don't grow without end."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from .face import LogLine

REMEMBERED = 2000
"""Lines in memory."""
FILE_BYTES, OLD_FILES = 1_000_000, 3
FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_OURS = "idlegrid"


class LogRing(logging.Handler):
    """Remembers the last lines, and numbers them."""

    def __init__(self, size: int = REMEMBERED) -> None:
        super().__init__()
        self._lines: deque[LogLine] = deque(maxlen=size)
        self._number = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, one record at a time."""
        self._number += 1
        at = datetime.fromtimestamp(record.created, UTC)
        self._lines.append(LogLine(self._number, at, record.levelname.lower(), record.getMessage()))

    def lines(self, after: int = 0, limit: int = 200) -> Sequence[LogLine]:
        """The newest `limit` lines with a number above `after`, oldest first."""
        self.acquire()
        try:
            found = [line for line in self._lines if line.number > after]
        finally:
            self.release()
        return found[-limit:] if limit > 0 else []


class PrivateFile(RotatingFileHandler):
    """A log in files of its owner's alone."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, self.mode, encoding=self.encoding)  # type: ignore[return-value]


@contextmanager
def logging_to(path: Path, ring: LogRing, *, shown: bool = True) -> Iterator[None]:
    """While it is open, what this process logs goes to the file, the ring and, if `shown`, to standard error."""
    file = PrivateFile(path, maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8")
    handlers: list[logging.Handler] = [file, ring]
    if shown:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
    root, ours = logging.getLogger(), logging.getLogger(_OURS)
    before = (root.handlers[:], root.level, ours.level)
    root.handlers[:] = handlers
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:], level, ours.level = before
        root.setLevel(level)
        file.close()
