"""A stream at work: batches to workers, results to the sink, bounded between the two."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import dask
import pyarrow as pa
from distributed import KilledWorker
from distributed.client import ClosedClientError

from ...grid.failpoints import failpoint
from ..bulk.operators import OperatorSpec
from ..bulk.progress import Meter
from ..bulk.schema import output_schema
from ..bulk.watch import POLL, Patience, Watch, ask_for
from .done import Piece
from .errors import Overtaken, StreamError, StreamStopped
from .flights import Flight, Flights, due
from .reading import Reader
from .sink import RECORD, Commit, Sink, State, shown
from .source import Batch, Source
from .work import Work, compute_batch, probe_batch

logger = logging.getLogger(__name__)

BATCHES_PER_SLOT = 2
"""Batches at work for each thread of a worker: the one that is computed and the next."""
RESULT_TIMEOUT = 30.0
GONE_EVERY = 64
"""Commits between two questions which partitions need not be remembered."""
PAUSE = 0.2
SOURCE_PATIENCE = 5.0
"""Seconds that a stream which is told to stop, and has nothing under way, waits for its source."""
WARNING, QUIET = "distributed.admin.large-graph-warning-threshold", "1TB"
"""Records travel with their tasks, large ones too: what is under way is bounded, and there is nothing to warn of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How a stream works."""

    column: str
    """What is computed of each record."""
    error_column: str = "error"
    ordered: bool = True
    """Whether results come in the order of the records, or as they are done."""
    batch_records: int = 64
    """Records that one task computes, at most."""
    in_flight: int | None = None
    """Batches that are read and not in the sink, at most. None: four for each thread of a worker."""
    in_flight_bytes: int = 512 * 1024 * 1024
    """Bytes of those batches, beyond which none is read: recordings are larger than texts."""
    commit_records: int = 4096
    """So many results go into the sink at once …"""
    commit_seconds: float = 1.0
    """… or what there is after so many seconds."""
    sink_patience: float = 60.0
    """Seconds that a sink may be away."""
    stop_patience: float = 60.0
    """Seconds that a stream which is told to stop waits for what is being computed."""
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        for name in ("batch_records", "commit_records", "in_flight_bytes"):
            if getattr(self, name) < 1:
                raise StreamError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.in_flight is not None and self.in_flight < 1:
            raise StreamError(f"in_flight must be at least 1, not {self.in_flight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What a stream did in this run."""

    records: int
    """Into the sink."""
    errors: int
    """Of them, those with an error instead of a result."""
    records_total: int
    """In the sink, those of earlier runs included."""
    commits: int
    seconds: float
    stopped: bool
    """Whether it was stopped before its source ended."""


class Flow:
    """One run of a stream, in the thread that calls `run`."""

    def __init__(
        self,
        client: Any,
        source: Source,
        sink: Sink,
        spec: OperatorSpec,
        options: StreamOptions,
        *,
        fields: Sequence[Any],
        state: State,
        stopped: threading.Event,
        say: Callable[[str], None] = lambda notice: None,
    ) -> None:
        """`spec` is pinned, `fields` are its result columns, `state` what the sink holds."""
        self._client, self._source, self._sink, self._spec, self._options = client, source, sink, spec, options
        self._fields, self._stopped, self._say = fields, stopped, say
        self._same = spec.identity(state.facts)
        self._done, self._number = state.done, state.number
        self._forgettable: list[str] = []
        self._events: SimpleQueue[Batch | str | None] = SimpleQueue()
        self._at_work: dict[str, tuple[Flight, Any]] = {}
        self.flights = Flights(ordered=options.ordered)
        self.watch = Watch(client, options.patience, spec.job_type, say)
        self.meter = Meter(time.monotonic())
        self.records = self.errors = self.commits = 0
        self.records_before = state.records
        self._schema: Any = None
        self._source_schema: Any = None
        self._begun = time.monotonic()

    def run(self) -> StreamReport:
        """Until the source ends or somebody stops it. Raises StreamError or GridUnavailable; the sink stays whole."""
        self.watch.look(force=True)
        reader = Reader(
            self._source,
            self._done,
            most=self._options.batch_records,
            permits=self._allowed(),
            most_bytes=self._options.in_flight_bytes,
            take=self._events.put,
        )
        try:
            self._loop(reader)
        finally:
            reader.stop()
            self._drop()
        return StreamReport(
            records=self.records,
            errors=self.errors,
            records_total=self.records_before + self.records,
            commits=self.commits,
            seconds=time.monotonic() - self._begun,
            stopped=self._stopped.is_set(),
        )

    def _loop(self, reader: Reader) -> None:
        until: float | None = None
        hangs: float | None = None
        while True:
            if self._stopped.is_set() and until is None:
                reader.stop()
                until = time.monotonic() + self._options.stop_patience
                hangs = time.monotonic() + SOURCE_PATIENCE
            ended = reader.ended and self._events.empty()
            if ended and reader.error is not None and not self.flights.computing:
                self._commit_ready(reader, last=True)
                raise reader.error
            if ended and not self.flights:
                return
            if hangs is not None and time.monotonic() > hangs and not self.flights and self._events.empty():
                return  # it is stuck in its source, and nothing that came from there is under way
            if until is not None and time.monotonic() > until:
                raise StreamStopped(f"{self.flights.computing} batches were not done in time: a restart does them")
            self._step(reader, last=ended and not self.flights.computing)

    def _step(self, reader: Reader, *, last: bool) -> None:
        wait = 0.0 if last else min(POLL, self._options.commit_seconds)
        with suppress(Empty):
            self._take(self._events.get(timeout=max(wait, 0.001)))
            while True:
                self._take(self._events.get_nowait())
        self._reconnect()
        self._commit_ready(reader, last=last)
        if self.watch.look([key for key, _ in zip(self._at_work, range(8), strict=False)]):
            reader.allow(self._allowed())

    def _allowed(self) -> int:
        return self._options.in_flight or 2 * BATCHES_PER_SLOT * self.watch.threads

    # -- computing ----------------------------------------------------------------------------------------------------

    def _take(self, event: Batch | str | None) -> None:
        if isinstance(event, Batch):
            self._check(event)
            self._submit(self.flights.add(event))
        elif event in self._at_work:
            self._answered(event)

    def _check(self, batch: Batch) -> None:
        """The first batch says what the records and the output look like."""
        if self._schema is not None:
            if not batch.rows.schema.equals(self._source_schema):
                raise StreamError(
                    f"the records from {batch.names()[0]} on have other columns than those before: "
                    f"{shown(batch.rows.schema)} is not {shown(self._source_schema)}. One stream has one schema"
                )
        else:
            taken = {RECORD, self._options.error_column, *(field.name for field in self._fields)}
            if twice := sorted(taken & set(batch.rows.schema.names)):
                raise StreamError(f"the records already have a column {twice[0]!r}: rename it")
            self._source_schema = batch.rows.schema
            schema = output_schema(batch.rows.schema.remove_metadata(), self._fields, self._options.error_column)
            self._schema = schema.append(pa.field(RECORD, pa.string()))

    def _submit(self, flight: Flight) -> None:
        state, rows = flight.attempts, flight.batch.rows
        start, stop = state.search.probe if state.search is not None else (0, rows.num_rows)
        refused = {**flight.batch.refused, **state.killed}
        index = rows.schema.get_field_index(self._options.column)
        if index < 0:
            known = ", ".join(rows.schema.names)
            raise StreamError(f"the records have no column {self._options.column!r}, but {known}")
        work = Work(
            spec=self._spec,
            same=self._same,
            column=self._options.column,
            error_column=self._options.error_column,
            rows=rows.select([self._options.column]).slice(start, stop - start),
            first=flight.batch.pieces[0].start + start,
            refused={row - start: why for row, why in refused.items() if start <= row < stop},
        )
        only = frozenset(self.watch.workers) - state.away_from if state.away_from else frozenset[str]()
        key = f"stream-{self._spec.job_type}-{flight.number}-{uuid4().hex[:12]}"
        try:
            with ask_for(self._spec), dask.config.set({WARNING: QUIET}):
                future = self._client.submit(
                    compute_batch if state.search is None else probe_batch,
                    work,
                    key=key,
                    pure=False,
                    workers=sorted(only) or None,
                    allow_other_workers=bool(only),
                )
        except ClosedClientError:  # `_reconnect` sees to it
            self._at_work[key] = (flight, None)
            return
        self._at_work[key] = (flight, future)
        future.add_done_callback(lambda done: self._events.put(done.key))

    def _answered(self, key: str) -> None:
        flight, future = self._at_work.pop(key)
        if future.status == "finished":
            self._computed(flight, future)
        elif future.status == "error":
            self._failed(flight, future.exception(timeout=RESULT_TIMEOUT))
        else:  # the scheduler forgot it
            self._reconnect()
            self._submit(flight)

    def _computed(self, flight: Flight, future: Any) -> None:
        if flight.attempts.search is not None:
            flight.attempts = flight.attempts.after_probe()
            self._again(flight)
            return
        try:
            result = future.result(timeout=RESULT_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - its worker died with the answer: compute it again
            logger.info("a result got lost (%r): computing it again", error)
            self._submit(flight)
            return
        flight.result, flight.ready_at = result, time.monotonic()
        failpoint("stream.computed")

    def _failed(self, flight: Flight, error: BaseException) -> None:
        if isinstance(error, KilledWorker):
            worker = str(getattr(error.last_worker, "address", ""))
            flight.attempts = flight.attempts.after_death(worker)
            self._say(f"a worker died under {flight.batch.names()[0]} and {flight.batch.rows.num_rows - 1} more")
        else:
            why = str(error) or repr(error)
            flight.attempts = flight.attempts.after_failure(why, getattr(error, "worker", ""), final=False)
            self._say(why)
        self._again(flight)

    def _again(self, flight: Flight) -> None:
        if flight.attempts.given_up is not None:
            first, last = flight.batch.names()[0], flight.batch.names()[-1]
            raise StreamError(f"the records {first} to {last} can't be done: {flight.attempts.given_up}")
        self._submit(flight)

    def _reconnect(self) -> None:
        """The scheduler went away, and with it all that it knew: submit again what it had."""
        if self.watch.connected:
            return
        self.watch.reconnect()
        flights = [flight for flight, _ in self._at_work.values()]
        self._at_work.clear()
        for flight in flights:
            self._submit(flight)

    def _drop(self) -> None:
        futures = [future for _, future in self._at_work.values() if future is not None]
        self._at_work.clear()
        if futures and self.watch.connected:
            with suppress(Exception):
                self._client.cancel(futures)

    # -- the sink -----------------------------------------------------------------------------------------------------

    def _commit_ready(self, reader: Reader, *, last: bool) -> None:
        ready, options = self.flights.committable(), self._options
        last = last or (self._stopped.is_set() and not self.flights.computing)
        if not due(ready, time.monotonic(), records=options.commit_records, seconds=options.commit_seconds, last=last):
            return
        table = pa.Table.from_batches([self._rows(flight) for flight in ready], schema=self._schema)
        self._commit(table, [piece for flight in ready for piece in flight.batch.pieces])
        self.errors += len(table) - table[options.error_column].null_count
        self.records += len(table)
        self.meter.add(len(table), time.monotonic())
        self.flights.remove(ready)
        for flight in ready:
            reader.give_back(flight.batch)

    def _gone(self) -> Collection[str]:
        """What need not be remembered; a source that can't tell now is asked another time."""
        try:
            return self._source.gone(self._done)
        except (OSError, StreamError) as error:
            logger.info("what is gone from the source can't be told now: %s", error)
            return ()

    def _rows(self, flight: Flight) -> Any:
        """Source columns, result columns, error, name of the record."""
        names = pa.array(flight.batch.names(), pa.string())
        columns = [*flight.batch.rows.columns, *flight.result.columns, names]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _commit(self, table: Any, pieces: Sequence[Piece]) -> None:
        """One commit, tried again while the sink is away; then the source hears of it."""
        if self.commits and self.commits % GONE_EVERY == 0:
            self._forgettable += self._gone()
        commit = Commit(self._number + 1, uuid4().hex, tuple(pieces), tuple(self._forgettable))
        commit.apply(self._done)
        until = time.monotonic() + self._options.sink_patience
        while True:
            try:
                self._sink.commit(commit, table, self._done)
                break
            except Overtaken:
                raise
            except OSError as error:
                if time.monotonic() > until:
                    raise StreamError(f"the sink is away for {self._options.sink_patience:g} s: {error}") from error
                self._say(f"the sink is away: {error}")
                time.sleep(PAUSE)
        failpoint("stream.committed")
        self._number = commit.number
        self.commits += 1
        self._forgettable = list(self._source.settled(pieces))
        failpoint("stream.settled")
