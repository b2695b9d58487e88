"""Signed requests of workers: who holds the secret wrote exactly these bytes, for this place, at this time, once.

Version 2 (ours) covers the key's id, the host and the raw query beside SPEC's plain form, which stays accepted::

    v1  METHOD:PATH?QUERY:BODY_HASH:TIMESTAMP[:NONCE]
    v2  v2 LF KEY_ID LF METHOD LF HOST LF PATH LF QUERY LF BODY_HASH LF TIMESTAMP LF NONCE

PATH and QUERY are the bytes of the request line, never decoded; BODY_HASH is the hex SHA-256 of the body as sent.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

SIGNATURE, TIMESTAMP, NONCE, VERSION = "X-Signature", "X-Timestamp", "X-Nonce", "X-Signature-Version"
TOKEN = "X-Worker-Token"  # noqa: S105 - the header's name
WINDOW = 300
"""Seconds by which a request's time may differ from ours."""
KEPT = 2 * WINDOW + 60
"""Seconds for which a nonce is remembered: a request from the future lives for two windows."""
_FORMS = {
    SIGNATURE: re.compile(r"[0-9a-f]{64}"),
    TIMESTAMP: re.compile(r"[0-9]{1,12}"),
    NONCE: re.compile(r"[A-Za-z0-9_-]{8,128}"),
    VERSION: re.compile(r"[12]"),
}
_ONCE = {name.lower().encode(): name for name in (*_FORMS, TOKEN, "Host")}


class BadSignature(Exception):
    """The request was not signed with this secret, or was changed since. The message says what is wrong with it."""


class ClockSkew(BadSignature):
    """The signature is right, its time is not ours. The message says by how much, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What the headers of a request say of its signature."""

    mac: str
    """Hex, 64 lower-case digits."""
    timestamp: str
    """Unix seconds as they were written."""
    nonce: str | None
    version: int


def signed_headers(
    secret: bytes,
    *,
    key_id: str,
    method: str,
    host: str,
    raw_path: bytes,
    raw_query: bytes,
    body: bytes,
    timestamp: int,
    nonce: str,
) -> dict[str, str]:
    """The headers of a request that is signed in version 2.

    `host` as in the header Host, `raw_path` and `raw_query` as in the request line; `nonce`: 8-128 letters, digits,
    ``_-``, never used before with this key. Raises ValueError on a nonce that is none.
    """
    if not _FORMS[NONCE].fullmatch(nonce):
        raise ValueError("a nonce is 8 to 128 letters, digits, _ and -")
    digest, time = sha256(body).hexdigest(), str(timestamp)
    mac = _mac(secret, _second(key_id, method, host, raw_path, raw_query, digest, time, nonce))
    return {SIGNATURE: mac, TIMESTAMP: time, NONCE: nonce, VERSION: "2"}


def read_signature(headers: Iterable[tuple[bytes, bytes]]) -> Signature | None:
    """The signature among raw headers (names in lower case); None: there is none.

    Raises BadSignature when one of them, the worker's token or the host is there twice, or is not what it should be.
    """
    found: dict[str, str] = {}
    for raw, value in headers:
        if (name := _ONCE.get(raw)) is None:
            continue
        if name in found:
            raise BadSignature(f"the header {name} is there twice")
        found[name] = value.decode("latin-1")
    if not any(name in found for name in _FORMS):
        return None
    for name in (SIGNATURE, TIMESTAMP):
        if name not in found:
            raise BadSignature(f"the header {name} is missing")
    for name, form in _FORMS.items():
        if name in found and not form.fullmatch(found[name]):
            raise BadSignature(f"the header {name} is not of the form {form.pattern}")
    version = int(found.get(VERSION, "1"))
    if version > 1 and NONCE not in found:
        raise BadSignature(f"the header {NONCE} is missing, which version {version} needs")
    return Signature(mac=found[SIGNATURE], timestamp=found[TIMESTAMP], nonce=found.get(NONCE), version=version)


def check(
    secret: bytes,
    signature: Signature,
    *,
    key_id: str,
    method: str,
    host: str,
    raw_path: bytes,
    raw_query: bytes,
    body_hash: str,
    now: float,
) -> str:
    """Raise unless the request was signed with `secret` within `WINDOW` of `now` (Unix seconds).

    `body_hash`: hex SHA-256 of the body, which whoever receives it counts while it comes in.
    Gives what must be remembered of it for `KEPT` seconds, and must not be known yet: its nonce, without one its
    signature. Raises BadSignature; ClockSkew only to who holds the secret.
    """
    if signature.version == 1:
        text = _first(method, raw_path, raw_query, body_hash, signature)
    else:
        nonce = signature.nonce or ""
        text = _second(key_id, method, host, raw_path, raw_query, body_hash, signature.timestamp, nonce)
    if not hmac.compare_digest(_mac(secret, text).encode(), signature.mac.encode()):
        raise BadSignature("the signature does not fit the request")
    ahead = int(signature.timestamp) - now
    if abs(ahead) > WINDOW:
        raise ClockSkew(
            f"the request's time is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's, which is "
            f"{now:.0f} (Unix seconds); {WINDOW} s are allowed. Set this machine's clock, for example by NTP "
            "(timedatectl set-ntp true); its time zone does not matter"
        )
    return signature.nonce or f"sig:{signature.mac}"


def _mac(secret: bytes, text: bytes) -> str:
    return hmac.new(secret, text, sha256).hexdigest()


def _first(method: str, raw_path: bytes, raw_query: bytes, digest: str, signature: Signature) -> bytes:
    path = raw_path + b"?" + raw_query if raw_query else raw_path
    parts = [method.encode(), path, digest.encode(), signature.timestamp.encode()]
    return b":".join([*parts, signature.nonce.encode()] if signature.nonce is not None else parts)


def _second(
    key_id: str, method: str, host: str, raw_path: bytes, raw_query: bytes, digest: str, timestamp: str, nonce: str
) -> bytes:
    """No part of it can hold a line feed: neither can a request line nor a header."""
    texts = ("v2", key_id, method, host.lower())
    ends = (digest, timestamp, nonce)
    return b"\n".join(
        [*(t.encode("latin-1", "replace") for t in texts), raw_path, raw_query, *(t.encode() for t in ends)]
    )
