"""What the grid's secret protects in the database: digests of tokens, and secrets that must be readable again."""

from __future__ import annotations

import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import cached_property

from .secret import derived
from .tokens import digest_of

NONCE = 12
"""Bytes. Few things are sealed under one key, far fewer than the 2^32 for which a random nonce of this size is good."""


class Tampered(Exception):
    """What was sealed can't be opened: it was changed, moved to another place, or sealed under another secret."""


class Vault:
    """Digests and seals under keys that are derived from one secret. Thread-safe."""

    def __init__(self, secret: Callable[[], bytes]) -> None:
        """`secret` is asked when it is needed first; what it raises comes out of the methods."""
        self._secret_of = secret

    def digest(self, token: str) -> str:
        """What is kept of a token."""
        return digest_of(self._pepper, token)

    def fits(self, token: str, digest: str) -> bool:
        """Whether the digest is this token's; as fast for a near miss as for a far one."""
        return hmac.compare_digest(self.digest(token).encode(), digest.encode())

    def seal(self, plain: bytes, place: str) -> str:
        """Encrypted with AES-256-GCM, as text. It opens only with the same `place`, which says what it is and whose."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(NONCE)
        return b64encode(nonce + AESGCM(self._key).encrypt(nonce, plain, place.encode())).decode()

    def open(self, sealed: str, place: str) -> bytes:
        """The inverse of `seal`. Raises Tampered."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            raw = b64decode(sealed, validate=True)
            return AESGCM(self._key).decrypt(raw[:NONCE], raw[NONCE:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise Tampered(
                f"{place} can't be decrypted: the database belongs to another secret (database.secret_file), or it was "
                "changed"
            ) from error

    @cached_property
    def _secret(self) -> bytes:
        return self._secret_of()

    @cached_property
    def _pepper(self) -> bytes:
        return derived(self._secret, "digests of tokens")

    @cached_property
    def _key(self) -> bytes:
        return derived(self._secret, "seals")
