"""What all attempts of one worker process share: who it is, its connections, its spool, its slots, and what runs."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import ValidationError

from ...grid.credentials import Signer
from ...grid.job_rules import HANDED_BACK, REFUSED_BY_DONOR
from ...grid.job_types import UnknownJobTypeError, job_type
from ...grid.jobs import Ask
from ...grid.verdicts import ACCEPTED, Reason, Verdict
from .doors import Away, Doors, Gone, Unfit
from .runner import End, LastWord, Outcome, run_attempt
from .slots import SlotGuard
from .spool import Spool, default_folder, failed, handed_back
from .work_order import WorkOrder, this_process

logger = logging.getLogger(__name__)

REMEMBERED = 50
"""Attempts that ended, and are still told to the donor."""
DECLINE_PATIENCE = 5.0
"""Seconds that the service has to hear that this donor may not take a job; then it is nobody's until its lease ends."""


@dataclass(frozen=True, slots=True)
class Line:
    """One attempt, as its donor sees it."""

    job_id: str
    type: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None


@dataclass(slots=True)
class _Running:
    order: WorkOrder
    line: Line
    word: LastWord = field(default_factory=LastWord)


@dataclass(frozen=True, slots=True)
class _Guest:
    line: Line
    stop: Callable[[str], None]


class Desk:
    """Does the attempts of one worker in one process."""

    def __init__(self, worker_id: str, *, doors: Doors | None = None, spool: Spool | None = None) -> None:
        """Begins to tell what an earlier process of this worker left in the spool."""
        self.who = this_process(worker_id)
        self.doors = doors or Doors(signer=Signer.from_environment())
        self.spool = spool or Spool(default_folder(worker_id), self.doors)
        self.spool.start(self.who)
        self.slots: SlotGuard | None = None
        """The owner's limits; None: nothing is refused here."""
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._guests: dict[str, _Guest] = {}
        self._finished: deque[Line] = deque(maxlen=REMEMBERED)
        self._given_up: str | None = None
        self._changed: Callable[[], None] = lambda: None
        self.idle = threading.Event()
        """Set while nothing runs."""
        self.idle.set()

    def run(self, order: WorkOrder) -> Outcome:
        """Do one attempt in this thread, if the owner's limits allow it."""
        if self.slots is not None and not (verdict := self.slots.take(order.name, ask_of(order))):
            return self._decline(order, REFUSED_BY_DONOR, _told(verdict))
        one, outcome = _Running(order, Line(order.job_id, order.type, datetime.now(UTC))), Outcome.LOST
        try:
            if not self._begin(one):
                return self._decline(order, HANDED_BACK, self._given_up or "")
            outcome = run_attempt(order, self.who, self.doors, self.spool, word=one.word)
            return outcome
        finally:
            self._give(order.name)
            self._end(one, outcome)

    def refuse(self, order: WorkOrder, why: str) -> Outcome:
        """Hand an attempt back that is not begun here: another worker may have it at once."""
        return self._decline(order, HANDED_BACK, why)

    def admit(self, name: str, ask: Ask, stop: Callable[[str], None]) -> Verdict:
        """Begin work that is no attempt (direct mode), if the owner's limits allow it; `dismiss` ends it.

        `stop` is called with the reason when everything is given up; whoever asked for the work hears of it there.
        """
        if self.slots is not None and not (verdict := self.slots.take(name, ask)):
            return verdict
        with self._lock:
            given_up = self._given_up
            if given_up is None:
                self._guests[name] = _Guest(Line(name, ask.type, datetime.now(UTC)), stop)
                self.idle.clear()
        if given_up is not None:
            self._give(name)
            return Verdict(Reason.PAUSED, given_up)
        self._changed()
        return ACCEPTED

    def dismiss(self, name: str, outcome: str) -> None:
        """What was admitted under this name has ended."""
        self._give(name)
        with self._lock:
            guest = self._guests.pop(name)
            self._finished.append(replace(guest.line, ended_at=datetime.now(UTC), outcome=outcome))
            self._rest()
        self._changed()

    @property
    def guests(self) -> int:
        """How much runs that is no attempt."""
        return len(self._guests)

    def lines(self) -> tuple[list[Line], list[Line]]:
        """What runs, and what ended in this process, oldest first."""
        with self._lock:
            lines = [one.line for one in self._running.values()] + [guest.line for guest in self._guests.values()]
            return lines, list(self._finished)

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever `lines` has changed, in the thread that changed it."""
        self._changed = changed

    def hand_back(self, why: str) -> int:
        """Give up all that runs, for good: no attempt begins here any more. How many were given up.

        When this returns, each end is on disk, and the spool is telling it: the process may be killed. An attempt that
        has its result, and is telling it, keeps it. Raises OSError when the disk is full.
        """
        with self._lock:
            self._given_up = why
            running, guests = list(self._running.values()), list(self._guests.values())
        for one in running:
            seconds = (datetime.now(UTC) - one.line.started_at).total_seconds()
            end = End(handed_back(one.order, self.who, why, seconds), HANDED_BACK)
            one.word.take(end)
            self.spool.keep(one.order, self.who, (one.word.end or end).body)
            self.spool.unmark(one.order)
        for guest in guests:  # last: nothing of theirs is kept
            guest.stop(why)
        return sum(one.word.end is not None and one.word.end.outcome == HANDED_BACK for one in running)

    def finish(self, patience: float | None) -> bool:
        """Wait until no attempt runs, at most `patience` seconds (None: as long as they take). Whether none does.

        What still runs then is left to whoever comes when its lease ends: that its process ends is not its fault.
        """
        idle = self.idle.wait(patience)
        self.spool.unmark_all()
        return idle

    def close(self) -> None:
        """Close connections and spool; what is not delivered stays on disk."""
        self.spool.close()
        self.doors.close()

    def _decline(self, order: WorkOrder, code: str, why: str) -> Outcome:
        """Say that this donor will not begin it. Unheard, it goes to whoever comes when its lease ends."""
        logger.info("attempt %s is not begun: %s", order.name, why)
        try:
            body = failed(order, self.who, code, why, retry=True)
            self.doors.complete(order, self.who, body, DECLINE_PATIENCE)
        except Away:
            return Outcome.UNREACHED
        except (Gone, Unfit):
            return Outcome.REFUSED
        finally:
            self._changed()
        return Outcome.DECLINED

    def _begin(self, one: _Running) -> bool:
        """Whether anything begins here any more."""
        with self._lock:
            if self._given_up is not None:
                return False
            self._running[one.order.name] = one
            self.idle.clear()
        self._changed()
        return True

    def _end(self, one: _Running, outcome: Outcome) -> None:
        with self._lock:
            if self._running.pop(one.order.name, None) is None:
                return
            if outcome not in (Outcome.REFUSED, Outcome.UNREACHED) or one.word.end is not None:
                ended = outcome.value if one.word.end is None else one.word.end.outcome
                self._finished.append(replace(one.line, ended_at=datetime.now(UTC), outcome=ended))
            self._rest()
        self._changed()

    def _give(self, name: str) -> None:
        if self.slots is not None:
            self.slots.give(name)

    def _rest(self) -> None:
        """Under the lock."""
        if not self._running and not self._guests:
            self.idle.set()


def ask_of(order: WorkOrder) -> Ask:
    """What the limits must know of an attempt; of one that nobody could run, no more than its type."""
    try:
        kind = job_type(order.type)
        return kind.ask(kind.Params.model_validate(dict(order.params)))
    except (UnknownJobTypeError, ValidationError, ValueError):
        return Ask(type=order.type)


def _told(verdict: Verdict) -> str:
    return f"{verdict.reason}: {verdict.detail}" if verdict.detail else verdict.reason.value


_desks: dict[str, Desk] = {}
_opening = threading.Lock()


def desk(worker_id: str) -> Desk:
    """The desk of this process for that worker, opened at the first call: then what an earlier process left is told."""
    with _opening:
        found = _desks.get(worker_id)
        if found is None:
            found = _desks[worker_id] = Desk(worker_id)
        return found
