"""Whose prompts may share cached prefixes: a salt for each client, which is part of the names of cached blocks. Pure.

Who can tell that a prefix is cached already, by the time to the first token, can guess another's prompt piece by piece
(PROMPTPEEK, NDSS 2025). So blocks are shared only between requests of one client, unless the operator says otherwise.
"""

from __future__ import annotations

import getpass
import hmac
import os
import socket
from dataclasses import dataclass, field
from hashlib import sha256

SHARED = ""
"""The salt of requests that share with everybody whose salt it is too."""


@dataclass(frozen=True, slots=True)
class Salts:
    """The salts of a service's clients. They are the same in every process of one grid, and name nobody."""

    secret: bytes = field(default=b"", repr=False)
    """The grid's: without it a worker could try which client a salt belongs to."""
    shared: bool = False
    """All clients share (setting `api.share_prefixes`)."""

    def of(self, client_id: str, own: str | None = None) -> str:
        """The salt of a client's requests. `own`: what the client adds, to keep some of its requests from others."""
        tenant = SHARED if self.shared else _digest(self.secret, f"client|{client_id}")
        return f"{tenant}:{own}" if own else tenant  # a digest holds no colon and has one length


def of_direct_client(name: str) -> str:
    """The salt of a client of direct mode, by the name that its ticket gives it: no worker knows more of it."""
    return _digest(b"", f"direct|{name}")


def of_this_user() -> str:
    """The salt of who speaks to the grid's scheduler itself, without a key: this user of this machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an id without a name, as in containers
        user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    return _digest(b"", f"user|{user}|{socket.gethostname()}")


def _digest(secret: bytes, whose: str) -> str:
    return hmac.new(secret, f"idlegrid prefixes|{whose}".encode("utf-8", "replace"), sha256).hexdigest()[:32]
