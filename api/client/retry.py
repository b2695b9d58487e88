"""When a request is tried again, and after how long. Pure: `now` and `draw` are arguments."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime

FIRST, LONGEST = 0.1, 10.0
"""Seconds of the first and of the longest pause that we choose ourselves."""
BUSY = frozenset({408, 425, 429, 502, 503, 504})
"""Answers that say: later."""


def pause(attempt: int, draw: float, retry_after: float | None = None) -> float:
    """Seconds before the next try. `attempt` counts from 0, `draw` is uniform in [0, 1).

    Twice as long each time, between half and all of it, so that many clients don't come back together. What the
    service asks for in `retry_after` is never cut short.
    """
    own = min(LONGEST, FIRST * 2.0 ** min(attempt, 32)) * (0.5 + draw / 2)
    return own if retry_after is None else max(own, retry_after * (1 + draw / 10))


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or a date. None: nothing that can be read."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (TypeError, ValueError):
        return None
