"""Tickets of direct mode: the right to one job of one type, at one worker, for one client, within a minute. Pure.

The service makes a ticket with the worker's own signing secret, so a worker checks it without asking anybody. That it
is used once is the worker's business (`Spent`). The same secret lets a client see that whoever answers at a worker's
address is that worker (`proof`), before it sends what nobody else is to read.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import hmac
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

VERSION = "t1"
HEADER = "X-Ticket"
"""The HTTP header that carries it."""
LIFETIME = timedelta(seconds=60)
"""How long a ticket is good for, unless its maker says less."""
MOST_AHEAD = timedelta(minutes=10)
"""No ticket is good for longer, by the worker's clock: the clocks of two machines may differ by minutes."""
MOST_SPENT = 10_000
"""Tickets that a worker remembers; beyond it none is taken until some have expired."""
MAX_LENGTH = 2048
_NONCE = re.compile(r"[0-9a-f]{16,64}")


class BadTicket(Exception):
    """The ticket opens nothing here. The message says why, and holds nothing of the ticket."""


class TooManyTickets(Exception):
    """More tickets are good at the same time than a worker remembers: none is taken rather than one twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a ticket says."""

    worker_id: str
    """The only worker that takes it."""
    client_id: str
    """Whose ticket it is; the service may give a worker a name for its client that means nothing to it."""
    job_type: str
    expires_at: datetime
    """Aware; whole seconds count."""
    nonce: str
    """16 to 64 lower-case hex digits, new for every ticket."""


def mint(secret: bytes, ticket: Ticket) -> str:
    """The ticket as a text: ``t1.<base64url of a JSON list>.<hex MAC>``, signed with the worker's signing secret.

    Raises ValueError for a nonce of another form and for an `expires_at` without a time zone.
    """
    if not _NONCE.fullmatch(ticket.nonce):
        raise ValueError(f"a nonce is 16 to 64 lower-case hex digits, unlike {ticket.nonce!r}")
    if ticket.expires_at.tzinfo is None:
        raise ValueError(f"expires_at is {ticket.expires_at!r}; it needs a time zone")
    expires = int(ticket.expires_at.timestamp())
    said = json.dumps([ticket.worker_id, ticket.client_id, ticket.job_type, expires, ticket.nonce])
    payload = base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")
    return f"{VERSION}.{payload}.{_mac(secret, payload)}"


def check(secret: bytes, text: str, now: datetime, *, worker_id: str, job_type: str) -> Ticket:
    """What `text` says, if it opens this job type at this worker at `now` (aware). Raises BadTicket.

    Whether it was used before is `Spent`'s to say.
    """
    ticket = _read(secret, text)
    if ticket.worker_id != worker_id:
        raise BadTicket("it is for another worker")
    if ticket.job_type != job_type:
        raise BadTicket("it is for another job type")
    if now >= ticket.expires_at:
        raise BadTicket("it has expired")
    if ticket.expires_at - now > MOST_AHEAD:
        raise BadTicket("it is good for longer than any ticket: a clock is wrong")
    return ticket


def proof(secret: bytes, worker_id: str, challenge: str) -> str:
    """What only this worker, and the service, can answer to `challenge` (of a nonce's form). Raises ValueError."""
    if not _NONCE.fullmatch(challenge):
        raise ValueError("a challenge is 16 to 64 lower-case hex digits")
    return hmac.new(secret, f"idlegrid-direct-proof|{challenge}|{worker_id}".encode(), sha256).hexdigest()


class Spent:
    """The tickets that one worker has taken, for as long as they are good. Not thread-safe."""

    def __init__(self, limit: int = MOST_SPENT) -> None:
        self._limit = limit
        self._nonces: set[str] = set()
        self._by_expiry: list[tuple[datetime, str]] = []
        self._latest = datetime.min.replace(tzinfo=UTC)

    def __len__(self) -> int:
        return len(self._nonces)

    def spend(self, ticket: Ticket, now: datetime) -> None:
        """Take the ticket: it opens nothing from now on. Raises BadTicket when it was taken before, TooManyTickets.

        A clock that is put back opens none that was forgotten: time never goes back here.
        """
        self._latest = max(self._latest, now)
        while self._by_expiry and self._by_expiry[0][0] <= self._latest:
            self._nonces.discard(heapq.heappop(self._by_expiry)[1])
        if ticket.expires_at <= self._latest:
            raise BadTicket("it has expired")
        if ticket.nonce in self._nonces:
            raise BadTicket("it was used before")
        if len(self._nonces) >= self._limit:
            raise TooManyTickets(f"{self._limit} tickets are good at the same time; try again when some have expired")
        self._nonces.add(ticket.nonce)
        heapq.heappush(self._by_expiry, (ticket.expires_at, ticket.nonce))


def _read(secret: bytes, text: str) -> Ticket:
    """What is signed in `text`. Nothing of it is looked at before the signature is found right."""
    version, _, rest = text.partition(".")
    payload, _, mac = rest.partition(".")
    if len(text) > MAX_LENGTH or version != VERSION or not payload:
        raise BadTicket("it is no ticket")
    if not hmac.compare_digest(_mac(secret, payload).encode(), mac.encode("utf-8", "replace")):
        raise BadTicket("its signature is wrong")
    try:
        said = base64.b64decode(payload + "=" * (-len(payload) % 4), altchars=b"-_", validate=True)
        worker_id, client_id, job_type, expires, nonce = json.loads(said)
        expires_at = datetime.fromtimestamp(expires, UTC)
    except (binascii.Error, ValueError, TypeError, OverflowError, OSError) as error:
        raise BadTicket("it is no ticket of this version") from error
    return Ticket(worker_id=worker_id, client_id=client_id, job_type=job_type, expires_at=expires_at, nonce=nonce)


def _mac(secret: bytes, payload: str) -> str:
    return hmac.new(secret, f"idlegrid-ticket|{VERSION}|{payload}".encode("utf-8", "replace"), sha256).hexdigest()
