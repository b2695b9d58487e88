"""Everything the grid knows inside a scheduler, fed by the scheduler's own events."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from distributed import SchedulerPlugin

from ..grid.jobs import Ask
from ..grid.reliability import History
from .barred import Barred
from .deployed import Deployed
from .facts import KEY
from .lanes import ANNOTATION, Key, Lane, Lanes, TaskState, is_durable
from .ledger import Ledger
from .offers import Offers, Scheduler
from .placer import OFFER_EVERY, Clock, Placer, utc_now
from .roster import Roster, Seat, WorkerState

logger = logging.getLogger(__name__)


_WATCHED = frozenset({"processing", "no-worker", "memory"})
"""States that tasks enter or leave with something to count."""


class Assignment(NamedTuple):
    """A task that holds a slot of a donor: while Dask has it in `processing`, and an actor for as long as it lives."""

    seat: Seat
    lane: Lane | None
    """None: a task of stock Dask."""
    since: datetime


class GridPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Keeps roster, lanes and ledger true to the scheduler's tables; `GridMixin` asks it where tasks go."""

    name = "idlegrid"

    def __init__(self, scheduler: Scheduler, *, clock: Clock = utc_now, offer_every: float = OFFER_EVERY) -> None:
        self.scheduler = scheduler
        self.ledger = Ledger()
        self.lanes = Lanes()
        self.roster = Roster(lambda donor_id: self.ledger.standing(donor_id, clock()))
        self.placer = Placer(self.roster, clock, offer_every, self.ledger.usual)
        self.offers = Offers(scheduler, self.lanes, self.placer)
        self.deployed = Deployed()
        self.barred = Barred(scheduler)
        self.assigned: dict[TaskState, Assignment] = {}
        self.running_by_type: Counter[str] = Counter()

    async def close(self) -> None:
        """The scheduler closes."""
        self.offers.stop()

    @property
    def now(self) -> datetime:
        """The time by the grid's clock."""
        return self.placer.clock()

    # -- what the scheduler asks
    # ------------------------------------------------------------------------------------------

    def lane(self, ts: TaskState) -> Lane | None:
        """The lane of a task, None for stock Dask's. A task whose lane can't be found belongs to nobody's."""
        try:
            return self.lanes.of(ts)
        except Exception as problem:  # noqa: BLE001 - fails closed
            self.placer.failed(problem)
            return Lane(Ask(type=""), error=self.placer.problem)

    def may_receive(self, ts: TaskState, thief: WorkerState) -> bool:
        """Whether a stolen task may still go to the thief, now that its victim gave it up."""
        lane, seat = self.lane(ts), self.roster.of(thief)
        if lane is None:
            return True
        if seat is None or thief not in self.scheduler.running:
            return False
        seat.inbound -= 1  # its own slot is not in its way
        self.roster.refresh(seat, self.now)
        welcome = bool(self.placer.verdict(ts.key, lane, seat, self.now))
        seat.inbound += 1
        self.roster.refresh(seat, self.now)
        return welcome

    def bar(self, donors: Iterable[str]) -> None:
        """All donors that are blocked. Who of them is here leaves, and what runs there goes to others."""
        self.barred.set(donors)
        for seat in [seat for seat in self.roster if seat.donor.id in self.barred]:
            self.barred.send_away(seat.ws)

    def told(self, histories: Mapping[str, History], usual: Mapping[str, float]) -> None:
        """What the grid's store knows of donors' pasts; the scores of those who are here follow at once."""
        self.ledger.told(histories, usual)
        now = self.now
        for seat in self.roster:
            self.roster.restate(seat, now)

    # -- what the scheduler tells
    # -----------------------------------------------------------------------------------------

    def heard(self, ws: WorkerState, wire: Any) -> None:
        """A worker said something: with its registration, a heartbeat or a change. `wire` is None for a worker
        without our plugin.
        """
        if wire is None or self.scheduler.workers.get(ws.address) is not ws:
            return
        if self.barred.says(wire):
            self.barred.send_away(ws)
            return
        now = self.now
        new = self.roster.of(ws) is None
        try:
            seat = self.roster.hear(ws, wire, now)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            self.roster.leave(ws)
            self.placer.failed(problem)
            return
        if seat is not None:
            if new:
                self.ledger.joined(seat.donor.id, now)
            self.roster.restate(seat, now)
            self.touch(ws)

    def touch(self, ws: WorkerState) -> None:
        """Something about a worker may have changed in Dask's tables."""
        seat = self.roster.of(ws)
        if seat is not None:
            self.roster.refresh(seat, self.now)
            if self.roster.changed:
                self.offers.wake()

    def inbound(self, thief: WorkerState, change: int) -> None:
        """A task is on its way to a worker (+1), or isn't any more (-1)."""
        seat = self.roster.of(thief)
        if seat is not None:
            seat.inbound += change
            self.touch(thief)

    def moved(self, ts: TaskState, thief: WorkerState) -> None:
        """Work stealing gave a task to another worker, which is no transition."""
        assignment = self._release(ts)
        if assignment is not None and assignment.lane is not None:
            self.roster.unstarted(assignment.seat)
        self._assign(ts, self.now)
        self._offer_freed()

    def log_event(self, topic: str, msg: Any) -> None:
        """A worker pushed a change, or has been removed: told before its tasks are placed anew, so they can't come
        back to it.
        """
        if topic == KEY and isinstance(msg, Mapping):
            ws = self.scheduler.workers.get(msg.get("worker"))
            if ws is not None:
                self.heard(ws, {name: value for name, value in msg.items() if name != "worker"})
        elif topic == "all" and isinstance(msg, Mapping) and msg.get("action") == "remove-worker":
            self._left(msg["worker"], expected=bool(msg["expected"]))

    def _left(self, address: str, *, expected: bool) -> None:
        seat = next((seat for seat in self.roster if seat.ws.address == address), None)
        if seat is None:
            return
        goodbye = expected or seat.load.draining
        mine = [ts for ts, held in self.assigned.items() if held.seat is seat and held.lane is not None]
        lost = sum(1 for ts in mine if not (self.ledger.fed and is_durable(ts)))
        self.roster.leave(seat.ws)
        self.ledger.left(seat.donor.id, self.now, expected=goodbye, interrupted=0 if expected else lost)

    def update_graph(self, scheduler: Scheduler, *, annotations: Mapping[str, Mapping[Key, Any]], **_: Any) -> None:
        """New tasks: whose submitter wants to know of worker deaths sooner or later than the scheduler would say."""
        for key, said in annotations.get(ANNOTATION, {}).items():
            if not (isinstance(said, Mapping) and "deaths_allowed" in said):
                continue
            ts = scheduler.tasks[key]
            lane = self.lane(ts)
            if lane is not None and not lane.error and lane.ask.deaths_allowed is not None and not ts.suspicious:
                ts.suspicious = scheduler.allowed_failures - lane.ask.deaths_allowed

    def transition(self, key: Key, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any) -> None:
        """A task changed its state."""
        if start == finish or (start not in _WATCHED and finish not in _WATCHED):
            return
        try:
            self._transition(self.scheduler.tasks[key], start, finish, kwargs)
        except Exception as problem:  # noqa: BLE001 - Dask would swallow it
            self.placer.failed(problem)

    def _transition(self, ts: TaskState, start: str, finish: str, said: Mapping[str, Any]) -> None:
        if start == "processing":
            if not (ts.actor and finish == "memory"):  # an actor keeps its slot while it lives
                if ts.actor and ts in self.assigned:
                    self.assigned[ts].seat.ws.actors.discard(ts)  # Dask keeps one that was cancelled while it was made
                self._finish(ts, finish, said)
        elif start == "memory":
            if ts.actor:
                self._release(ts)
                self._offer_freed()
        elif start == "no-worker":
            self.lanes.remove(ts.key)
        if finish == "processing":
            self._assign(ts, self.now)
        elif finish == "no-worker":
            lane = self.lane(ts)
            if lane is not None:
                self.lanes.add(lane, ts, self.now)
                self.offers.wake()

    def _assign(self, ts: TaskState, now: datetime) -> None:
        seat = self.roster.of(ts.processing_on)
        if seat is None:
            return
        lane = self.lane(ts)
        self.assigned[ts] = Assignment(seat, lane, now)
        if lane is not None:
            self.roster.started(seat, now)
            self.running_by_type[lane.ask.type] += 1
        self.roster.recount(seat, now)

    def _release(self, ts: TaskState) -> Assignment | None:
        held = self.assigned.pop(ts, None)
        if held is None:
            return None
        if held.lane is not None:
            self.running_by_type[held.lane.ask.type] -= 1
        if self.roster.of(held.seat.ws) is held.seat:
            self.roster.recount(held.seat, self.now)
        return held

    def _offer_freed(self) -> None:
        """What a release has freed goes to whoever waits."""
        if self.roster.changed:
            self.offers.wake()

    def _finish(self, ts: TaskState, finish: str, said: Mapping[str, Any]) -> None:
        held = self._release(ts)
        if finish == "memory":
            self.offers.want()  # Dask refills freed threads when it has dealt with this, and so do we
        else:
            self._offer_freed()
        if held is None or held.lane is None:
            return
        donor_id = held.seat.donor.id
        others = self.ledger.fed and is_durable(ts)  # the store will tell, and knows what became of it
        if finish == "memory":
            kind = (held.lane.ask.type, held.lane.ask.model)
            seconds = sum(s["stop"] - s["start"] for s in said.get("startstops", ()) if s["action"] == "compute")
            if others:
                self.ledger.measured(donor_id, kind, seconds)
            else:
                self.ledger.finished(donor_id, kind, seconds)
        elif others:
            return
        elif finish == "erred" and said.get("worker") in self.scheduler.workers:
            self.ledger.failed(donor_id)
        elif finish == "erred":  # Dask gave it up because workers died under it; this one is gone already
            self.ledger.interrupted(donor_id)
