"""What lies between regions: the time of a round trip and the bytes that pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..regions import round_trip_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """The net between donors, by region. What was not measured is typical (times) or unlimited (bytes)."""

    inside_s: float = 0.002
    """Round trip between two donors of one region, in s."""
    round_trips_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Measured round trips between two regions, in s; either order."""
    bytes_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Bytes a second from the first region to the second, for each cut of the model."""

    def round_trip_s(self, a: str, b: str) -> float:
        """A round trip between two donors in these regions, in s, their own access left out."""
        measured = self.round_trips_s.get((a, b), self.round_trips_s.get((b, a)))
        if measured is not None:
            return measured
        return self.inside_s + round_trip_ms(a, b) / 1000

    def bytes_per_second(self, source: str, target: str) -> float:
        """What passes from `source` to `target`, in bytes/s; infinite when nothing is known."""
        return self.bytes_s.get((source, target), math.inf)
