"""Which records are in the sink: ranges of each partition. Pure.

A *partition* is a part of a source that numbers its records from 0: a file, an iterator, an entry of a Redis stream. A
*record* is a partition and a number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """Consecutive records of one partition."""

    partition: str
    start: int
    stop: int
    """After the last one."""

    @property
    def records(self) -> int:
        return self.stop - self.start


class Done:
    """A set of records, held as ranges that neither touch nor overlap."""

    def __init__(self, ranges: Mapping[str, Iterable[Sequence[int]]] | None = None) -> None:
        """`ranges`: what `ranges` gave once."""
        self._ranges: dict[str, list[tuple[int, int]]] = {}
        for partition, some in (ranges or {}).items():
            for start, stop in some:
                self.add(Piece(partition, start, stop))

    def add(self, piece: Piece) -> None:
        """From now on these records are in it; those that were stay. Raises ValueError for a piece that is none."""
        if not 0 <= piece.start < piece.stop:
            raise ValueError(f"records {piece.start}..{piece.stop} of {piece.partition!r} are no range")
        ranges = self._ranges.setdefault(piece.partition, [])
        first = bisect_right(ranges, piece.start, key=lambda one: one[1] + 1)
        last = first
        start, stop = piece.start, piece.stop
        while last < len(ranges) and ranges[last][0] <= stop:
            start, stop = min(start, ranges[last][0]), max(stop, ranges[last][1])
            last += 1
        ranges[first:last] = [(start, stop)]

    def forget(self, partition: str) -> None:
        """Nothing of this partition will ever be asked again. Unknown ones are fine."""
        self._ranges.pop(partition, None)

    def missing(self, partition: str, start: int, stop: int) -> Iterator[Piece]:
        """What is not in it of these records, in order, as few pieces as possible."""
        for low, high in self._ranges.get(partition, ()):
            if high <= start:
                continue
            if low >= stop:
                break
            if start < low:
                yield Piece(partition, start, low)
            start = max(start, high)
        if start < stop:
            yield Piece(partition, start, stop)

    def has(self, partition: str, start: int, stop: int) -> bool:
        """Whether all of these are in it."""
        return next(self.missing(partition, start, stop), None) is None

    def partitions(self) -> set[str]:
        """Those of which it has anything."""
        return set(self._ranges)

    @property
    def records(self) -> int:
        """How many are in it."""
        return sum(stop - start for ranges in self._ranges.values() for start, stop in ranges)

    def ranges(self) -> dict[str, list[tuple[int, int]]]:
        """Partition → its ranges [start, stop), sorted: plain JSON."""
        return {partition: list(ranges) for partition, ranges in self._ranges.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Done) and self._ranges == other._ranges

    __hash__ = None  # type: ignore[assignment]  # it changes
