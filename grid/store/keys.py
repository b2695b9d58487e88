"""API keys: made, found, listed, revoked. Only their hashes are kept."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from .values import ApiKey


class KeyStore:
    """The API keys of a grid."""

    def create(
        self,
        name: str,
        scopes: Collection[str],
        client_id: str | None = None,
        requests_per_minute: int | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret ``ig_<8>_<43>``, shown this once.

        Without a `client_id` the key is a client of its own.
        """
        raise NotImplementedError

    def find(self, secret: str) -> ApiKey | None:
        """The key behind a secret; None when there is none, or it is revoked or expired."""
        raise NotImplementedError

    def list(self) -> list[ApiKey]:
        """All keys, the newest first, revoked ones too."""
        raise NotImplementedError

    def revoke(self, id: str) -> bool:  # noqa: A002
        """Close a key for good. False when there is none of this id or prefix, or it is revoked already."""
        raise NotImplementedError
