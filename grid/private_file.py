"""Files for one user's eyes: written whole or not at all, mode 0600."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


def readable_by_others(path: Path) -> bool:
    """Whether other users of this machine can read the file. Raises OSError."""
    return os.name == "posix" and bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def make_private(path: Path, content: bytes) -> None:
    """Make the file unless it is there: of many that try at once the first stays, and nobody reads half of one.

    Raises OSError.
    """
    draft = _draft(path, content)
    try:
        os.link(draft, path)
    except FileExistsError:  # somebody else was first: theirs counts
        pass
    finally:
        draft.unlink()


def write_private(path: Path, content: bytes) -> None:
    """Make the file, or put another in its place. Raises OSError."""
    draft = _draft(path, content)
    try:
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path, content: bytes) -> Path:
    """The content on disk, beside its place."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return draft
