"""Workers that proved who they are to this process before: enough of each to check a signature without the database.

What is kept here opens nothing by itself: that token and key still hold, the store looks at with every request.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from ...grid.store import Standing

MOST = 10_000
"""Workers that one process knows; the one that was heard of longest ago is forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquaintance:
    """One worker, as it was when it proved who it is."""

    worker_id: str
    token_digest: bytes = field(repr=False)
    """SHA-256 of the access token: the token itself is nowhere kept."""
    token_id: str
    token_expires_at: datetime | None
    key_id: str
    key: bytes = field(repr=False)
    """Of its signatures."""


class Acquaintances:
    """The workers that one process knows."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Acquaintance] = OrderedDict()

    def get(self, worker_id: str, token: str) -> Acquaintance | None:
        """The worker of this id, if it showed this very token before."""
        known = self._known.get(worker_id)
        if known is None or not hmac.compare_digest(known.token_digest, _digest(token)):
            return None
        self._known.move_to_end(worker_id)
        return known

    def meet(self, standing: Standing, token: str) -> None:
        """It proved who it is, with this token. Who showed only a refresh token is not remembered."""
        if standing.token is None or standing.key is None or standing.key_id is None:
            return
        self._known[standing.worker_id] = Acquaintance(
            worker_id=standing.worker_id,
            token_digest=_digest(token),
            token_id=standing.token,
            token_expires_at=standing.token_expires_at,
            key_id=standing.key_id,
            key=standing.key,
        )
        self._known.move_to_end(standing.worker_id)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

    def forget(self, worker_id: str) -> None:
        """What is known of it holds no more."""
        self._known.pop(worker_id, None)


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "replace")).digest()
