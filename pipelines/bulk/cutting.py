"""Cutting files into units of work: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .source import RowGroup

SMALLEST_SECONDS = 0.75
"""A unit worth less than this would cost more in overhead than it gains in balance."""
_UNITS_PER_WORKER = 3
_SNAP = 0.25
"""A cut moves to the end of a row group that lies within this share of the unit: whole row groups read fastest."""
_LIGHTEST, _HEAVIEST = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class Span:
    """A run of rows of one file."""

    file: int
    """Index of the source file."""
    start: int
    """First row in the file, from 0."""
    stop: int
    """One past the last row."""
    seconds: float
    """What one worker is expected to need."""

    @property
    def rows(self) -> int:
        return self.stop - self.start


def cut(
    files: Sequence[Sequence[RowGroup]],
    *,
    rows_per_second: float,
    workers: int,
    unit_seconds: float,
    unit_rows: int | None = None,
    smallest_rows: int = 1,
) -> list[Span]:
    """Spans that cover every row of every file once, in order. `rows_per_second` is one worker's.

    Sizes follow guided self-scheduling (Polychronopoulos and Kuck, 1987): each span takes a third of a worker's share
    of what is left, at most `unit_seconds`; so large jobs get large spans and the last ones are short enough that all
    workers end at about the same time. `smallest_rows`: that are computed together, so fewer are not worth a span,
    unless a worker would have nothing to do. `unit_rows` overrides all of that with a fixed number of rows. A job
    without rows gets one empty span, so that its output has a schema.
    """
    costs = [list(_costs(groups, _mean_bytes(files), rows_per_second)) for groups in files]
    remaining = sum(rows * each for file in costs for rows, each in file)
    smallest = min(SMALLEST_SECONDS, unit_seconds)
    rows = sum(group.rows for groups in files for group in groups)
    least = min(smallest_rows, -(-rows // (2 * max(1, workers))))
    spans: list[Span] = []
    for index, file in enumerate(costs):
        start, end = 0, sum(rows for rows, _ in file)
        while start < end:
            if unit_rows is not None:
                stop = min(start + unit_rows, end)
            else:
                share = remaining / (_UNITS_PER_WORKER * max(1, workers))
                stop = max(_stop(file, start, min(max(share, smallest), unit_seconds)), start + least)
                stop = end if end - stop < least // 2 else min(stop, end)
            seconds = _seconds(file, start, stop)
            spans.append(Span(index, start, stop, seconds))
            remaining -= seconds
            start = stop
    return spans or [Span(0, 0, 0, 0.0)]


def _mean_bytes(files: Iterable[Iterable[RowGroup]]) -> float:
    groups = [group for file in files for group in file]
    return sum(group.text_bytes for group in groups) / max(1, sum(group.rows for group in groups))


def _costs(groups: Iterable[RowGroup], mean_bytes: float, rows_per_second: float) -> Iterator[tuple[int, float]]:
    """(rows, expected seconds a row) of each row group: texts twice as long are taken to need twice the time.

    Encoded size is a weak witness (a dictionary hides repetitions), so its influence is bounded.
    """
    for group in groups:
        if group.rows:
            weight = group.text_bytes / group.rows / mean_bytes if mean_bytes else 1.0
            yield group.rows, min(max(weight, _LIGHTEST), _HEAVIEST) / rows_per_second


def _stop(file: Sequence[tuple[int, float]], start: int, seconds: float) -> int:
    """Where a span that begins at row `start` and is worth about `seconds` ends."""
    position, spent, near = 0, 0.0, None
    for rows, each in file:
        position += rows
        if position <= start:
            continue
        left = min(rows, position - start)
        if spent + left * each > seconds * (1 + _SNAP):
            inside = position - left + max(1, round((seconds - spent) / each))
            return near if near is not None else min(max(inside, start + 1), position)
        spent += left * each
        near = position if spent >= seconds * (1 - _SNAP) else None
        if spent >= seconds:
            return position
    return position


def _seconds(file: Sequence[tuple[int, float]], start: int, stop: int) -> float:
    position, total = 0, 0.0
    for rows, each in file:
        total += max(0, min(stop, position + rows) - max(start, position)) * each
        position += rows
    return total
