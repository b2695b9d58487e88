"""Driving units over Dask: bounded work in flight, deaths and failures answered, nothing that only memory knows."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

from distributed import KilledWorker
from distributed.client import ClosedClientError

from ...grid.failpoints import failpoint
from .attempts import Attempts
from .errors import CorruptInput, GridUnavailable, InputError, JobIncomplete, TargetError, TooManyErrors
from .operators import OperatorSpec
from .plan import Plan, Unit
from .progress import Meter, Progress
from .pulse import Pulse, heard
from .source import SourceFile, Storage
from .target import Target
from .unit import UnitResult, Work, probe_unit, run_unit, started
from .watch import POLL, Patience, Watch, ask_for

logger = logging.getLogger(__name__)

UNITS_PER_SLOT = 2
"""Units in flight for each thread of a worker: the one that runs and the next."""
RESULT_TIMEOUT = 30.0
UNBEGUN_ALLOWED = 50
"""Workers that may die while a unit only waits on them. Not the unit's fault, but it must end some time."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """A task that is on its way."""

    unit: Unit
    future: Any
    attempt: str
    probe: bool
    only: frozenset[str]
    """Addresses of the workers that may take it. Empty: all."""


class Driver:
    """Runs the units of a plan until each has a part or is given up."""

    def __init__(
        self,
        client: Any,
        plan: Plan,
        spec: OperatorSpec,
        *,
        storage: Storage,
        files: Sequence[SourceFile],
        target: Target,
        patience: Patience,
        max_errors: float | None,
        notify: Callable[[Progress], None],
    ) -> None:
        """`spec` is pinned; `files` carry today's stamps; `max_errors`: rows with errors at which to stop."""
        self._client, self._plan, self._spec, self._target = client, plan, spec, target
        self._storage, self._files = storage, files
        self._max_errors, self._notify = max_errors, notify
        self._same = spec.identity(plan.facts)
        self._finished: SimpleQueue[str] = SimpleQueue()
        self._flights: dict[str, _Flight] = {}
        self._waiting: list[tuple[int, float, int]] = []
        self._attempts = {unit.index: Attempts(unit.span) for unit in plan.units}
        self._unbegun: dict[int, int] = {}
        self._units = plan.units
        self._meter = Meter(time.monotonic())
        self._pulses: Mapping[str, Pulse] = {}
        self._shown: tuple[Pulse, ...] = ()
        self._watch = Watch(client, patience, spec.job_type, self.say)
        self.rows = self.errors = self.units = 0
        """Of finished parts."""
        self.parts_made = self.rows_made = 0
        """In this run."""

    def finished_before(self, unit: Unit, errors: int) -> None:
        """Count a part that an earlier run made."""
        self._count(unit, errors)

    def run(self, todo: Sequence[Unit]) -> None:
        """Do these units. Raises JobIncomplete, TooManyErrors or GridUnavailable; what is done stays done."""
        for unit in todo:
            self._wait(unit)
        self._watch.look(force=True)
        try:
            with heard(self._client) as self._pulses:
                while self._waiting or self._flights:
                    self._step()
        finally:
            self._drop_flights()
        self._raise_failures()

    def _step(self) -> None:
        """Keep the workers busy, answer one event if one comes, look after the grid."""
        with suppress(ClosedClientError):  # the scheduler went away just now: `_reconnect` sees to it
            self._fill()
        with suppress(Empty):
            self._take(self._finished.get(timeout=POLL))
        if (under_way := self._under_way()) != self._shown:
            self._shown = under_way
            self.say()
        self._reconnect()
        if self._watch.look(list(self._flights)):
            self._unstrand()

    def _wait(self, unit: Unit) -> None:
        """Queue a unit: those in trouble first, since each of their steps needs an answer; then the longest."""
        fresh = self._attempts[unit.index] == Attempts(unit.span)
        heapq.heappush(self._waiting, (int(fresh), -unit.span.seconds, unit.index))

    def _fill(self) -> None:
        room = UNITS_PER_SLOT * self._watch.threads - len(self._flights)
        while self._waiting and room > 0:
            self._submit(self._units[self._waiting[0][-1]])
            heapq.heappop(self._waiting)
            room -= 1

    def _submit(self, unit: Unit) -> None:
        state, attempt = self._attempts[unit.index], uuid4().hex[:12]
        span = unit.span
        if state.search is not None:
            start, stop = state.search.probe
            span = replace(span, start=start, stop=stop)
        work = Work(
            job=self._plan.job,
            part=unit.part,
            attempt=attempt,
            storage=self._storage,
            file=self._files[span.file],
            span=span,
            target=self._target,
            spec=self._spec,
            same=self._same,
            column=self._plan.column,
            error_column=self._plan.error_column,
            first_row=sum(file.rows for file in self._files[: span.file]),
            killed=dict(state.killed),
        )
        only = frozenset(self._watch.workers) - state.away_from if state.away_from else frozenset()
        key = f"bulk-{self._spec.job_type}-{self._plan.job}-{unit.part}-{attempt}"
        with ask_for(self._spec):
            future = self._client.submit(
                run_unit if state.search is None else probe_unit,
                work,
                key=key,
                pure=False,
                workers=sorted(only) or None,
            )
        self._flights[key] = _Flight(unit, future, attempt, state.search is not None, only)
        future.add_done_callback(lambda done: self._finished.put(done.key))

    def _take(self, key: str) -> None:
        """Answer what became of a task."""
        flight = self._flights.pop(key, None)
        if flight is None:
            return
        status = flight.future.status
        if status == "error":
            self._failed(flight, flight.future.exception(timeout=RESULT_TIMEOUT))
        elif status == "finished":
            self._succeeded(flight)
        else:
            self._wait(flight.unit)
            self._reconnect()

    def _succeeded(self, flight: _Flight) -> None:
        unit = flight.unit
        if flight.probe:
            self._attempts[unit.index] = self._attempts[unit.index].after_probe()
            self._next(unit)
            return
        try:
            result: UnitResult = flight.future.result(timeout=RESULT_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - its worker died with the answer; the part is there, so ask again
            logger.info("the answer for %s got lost (%r): asking again", unit.part, error)
            self._wait(unit)
            return
        if result.mine:
            self.parts_made += 1
            self.rows_made += unit.span.rows
        self._meter.add(unit.span.rows, time.monotonic())
        self._count(unit, result.facts.errors)
        failpoint("bulk.drive.part_done")
        self.say()
        if self._max_errors is not None and self.errors > self._max_errors:
            raise TooManyErrors(
                f"{self.errors:,} of {self.rows:,} rows have an error, more than max_error_ratio allows "
                f"({self._max_errors:,.0f} in the whole job). The finished parts say why, row by row"
            )

    def _failed(self, flight: _Flight, error: BaseException) -> None:
        unit, state = flight.unit, self._attempts[flight.unit.index]
        if isinstance(error, KilledWorker):
            worker = str(getattr(error.last_worker, "address", ""))
            if not self._target.marked(started(unit.part, flight.attempt)):
                self._never_begun(unit, worker)
                return
            state = state.after_death(worker)
            self.say(f"a worker died under {unit.part} ({worker}); {_next_step(state)}")
        else:
            final = isinstance(error, (InputError, TargetError)) and not isinstance(error, CorruptInput)
            why = str(error) or repr(error)
            state = state.after_failure(why, getattr(error, "worker", ""), final=final)
            self.say(f"{unit.part}: {why}")
        self._attempts[unit.index] = state
        self._next(unit)

    def _never_begun(self, unit: Unit, worker: str) -> None:
        """A worker died while the unit only waited there: not the unit's fault."""
        count = self._unbegun[unit.index] = self._unbegun.get(unit.index, 0) + 1
        if count > UNBEGUN_ALLOWED:
            why = f"{count} workers died before they began it (the last: {worker})"
            self._attempts[unit.index] = replace(self._attempts[unit.index], given_up=why)
        self._next(unit)

    def _next(self, unit: Unit) -> None:
        if self._attempts[unit.index].given_up is None:
            self._wait(unit)

    def _count(self, unit: Unit, errors: int) -> None:
        self.rows += unit.span.rows
        self.errors += errors
        self.units += 1

    def _reconnect(self) -> None:
        """The scheduler went away, and with it all that it knew: queue again what it had."""
        if self._watch.connected:
            return
        self._watch.reconnect()
        for flight in self._flights.values():
            self._wait(flight.unit)
        self._flights.clear()

    def _unstrand(self) -> None:
        """Queue again what waits for workers that are all gone."""
        for key, flight in list(self._flights.items()):
            if flight.only and not flight.only & set(self._watch.workers):
                del self._flights[key]
                flight.future.cancel()
                self._wait(flight.unit)

    def _drop_flights(self) -> None:
        """Take back what has not begun. A unit that runs goes on and publishes its part, which a restart finds."""
        futures = [flight.future for flight in self._flights.values()]
        self._flights.clear()
        if futures and self._watch.connected:
            with suppress(Exception):
                self._client.cancel(futures)

    def _under_way(self) -> tuple[Pulse, ...]:
        return tuple(self._pulses[key] for key in list(self._pulses) if key in self._flights)

    def say(self, notice: str = "") -> None:
        """Have it shown how far the job is, and what the user should know."""
        now = time.monotonic()
        if notice:
            logger.info("%s", notice)
        self._notify(
            Progress(
                rows=self.rows,
                rows_total=self._plan.rows,
                errors=self.errors,
                units=self.units,
                units_total=len(self._units),
                rows_per_second=self._meter.rate(now),
                eta_seconds=self._meter.eta(self._plan.rows - self.rows, now),
                workers=len(self._watch.workers),
                under_way=self._under_way(),
                notice=notice,
            )
        )

    def _raise_failures(self) -> None:
        failures = {
            self._units[index].part: state.given_up for index, state in self._attempts.items() if state.given_up
        }
        if failures:
            shown = "\n".join(f"  {part}: {why}" for part, why in list(failures.items())[:5])
            more = f"\n  … and {len(failures) - 5} more" if len(failures) > 5 else ""
            raise JobIncomplete(
                f"{len(failures)} of {len(self._units)} parts could not be made, all others are done:\n{shown}{more}",
                failures,
            )


def _next_step(state: Attempts) -> str:
    if state.given_up is not None:
        return "it is given up"
    if state.search is not None:
        start, stop = state.search.probe
        return f"looking for the row that kills: trying rows {start}..{stop}"
    return "trying it again" if not state.killed else f"trying it without row {max(state.killed)}"


@contextmanager
def resumable(target: Target) -> Iterator[None]:
    """Adds to whatever ends a job early how to go on."""
    hint = f"The finished parts in {target.url} stay: run the same job again to go on where it stopped."
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Stopped. {hint}") from None
    except JobIncomplete as error:
        raise JobIncomplete(f"{error.message}\n{hint}", error.failures) from error.__cause__
    except (GridUnavailable, TooManyErrors) as error:
        raise type(error)(f"{error}. {hint}") from error.__cause__
