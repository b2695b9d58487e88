"""Where a stream's records come from: what a source promises."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .done import Done, Piece


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records, read together."""

    rows: Any
    """`pyarrow.RecordBatch`, one row a record."""
    pieces: tuple[Piece, ...]
    """Which records they are, in the order of the rows."""
    seen: float
    """When they were there to be read, in seconds of `time.time()`: from then on they wait."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Row → why it can't be used. It comes out with that error."""

    def names(self) -> list[str]:
        """Each record's name: ``partition:number``, the same however often it is read."""
        return [f"{piece.partition}:{number}" for piece in self.pieces for number in range(piece.start, piece.stop)]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a source has that was not read yet."""

    records: int | None
    """None: nobody can tell."""
    oldest: float | None
    """When the oldest of it was there first, in seconds of `time.time()`. None: there is none, or nobody can tell."""


class Source(Protocol):
    """An endless (or at least long) row of records. `batches` is called in a thread of its own.

    What is in `done` is never read again; everything else is, each record once while the process lives, and again by
    the next process if it did not come into the sink. All records have the columns of the first one.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes it this source, as JSON: another one can't go on with this one's sink."""
        ...

    def batches(self, done: Done, most: int, stopped: threading.Event) -> Iterator[Batch | None]:
        """Batches of at most `most` records, as they come. None: there is nothing now; ask again.

        Ends when the source has ended, which most never do. It waits nowhere longer than about a second once `stopped`
        is set. Raises StreamError for a source that can't be read.
        """
        ...

    def settled(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """These are in the sink for good: tell whoever counts. Returns partitions of which nothing will come again."""
        ...

    def gone(self, done: Done) -> Collection[str]:
        """Partitions in `done` of which nothing can come again: they need not be remembered. Asked now and then."""
        ...

    def backlog(self) -> Backlog:
        """Of what was not read. Cheap."""
        ...

    def close(self) -> None: ...
