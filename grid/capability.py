"""A worker's capability: the right to speak for one attempt at one job, and for nothing else.

It is a MAC over job, fence and expiry, so whoever checks it keeps no state; a worker that got its job by way of Dask
and one that polled for it show the same thing. Whether the fence still holds is the store's to say.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

VERSION = "v1"
HEADER = "X-Attempt-Token"
"""The HTTP header that carries it."""
_PARTS = 5


class BadCapability(Exception):
    """The token opens nothing: it is not one of ours, was changed, or has expired. The message says which."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What a valid token allows."""

    job_id: str
    fence: int
    """Number of the claim that it was made for."""
    expires_at: datetime
    """UTC, whole seconds."""


def mint(secret: bytes, job_id: str, fence: int, expires_at: datetime) -> str:
    """The token for one attempt: ``v1.<job>.<fence>.<Unix seconds>.<hex MAC>``.

    Raises ValueError for an id with a dot in it and for an `expires_at` without a time zone.
    """
    if "." in job_id or not job_id:
        raise ValueError(f"a job's id has no dot and is not empty, unlike {job_id!r}")
    if expires_at.tzinfo is None:
        raise ValueError(f"expires_at is {expires_at!r}; it needs a time zone")
    expires = int(expires_at.timestamp())
    return f"{VERSION}.{job_id}.{fence}.{expires}.{_mac(secret, job_id, str(fence), str(expires))}"


def check(secret: bytes, token: str, now: datetime) -> Capability:
    """What `token` allows at `now` (aware). Raises BadCapability; takes as long for a near miss as for a far one."""
    parts = token.split(".")
    if len(parts) != _PARTS or parts[0] != VERSION:
        raise BadCapability("it is not an attempt's token")
    _, job_id, fence, expires, mac = parts
    if not hmac.compare_digest(_mac(secret, job_id, fence, expires).encode(), mac.encode("utf-8", "replace")):
        raise BadCapability("its signature is wrong")
    expires_at = datetime.fromtimestamp(int(expires), UTC)  # signed, so it is what `mint` wrote
    if now >= expires_at:
        raise BadCapability(f"it expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC")
    return Capability(job_id, int(fence), expires_at)


def _mac(secret: bytes, job_id: str, fence: str, expires: str) -> str:
    return hmac.new(secret, f"{VERSION}|{job_id}|{fence}|{expires}".encode("utf-8", "replace"), sha256).hexdigest()
