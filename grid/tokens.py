"""Tokens of donors: 256 random bits, of which the grid keeps a keyed digest; and the rule by which they are renewed."""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

SECOND = 1_000_000
"""Instants are µs since the epoch."""
ACCESS_LIFE, REFRESH_LIFE = 24 * 3600.0, 90 * 24 * 3600.0
"""Seconds. A donor renews both hours before the first ends; one that was switched off comes back with the second."""
RETRY = 60.0
"""Seconds for which a refresh token may be shown again by who never got the answer to the first time; the old access
token lives as long."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_FORM = re.compile(r"(ige|igw|igr)_([A-Za-z0-9]{8})_[A-Za-z0-9_-]{43}")


class Kind(StrEnum):
    """What a token is for. Nothing takes one of another kind."""

    ENROLMENT = "enrolment"
    ACCESS = "access"
    REFRESH = "refresh"


_BEGINS = {Kind.ENROLMENT: "ige", Kind.ACCESS: "igw", Kind.REFRESH: "igr"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was just made: the only place where its text is."""

    text: str
    prefix: str
    """Its public part, by which it is looked up."""


def new_token(kind: Kind) -> Token:
    """``<kind>_<8 letters>_<43 characters>``, as random as the machine can."""
    prefix = "".join(secrets.choice(_LETTERS) for _ in range(8))
    return Token(f"{_BEGINS[kind]}_{prefix}_{secrets.token_urlsafe(32)}", prefix)


def prefix_of(kind: Kind, text: str) -> str | None:
    """The public part of a token of that kind; None when the text is none."""
    form = _FORM.fullmatch(text)
    return form[2] if form and form[1] == _BEGINS[kind] else None


def digest_of(key: bytes, text: str) -> str:
    """What is kept of a token: useless without the key, and fast on purpose, as nobody guesses 256 bits."""
    return hmac.new(key, text.encode(), sha256).hexdigest()


class Renewal(StrEnum):
    """What is done with a refresh token that is shown."""

    ROTATE = "rotate"
    """It is good: both tokens are made anew, and this one is spent."""
    REPEAT = "repeat"
    """It was spent a moment ago and its successor was never used, so the answer was lost: the same answer again."""
    EXPIRED = "expired"
    REVOKED = "revoked"
    """Its family is closed already."""
    STOLEN = "stolen"
    """It was spent, and somebody else has its successor: one of the two is a thief, so the whole family is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshState:
    """A refresh token as the store knows it; instants in µs."""

    expires_at: int
    revoked_at: int | None
    spent_at: int | None
    successor_used: bool
    """Its successor was spent, or the access token that came with it was shown."""


def renewal(state: RefreshState, now: int) -> Renewal:
    """What to do with a refresh token that is shown at `now` (µs) by who signed with the family's secret."""
    if state.revoked_at is not None:
        return Renewal.REVOKED
    if state.spent_at is not None:
        fresh = now - state.spent_at <= RETRY * SECOND
        return Renewal.REPEAT if fresh and not state.successor_used else Renewal.STOLEN
    return Renewal.EXPIRED if now >= state.expires_at else Renewal.ROTATE
