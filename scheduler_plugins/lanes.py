"""Tasks that wait for a donor: a lane for each kind of ask, in order of priority, so that nothing scans them all."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from ..grid.jobs import Ask

ANNOTATION = "grid"
"""``dask.annotate(grid=ask.to_annotation())`` makes a task (or an actor) a grid task."""

DURABLE = "grid_durable"
"""``dask.annotate(grid_durable=True)``: an attempt at a durable job, which tells its end to the grid's store."""

TaskState: TypeAlias = Any
"""distributed's own, which has no types."""
Key: TypeAlias = Hashable

_REMEMBERED = 1024
"""Annotation objects remembered by identity: each submitted graph brings one."""
_LANES = 4096
"""From this many lanes on the empty ones are dropped."""


def is_durable(ts: TaskState) -> bool:
    """Whether a task is an attempt at a durable job."""
    return bool(ts.annotations and ts.annotations.get(DURABLE))


class Place(NamedTuple):
    """A waiting task's place in its lane. Sorts by priority (smaller first, as Dask has it), then by arrival."""

    priority: tuple[float, ...]
    number: int
    key: Key


class Waiter(NamedTuple):
    """A waiting task."""

    lane: Lane
    place: Place
    since: datetime


class Lane:
    """All tasks that ask for the same and are bound to the same Dask restrictions: what holds for the first, holds
    for all.
    """

    __slots__ = ("ask", "error", "places", "restrictions", "timed", "waiting")

    def __init__(self, ask: Ask, restrictions: tuple[Hashable, ...] = (), error: str = "") -> None:
        self.ask = ask
        self.timed = ask
        """The same, with the time that such work was last known to take (see `Placer.timed`)."""
        self.restrictions = restrictions
        """Dask's own (workers, hosts, resources, loose) in a comparable form; empty for nearly all tasks."""
        self.error = error
        """Why the annotation could not be read. Such tasks are never placed; they fail with this message."""
        self.places: list[Place] = []
        """A heap that may hold places of tasks that wait no more; `Lanes` skips those."""
        self.waiting = 0
        """Tasks that really wait here."""


class Lanes:
    """Finds a task's lane by its annotation (parsed once for all tasks that say the same) and keeps who waits there."""

    def __init__(self) -> None:
        self._by_object: dict[int, tuple[Any, Lane]] = {}
        self._by_contents: dict[Hashable, Lane] = {}
        self._by_type: defaultdict[str, set[Lane]] = defaultdict(set)
        self._waiters: dict[Key, Waiter] = {}
        self._number = 0

    def __len__(self) -> int:
        """How many tasks wait."""
        return len(self._waiters)

    def __contains__(self, key: Key) -> bool:
        return key in self._waiters

    def of(self, ts: TaskState) -> Lane | None:
        """The lane of a task, None for a task of stock Dask."""
        annotations = ts.annotations
        if not annotations or ANNOTATION not in annotations:
            return None
        raw = annotations[ANNOTATION]
        known = self._by_object.get(id(raw))
        lane = known[1] if known is not None and known[0] is raw else self._read(raw)
        if ts.worker_restrictions or ts.host_restrictions or ts.resource_restrictions:
            return self._lane(lane.ask, _restrictions(ts), lane.error)
        return lane

    def add(self, lane: Lane, ts: TaskState, now: datetime) -> None:
        """A task begins to wait."""
        self._number += 1
        place = Place(ts.priority, self._number, ts.key)
        self._waiters[ts.key] = Waiter(lane, place, now)
        heapq.heappush(lane.places, place)
        lane.waiting += 1
        self._by_type[lane.ask.type].add(lane)

    def remove(self, key: Key) -> Waiter | None:
        """A task waits no more, for whatever reason. None if it didn't."""
        waiter = self._waiters.pop(key, None)
        if waiter is None:
            return None
        lane = waiter.lane
        lane.waiting -= 1
        if not lane.waiting:
            lane.places.clear()
            self._by_type[lane.ask.type].discard(lane)
        elif len(lane.places) > 2 * lane.waiting + 16:  # mostly places of the gone: e.g. a big graph was cancelled
            lane.places = [place for place in lane.places if self._waits(place)]
            heapq.heapify(lane.places)
        return waiter

    def get(self, key: Key) -> Waiter | None:
        """How a task waits, None if it doesn't."""
        return self._waiters.get(key)

    def first(self, lane: Lane) -> Place | None:
        """The place at the front of a lane, None if nobody waits there."""
        while lane.places:
            if self._waits(lane.places[0]):
                return lane.places[0]
            heapq.heappop(lane.places)
        return None

    def take(self, lane: Lane) -> Place:
        """Take the place that `first` showed out of the heap. The task goes on waiting: `put_back` it if it wasn't
        placed.
        """
        return heapq.heappop(lane.places)

    def put_back(self, place: Place) -> bool:
        """Give a taken place back, if its task still waits on it: whether it does."""
        if not self._waits(place):
            return False
        heapq.heappush(self._waiters[place.key].lane.places, place)
        return True

    def of_types(self, types: Iterable[str]) -> Iterator[Lane]:
        """The lanes of these job types in which somebody waits."""
        for type_ in types:
            yield from self._by_type.get(type_, ())

    def unreadable(self) -> list[Lane]:
        """Lanes of tasks whose annotation can't be read."""
        return [lane for lane in self._by_type.get("", ()) if lane.error]

    def waiting_by_type(self) -> Mapping[str, int]:
        """Job type → how many tasks wait."""
        counts = {type_: sum(lane.waiting for lane in lanes) for type_, lanes in self._by_type.items()}
        return {type_: count for type_, count in sorted(counts.items()) if count}

    def waiting_by_region(self) -> Mapping[str, int]:
        """Preferred region → how many tasks wait; those without a preference aren't in it."""
        counts: Counter[str] = Counter()
        for lanes in self._by_type.values():
            for lane in lanes:
                if lane.ask.region is not None:
                    counts[lane.ask.region] += lane.waiting
        return counts

    def ahead(self, key: Key) -> int:
        """How many tasks of the same lane go before this waiting one. Looks at all of them: for answers to people."""
        waiter = self._waiters[key]
        return sum(place < waiter.place for place in waiter.lane.places if self._waits(place))

    def _waits(self, place: Place) -> bool:
        waiter = self._waiters.get(place.key)
        return waiter is not None and waiter.place is place

    def _read(self, raw: Any) -> Lane:
        if len(self._by_object) >= _REMEMBERED:
            self._by_object.clear()
        ask, error = _parse(raw)
        lane = self._lane(ask, (), error)
        self._by_object[id(raw)] = (raw, lane)  # holding `raw` keeps its id from being used again
        return lane

    def _lane(self, ask: Ask, restrictions: tuple[Hashable, ...], error: str) -> Lane:
        contents = (ask, restrictions, error)
        lane = self._by_contents.get(contents)
        if lane is None:
            if len(self._by_contents) >= _LANES:
                self._by_object.clear()
                self._by_contents = {known: lane for known, lane in self._by_contents.items() if lane.waiting}
            lane = self._by_contents[contents] = Lane(ask, restrictions, error)
        return lane


def _restrictions(ts: TaskState) -> tuple[Hashable, ...]:
    return (
        tuple(sorted(ts.worker_restrictions or ())),
        tuple(sorted(ts.host_restrictions or ())),
        tuple(sorted((ts.resource_restrictions or {}).items())),
        bool(ts.loose_restrictions),
    )


def _parse(raw: Any) -> tuple[Ask, str]:
    """The ask and an empty text, or an ask that nobody can take and what is wrong with the annotation."""
    try:
        if not isinstance(raw, Mapping):
            raise TypeError(f"a mapping is needed, not {type(raw).__name__}")
        ask = Ask.from_annotation(raw)
        if not isinstance(ask.type, str) or not ask.type:
            raise TypeError(f"type is a non-empty text, not {ask.type!r}")
        hash(ask)
    except TypeError as problem:
        return Ask(type=""), f"the annotation grid={raw!r} can't be read: {problem}"
    return ask, ""
