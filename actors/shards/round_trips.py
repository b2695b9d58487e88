"""How long a round trip to the other end of a link takes: by its pings."""

from __future__ import annotations

from collections import deque

LATELY = 64
"""Pings that count: of some 6 s, where they are answered at once."""


class RoundTrips:
    """The quickest lately: the others have waited for a process that was busy, which is no distance."""

    def __init__(self) -> None:
        self._lately: deque[float] = deque(maxlen=LATELY)

    def heard(self, seconds: float) -> None:
        """A ping was answered after so long."""
        self._lately.append(seconds)

    @property
    def seconds(self) -> float | None:
        """None before any was answered."""
        return min(self._lately, default=None)
