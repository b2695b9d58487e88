"""The grid's secret: a file that every process of one grid reads, made once by whoever comes first."""

from __future__ import annotations

import hmac
import secrets
import stat
from hashlib import sha256
from pathlib import Path

from platformdirs import user_data_path

from .private_file import make_private, readable_by_others

BYTES = 32
MIN_BYTES = 16


class BadSecret(Exception):
    """The secret can't be used. The message says why, and what to do."""


def default_file() -> Path:
    """Where the secret lies unless the settings name another place: the user's data folder."""
    return user_data_path("idlegrid", appauthor=False) / "secret"


def load_secret(file: Path | None = None) -> bytes:
    """The secret in `file` (None: `default_file`), made if there is none: processes that start at once agree on one.

    Raises BadSecret for a file that others can read, one that is too short, and where none can be made.
    """
    path = default_file() if file is None else file
    try:
        return _read(path)
    except FileNotFoundError:
        _make(path)
        return _read(path)


def derived(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose: who learns it learns neither the secret nor the key for another purpose."""
    return hmac.new(secret, f"idlegrid {purpose}".encode(), sha256).digest()


def _read(path: Path) -> bytes:
    try:
        mode, secret = path.stat().st_mode, path.read_bytes().strip()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadSecret(
            f"the secret in {path} can't be read: {error.strerror or error}. Name another file with "
            "IDLEGRID_DATABASE_SECRET_FILE"
        ) from error
    if readable_by_others(path):
        raise BadSecret(f"others can read the secret in {path} (mode {stat.S_IMODE(mode):o}): chmod 600 it")
    if len(secret) < MIN_BYTES:
        raise BadSecret(f"the secret in {path} has {len(secret)} bytes; at least {MIN_BYTES} are needed")
    return secret


def _make(path: Path) -> None:
    try:
        make_private(path, secrets.token_hex(BYTES).encode())
    except OSError as error:
        raise BadSecret(
            f"no secret can be made in {path}: {error.strerror or error}. Name another file with "
            "IDLEGRID_DATABASE_SECRET_FILE"
        ) from error
