"""A stream as a thing to hold: it runs in a thread of its own, tells how it is, and ends when it is told to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any, Self

from ..bulk.errors import GridUnavailable
from ..bulk.finding_out import find_out
from ..bulk.operators import OperatorSpec
from ..bulk.watch import Patience, Watch
from .callback import CallbackSink
from .errors import StreamError, StreamStopped
from .flow import Flow, StreamOptions, StreamReport
from .sink import Sink
from .source import Source

logger = logging.getLogger(__name__)

_POLL = 0.2
_AHEAD = 2
"""Commits that wait for who iterates over a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """One look at a stream."""

    state: str
    """``starting``, ``running``, ``stopping``, ``ended`` or ``failed``."""
    records: int
    """That came into the sink in this run."""
    records_total: int
    """In the sink, those of earlier runs included."""
    errors: int
    """Of this run's, those with an error instead of a result."""
    in_flight: int
    """Batches that are read and not in the sink."""
    backlog: int | None
    """Records that the source has and that were not read. None: nobody can tell."""
    lag_seconds: float
    """For how long the oldest record that is not in the sink has been there. 0: there is none that is known."""
    records_per_second: float
    """Over the last half minute."""
    workers: int
    notice: str
    """What it last had to say."""


class _Impatient(Watch):
    """Raises GridUnavailable once the stream is told to stop: before it began, there is nothing to finish."""

    def __init__(
        self, client: Any, patience: Patience, work: str, say: Callable[[str], None], stopped: threading.Event
    ) -> None:
        super().__init__(client, patience, work, say)
        self._stopped = stopped

    def look(self, keys: Iterable[str] = (), *, force: bool = False) -> bool:
        """See Watch."""
        if self._stopped.is_set():
            raise GridUnavailable("the stream was stopped")
        return super().look(keys, force=force)


class Stream:
    """Begun when it is made. Iterate over it (only without a sink of your own), `wait` for it, or `stop` it."""

    def __init__(
        self,
        client: Any,
        source: Source,
        spec: OperatorSpec,
        sink: Sink | None,
        options: StreamOptions,
        *,
        listen: Callable[[StreamStatus], None] | None = None,
    ) -> None:
        """`sink` None: the results are for who iterates over the stream. `listen` hears of notices, from its thread."""
        self._client, self._source, self._spec, self._options = client, source, spec, options
        self._rows: Queue[list[dict[str, Any]] | None] | None = None
        if sink is None:
            self._rows = Queue(_AHEAD)
            sink = CallbackSink(self._offer)
        self._sink, self._listen = sink, listen
        self._stopped = threading.Event()
        self._flow: Flow | None = None
        self._notice, self._state = "", "starting"
        self._report: StreamReport | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="idlegrid-stream", daemon=True)
        self._thread.start()

    def status(self) -> StreamStatus:
        """How it is now."""
        flow, now = self._flow, time.time()
        backlog = self._source.backlog() if flow is not None and self._state == "running" else None
        waits = [flow.flights.oldest if flow is not None else None, backlog.oldest if backlog is not None else None]
        oldest = min((since for since in waits if since is not None), default=None)
        return StreamStatus(
            state="stopping" if self._stopped.is_set() and self._state == "running" else self._state,
            records=flow.records if flow is not None else 0,
            records_total=flow.records_before + flow.records if flow is not None else 0,
            errors=flow.errors if flow is not None else 0,
            in_flight=len(flow.flights) if flow is not None else 0,
            backlog=backlog.records if backlog is not None else None,
            lag_seconds=0.0 if oldest is None else max(0.0, now - oldest),
            records_per_second=flow.meter.rate(time.monotonic()) if flow is not None else 0.0,
            workers=len(flow.watch.workers) if flow is not None else 0,
            notice=self._notice,
        )

    def stop(self) -> None:
        """Read no more; what is being computed still comes into the sink. Returns at once, and twice is fine."""
        self._stopped.set()

    def wait(self, timeout: float | None = None) -> StreamReport:
        """What it did, once it has ended. Raises TimeoutError, and what made it fail: StreamError, GridUnavailable …"""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the stream has not ended within {timeout:g} s")
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows: the record's columns, the result's, ``error`` and ``record``. Raises what `wait` does at its end."""
        if self._rows is None:
            raise TypeError("this stream has a sink of its own: its results are there")
        while True:
            try:
                rows = self._rows.get(timeout=_POLL)
            except Empty:
                if self._thread.is_alive() or not self._rows.empty():
                    continue
                break
            if rows is None:
                break
            yield from rows
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stops it and waits for its end; not after Ctrl-C: what is not in the sink is done by a restart."""
        self.stop()
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self._thread.join()

    def _offer(self, rows: list[dict[str, Any]]) -> None:
        """Waits until somebody wants them; thrown away when the stream was stopped and nobody does."""
        assert self._rows is not None
        while True:
            try:
                self._rows.put(rows, timeout=_POLL)
            except Full:
                if not self._stopped.is_set():
                    continue
            return

    def _say(self, notice: str) -> None:
        self._notice = notice
        if self._listen is None:
            return
        try:
            self._listen(self.status())
        except Exception:
            logger.exception("who listens to a stream failed")

    def _run(self) -> None:
        try:
            self._report = self._flowing()
            self._state = "ended"
        except BaseException as error:  # noqa: BLE001 - raised by `wait`
            self._error, self._state = error, "failed"
        finally:
            self._source.close()
            self._sink.close()
            if self._rows is not None:
                self._end_of_rows()

    def _end_of_rows(self) -> None:
        assert self._rows is not None
        while not self._stopped.is_set():
            try:
                self._rows.put(None, timeout=_POLL)
            except Full:
                continue
            return

    def _flowing(self) -> StreamReport:
        options, spec = self._options, self._spec
        watch = _Impatient(self._client, options.patience, spec.job_type, self._say, self._stopped)
        try:
            found = find_out(self._client, spec, watch)
        except GridUnavailable:
            if self._stopped.is_set():
                told = "it was stopped before a worker had told what the model is: nothing was read"
                raise StreamStopped(told) from None
            raise
        identity = {
            "source": dict(self._source.identity),
            "type": spec.job_type,
            "model": spec.model,
            "options": dict(spec.options),
            "column": options.column,
        }
        state = self._sink.open(identity, dict(found.facts))
        same = spec.identity(found.facts)
        if state.facts and (kept := spec.identity(state.facts)) != same:
            raise StreamError(
                f"the model is another one than the stream began with: {kept} → {same}. Name another sink"
            )
        self._flow = Flow(
            self._client,
            self._source,
            self._sink,
            spec.pinned(found.facts),
            options,
            fields=found.schema,
            state=state,
            stopped=self._stopped,
            say=self._say,
        )
        self._state = "running"
        return self._flow.run()
