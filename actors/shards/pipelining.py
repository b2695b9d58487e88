"""How many steps a chain should have under way, and in how many of them the work at hand should be shared. No clock.

A stage that computes a step reads all its weights, whether the step holds one sequence or eight. So sharing eight
sequences among three steps gives more only where computing takes time that grows with them (prompts), or where the
round trip is longer than what all the steps take; else it reads the weights three times as often for nothing. What
steps of which size took decides, and not a rule of thumb: with W tokens to compute in M steps of b = W / M,

    tokens a second = W / max(R(b), M · t(b))

R(b): the round trip of such a step without waiting for others, t(b): the time of the busiest stage for it. Of the M
whose rate is within `WORTH` of the best, the smallest.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque
from dataclasses import dataclass, field

MOST = 32
"""Steps that a chain may ask for."""
TRIPS = 31
"""Steps by which their number is chosen."""
SLACK = 0.25
"""Of a step: what a hop costs is no reason for another one."""
WORTH = 0.1
"""A gain in tokens a second that is smaller is not worth another step."""
KEPT = 15
"""Steps of each size that are remembered."""
STALE = 60.0
"""Seconds until what steps of a size took counts no more, and that size may be tried again."""


@dataclass(slots=True)
class _Size:
    """What steps of about one size took."""

    at: float = 0.0
    tokens: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT))
    trips: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    busiest: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))


class Pipelining:
    """What is known of a chain's steps. Sizes are kept by powers of two. Told by the head's loop, asked by the engine's
    thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._sizes: dict[int, _Size] = {}

    def took(self, tokens: int, trip: float, busiest: float, now: float) -> None:
        """A step was answered. `trip`: seconds from head to head, less what it waited for others; `busiest`: seconds
        of the stage that computed longest. Ignored where that is not above 0."""
        if busiest <= 0:
            return
        with self._lock:
            self._trips.append(trip / busiest)
            size = self._sizes.setdefault(max(1, tokens).bit_length(), _Size())
            if now - size.at > STALE:
                size.tokens.clear()
                size.trips.clear()
                size.busiest.clear()
            size.at = now
            size.tokens.append(max(1, tokens))
            size.trips.append(trip)
            size.busiest.append(busiest)

    @property
    def depth(self) -> int:
        """M*: while one step passes the other stages and the wires, the busiest stage can compute so many others."""
        with self._lock:
            trips = statistics.median(self._trips) if self._trips else 1.0
        return min(MOST, max(1, math.ceil(trips - SLACK)))

    def parts(self, tokens: int, now: float) -> int:
        """In how many steps `tokens` should be computed that could be in one: 1 to `depth`."""
        with self._lock:
            known = sorted(
                (statistics.median(size.tokens), statistics.median(size.trips), statistics.median(size.busiest))
                for size in self._sizes.values()
                if now - size.at <= STALE
            )
        most = min(self.depth, max(1, tokens))
        if not known or most == 1:
            return most
        sizes, trips, busiest = ([point[index] for point in known] for index in range(3))
        seconds = []
        for parts in range(1, most + 1):
            size = tokens / parts
            seconds.append(max(_at(size, sizes, trips), parts * _at(size, sizes, busiest)))
        enough = min(seconds) * (1 + WORTH)
        return next(parts for parts, each in enumerate(seconds, 1) if each <= enough)


def _at(size: float, sizes: list[float], seconds: list[float]) -> float:
    """Seconds of a step of this size: between two that are known on the line through them.

    Beyond them what is hoped for: a smaller one takes so much less, a larger one as long. So what might pay is tried,
    and known then. What is not smaller than half the smallest counts as that one.
    """
    if size <= sizes[0]:
        return seconds[0] * (1.0 if 2 * size > sizes[0] else size / sizes[0])
    if size >= sizes[-1]:
        return seconds[-1]
    after = next(index for index, each in enumerate(sizes) if each >= size)
    before = after - 1
    share = (size - sizes[before]) / (sizes[after] - sizes[before])
    return seconds[before] + share * (seconds[after] - seconds[before])
