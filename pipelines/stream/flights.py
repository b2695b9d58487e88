"""The batches that are under way: in which order they may go into the sink, and when it is time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..bulk.attempts import Attempts
from ..bulk.cutting import Span
from .source import Batch


@dataclass(slots=True)
class Flight:
    """A batch between source and sink."""

    number: int
    """In the order of reading."""
    batch: Batch
    attempts: Attempts
    result: Any = None
    """`pyarrow.RecordBatch` of result columns, once it is computed."""
    ready_at: float = 0.0
    """When it was computed, by a monotonic clock."""
    futures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, number: int, batch: Batch) -> Flight:
        return cls(number, batch, Attempts(Span(0, 0, batch.rows.num_rows, 0.0)))


class Flights:
    """All that were read and are not in the sink."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._flights: dict[int, Flight] = {}
        self._numbers = 0

    def add(self, batch: Batch) -> Flight:
        """One that was just read."""
        flight = Flight.of(self._numbers, batch)
        self._flights[flight.number] = flight
        self._numbers += 1
        return flight

    def committable(self) -> list[Flight]:
        """Those that may go into the sink now: in order, without a gap where order is kept."""
        return list(self._ready())

    def remove(self, flights: list[Flight]) -> None:
        """They are in the sink."""
        for flight in flights:
            del self._flights[flight.number]

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def computing(self) -> int:
        """How many have no result yet."""
        return sum(flight.result is None for flight in self._flights.values())

    @property
    def oldest(self) -> float | None:
        """Since when the record that waits longest was there; see `Batch.seen`."""
        flights = list(self._flights.values())  # others ask, from their threads
        return min((flight.batch.seen for flight in flights), default=None)

    def _ready(self) -> Iterator[Flight]:
        for number in sorted(self._flights):
            flight = self._flights[number]
            if flight.result is not None:
                yield flight
            elif self._ordered:
                return


def due(ready: list[Flight], now: float, *, records: int, seconds: float, last: bool) -> bool:
    """Whether these should go into the sink now. `last`: nothing more will come. Pure."""
    if not ready:
        return False
    waited = now - min(flight.ready_at for flight in ready)
    return last or waited >= seconds or sum(flight.batch.rows.num_rows for flight in ready) >= records
