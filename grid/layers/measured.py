"""What a worker remembers of its own speed and its links: little, for a while, and told anew only when it says more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .speed import STEADY, Source, Speed

MOST = 8
"""Speeds, and links, that are remembered; the one that was heard of longest ago goes first."""
RETELL_LINK = 0.25
"""A round trip is told anew when it differs by so much, as a share,"""
LEAST_S = 0.001
"""and by more than this: less is no distance."""


@dataclass(slots=True)
class Measured:
    """Of one worker. Instants are seconds of its own monotonic clock; nobody else needs it."""

    stale: float = STEADY.stale
    """Seconds after which steps and links count for nothing. A trial counts for the life of the process."""
    _speeds: dict[tuple[str, str, Source, int], tuple[Speed, float]] = field(default_factory=dict)
    _links: dict[str, tuple[float, float]] = field(default_factory=dict)

    def heard(self, speed: Speed, now: float) -> bool:
        """A speed was measured. Whether what is told changes by it."""
        key = (speed.device, speed.dtype, speed.source, speed.layer_bytes)
        known = self._speeds.pop(key, None)
        same = known is not None and known[0].near(speed)
        self._speeds[key] = (known[0] if known is not None and same else speed, now)
        while len(self._speeds) > MOST:
            del self._speeds[next(iter(self._speeds))]
        return not same

    def linked(self, donor_id: str, seconds: float, now: float) -> bool:
        """A round trip to another donor was measured. Whether what is told changes by it."""
        if not donor_id or not 0 <= seconds < math.inf:
            return False
        known = self._links.pop(donor_id, None)
        same = known is not None and abs(known[0] - seconds) <= max(LEAST_S, RETELL_LINK * max(known[0], seconds))
        self._links[donor_id] = (known[0] if known is not None and same else seconds, now)
        while len(self._links) > MOST:
            del self._links[next(iter(self._links))]
        return not same

    def speeds(self, now: float) -> tuple[Speed, ...]:
        """Those that count, oldest first."""
        kept = (one for one, at in self._speeds.values() if one.source is Source.PROBED or now - at < self.stale)
        return tuple(kept)

    def links(self, now: float) -> Mapping[str, float]:
        """Donor id → seconds of a round trip, of those that count."""
        return {
            donor_id: float(f"{seconds:.3g}")
            for donor_id, (seconds, at) in self._links.items()
            if now - at < self.stale
        }
