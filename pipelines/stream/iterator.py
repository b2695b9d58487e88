"""A source that is any iterator of Python: texts, bytes or rows as mappings; synchronous or not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any

import pyarrow as pa

from ..bulk.rows import BATCH_BYTES
from .done import Done, Piece
from .errors import StreamError
from .source import Backlog, Batch

AHEAD = 64
"""Records that are taken from the iterator before they are wanted."""
WAIT = 0.1
"""Seconds that a batch waits for more records."""
_POLL = 0.2
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


class IteratorSource:
    """Numbers what an iterator gives. A restart takes a new iterator that gives the same records in the same order.

    Records that are in the sink are taken from the iterator again and thrown away.
    """

    def __init__(self, records: Iterable[Any] | AsyncIterable[Any], *, column: str, name: str = "records") -> None:
        """`column`: of a record that is no mapping but a text or bytes. `name`: what a restart must call it too."""
        self._records, self._column, self._name = records, column, name
        self._schema: Any = None

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "iterator", "name": self._name}

    def batches(self, done: Done, most: int, stopped: threading.Event) -> Iterator[Batch | None]:
        """See Source. Raises what the iterator raises."""
        queue: Queue[tuple[int, Any, float] | _End] = Queue(min(most, AHEAD))
        thread = threading.Thread(
            target=self._pump, args=(queue, stopped), name="idlegrid-stream-iterator", daemon=True
        )
        thread.start()
        held: list[tuple[int, Any, float]] = []
        since, size = 0.0, 0
        while not stopped.is_set():
            try:
                item = queue.get(timeout=WAIT)
            except Empty:
                yield self._batch(held) if held else None
                held = []
                continue
            if isinstance(item, _End):
                if held:
                    yield self._batch(held)
                if item.error is not None:
                    raise item.error
                return
            if self._schema is None:  # also of one that is in the sink: a restart finds the same columns
                self._schema = self._batch([item]).rows.schema
            if done.has(self._name, item[0], item[0] + 1):
                continue
            since = since if held else time.monotonic()
            held.append(item)
            size = _bytes(item[1]) + (size if len(held) > 1 else 0)
            if len(held) >= most or size >= BATCH_BYTES or time.monotonic() - since > WAIT:
                yield self._batch(held)
                held = []

    def settled(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """An iterator can't be told."""
        return ()

    def gone(self, done: Done) -> Collection[str]:
        """One iterator is one partition, which lasts."""
        return ()

    def backlog(self) -> Backlog:
        """Nobody knows what an iterator will give."""
        return Backlog(None, None)

    def close(self) -> None:
        """Its thread is inside of the iterator and ends when that gives the next record."""

    def _pump(self, queue: Queue[tuple[int, Any, float] | _End], stopped: threading.Event) -> None:
        def put(item: tuple[int, Any, float] | _End) -> bool:
            while not stopped.is_set():
                with contextlib.suppress(Full):
                    queue.put(item, timeout=_POLL)
                    return True
            return False

        try:
            if isinstance(self._records, AsyncIterable):
                asyncio.run(_give_async(self._records, put))
            else:
                for number, record in enumerate(self._records):
                    if not put((number, record, time.time())):
                        return
            put(_End())
        except BaseException as error:  # noqa: BLE001 - raised in the reader, in its place
            put(_End(error))

    def _batch(self, held: list[tuple[int, Any, float]]) -> Batch:
        rows = [self._row(number, record) for number, record, _ in held]
        try:
            batch = pa.RecordBatch.from_pylist(rows, schema=self._schema)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise StreamError(
                f"records {held[0][0]} to {held[-1][0]} of {self._name!r} don't fit the columns of the first one: "
                f"{error}. Give them the same types (0.0, not 0; '' instead of None in the first)"
            ) from error
        return Batch(batch, tuple(_runs(self._name, [number for number, _, _ in held])), held[0][2])

    def _row(self, number: int, record: Any) -> Mapping[str, Any]:
        if isinstance(record, Mapping):
            if self._schema is not None and set(record) - set(self._schema.names):
                extra = ", ".join(sorted(map(str, set(record) - set(self._schema.names))))
                raise StreamError(f"record {number} of {self._name!r} has columns that the first one has not: {extra}")
            return record
        if isinstance(record, str | bytes):
            return {self._column: record}
        raise StreamError(
            f"record {number} of {self._name!r} is of type {type(record).__name__} ({str(record)[:_SHOWN]!r}): "
            "give texts, bytes or mappings of columns"
        )


async def _give_async(records: AsyncIterable[Any], put: Any) -> None:
    number = 0
    async for record in records:
        if not await asyncio.to_thread(put, (number, record, time.time())):
            return
        number += 1


def _bytes(record: Any) -> int:
    """About how large it is: of texts and bytes, which are what is large."""
    values = record.values() if isinstance(record, Mapping) else (record,)
    return sum(len(value) for value in values if isinstance(value, str | bytes))


def _runs(partition: str, numbers: list[int]) -> Iterator[Piece]:
    """Ascending numbers as ranges."""
    start = previous = numbers[0]
    for number in numbers[1:]:
        if number != previous + 1:
            yield Piece(partition, start, previous + 1)
            start = number
        previous = number
    yield Piece(partition, start, previous + 1)
