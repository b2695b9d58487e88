"""All donors, indexed so that the best for an ask is found without looking at those that can't take it."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import count
from typing import NamedTuple

from .acceptance import free_memory_gb, hourly_capped, moment_of, slots_taken
from .donors import IDLE, Donor, Load
from .hours import closes_at, has_hours, is_open, opens_at
from .jobs import Ask
from .regions import nearness
from .scoring import factor, merit, score, tie_break


class _Kind(NamedTuple):
    """What the donors of a shelf have in common for an ask: they run `type`, and what `holds` says of its model."""

    type: str
    holds: str
    """``any``: not restricted to models; ``some``: restricted; ``may``: restricted, to `model` among others;
    ``has``: allowed to run `model` and holding it now."""
    model: str | None = None


_DOUBT = 1e-3
"""Seconds between what floats of Unix time say and what the rule says of datetimes."""

_Place = tuple[str, bool]
"""Region and busy: together with the ask they settle the factor of the score."""


class _Entry:
    """One donor in the index, and where it stands."""

    __slots__ = ("busy", "donor", "free_gb", "hours", "key", "kinds", "load", "loaded", "open", "place", "wake_at")

    def __init__(self, donor: Donor, load: Load) -> None:
        self.donor = donor
        self.load = load
        self.key: _Key = (-merit(donor), *tie_break(donor), self)
        self.kinds: tuple[_Kind, ...] = ()
        """The shelves' kinds; those of `loaded`."""
        self.loaded: frozenset[str] | None = None
        self.place: _Place | None = None
        """Where on those shelves. None: on none, since the donor takes no work now."""
        self.free_gb = 0.0
        self.hours: tuple[float, float, bool] | None = None
        """Unix seconds from, until, and whether the working hours are open in between."""
        self.wake_at: float | None = None
        """Unix seconds at which its standing changes by time alone."""
        self.open = False
        """Whether it took work when last looked at, under the same offer."""


_Key = tuple[float, float, float, str, _Entry]
"""Sorts a shelf: merit (best first), then the tie break. Its id is unique, so the entry itself is never compared."""
_Shelf = list[_Key]


class Donors:
    """Donors by type, model, region and busyness, each list sorted by merit.

    A donor that takes no work now (paused, draining, shut, capped, full) is on no list until a new load or the moment
    that changes it, so a decision costs the same however many of those there are. Time comes in with each question and
    may go back. Not thread-safe.
    """

    def __init__(self, donors: Iterable[tuple[Donor, Load]] = ()) -> None:
        self._entries: dict[str, _Entry] = {}
        self._shelves: dict[_Kind, dict[_Place, _Shelf]] = {}
        self._unsettled: set[_Entry] = set()
        self._timed: set[_Entry] = set()
        self._wakes: list[tuple[float, int, _Entry]] = []
        self._serial = count()
        self._settled_at = -math.inf
        self._opened: set[str] = set()
        for donor, load in donors:
            self.put(donor, load)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, donor_id: object) -> bool:
        return donor_id in self._entries

    def __iter__(self) -> Iterator[tuple[Donor, Load]]:
        return ((entry.donor, entry.load) for entry in self._entries.values())

    def get(self, donor_id: str) -> tuple[Donor, Load]:
        """What is known of a donor. Raises KeyError for an unknown id."""
        entry = self._entries[donor_id]
        return entry.donor, entry.load

    def put(self, donor: Donor, load: Load = IDLE) -> None:
        """Add a donor, or replace all that is known of it."""
        old = self._entries.get(donor.id)
        entry = _Entry(donor, load)
        if old is not None:
            entry.open = old.open and _offer(donor) == _offer(old.donor)
            self._forget(old)
        self._entries[donor.id] = entry
        self._unsettled.add(entry)
        if has_hours(donor.limits) or donor.limits.max_jobs_per_hour:
            self._timed.add(entry)

    def load(self, donor_id: str, load: Load) -> None:
        """Say what a known donor is doing now. Raises KeyError for an unknown id."""
        entry = self._entries[donor_id]
        entry.load = load
        self._unsettled.add(entry)

    def drop(self, donor_id: str) -> None:
        """Forget a donor; an unknown id is no error."""
        entry = self._entries.pop(donor_id, None)
        if entry is not None:
            self._forget(entry)
            self._opened.discard(donor_id)

    def candidates(self, ask: Ask, now: datetime) -> Iterator[tuple[Donor, Load]]:
        """Donors that take work at `now` and have what `ask` needs, best score first. Their lots are still to be drawn.

        To be consumed before the index is changed.
        """
        self.settle(now)
        heads = [head for walk in self._walks(ask) if (head := walk.head())]
        heapq.heapify(heads)
        while heads:
            entry, walk = heads[0][-2:]
            yield entry.donor, entry.load
            walk.position += 1
            if head := walk.head():
                heapq.heapreplace(heads, head)
            else:
                heapq.heappop(heads)

    def _walks(self, ask: Ask) -> Iterator[_Walk]:
        """One walk for each shelf whose donors can take `ask`, as far as the shelf tells."""
        stay = ask.region if not ask.allow_cross_region else None
        held = (
            (("any", False), ("some", False)) if ask.model is None else (("any", False), ("may", False), ("has", True))
        )
        for holds, loaded in held:
            kind = _Kind(ask.type, holds, ask.model if holds in ("may", "has") else None)
            for (region, busy), shelf in self._shelves.get(kind, {}).items():
                if stay is None or region == stay:
                    times = factor(nearness(ask.region, region), busy=busy, loaded=loaded)
                    number = next(self._serial)
                    if ask.seconds:
                        yield _TimedWalk(shelf, times, ask, loaded=loaded, number=number, at=self._settled_at)
                    else:
                        yield _Walk(shelf, times, ask, loaded=loaded, number=number)

    def settle(self, now: datetime) -> None:
        """Bring the lists up to `now`: what was put or loaded since, and what time has opened and shut."""
        at = now.timestamp()
        if at < self._settled_at:
            self._unsettled |= self._timed
        self._settled_at = at
        while self._wakes and self._wakes[0][0] <= at:
            moment, _, entry = heapq.heappop(self._wakes)
            if entry.wake_at == moment and self._entries.get(entry.donor.id) is entry:
                entry.wake_at = None
                self._unsettled.add(entry)
        while self._unsettled:
            self._settle(self._unsettled.pop(), now, at)

    def next_change(self, now: datetime) -> datetime | None:
        """The next moment after `now` at which some donor opens or shuts by time alone. None: not before a new load."""
        self.settle(now)
        while self._wakes:
            moment, _, entry = self._wakes[0]
            if entry.wake_at == moment and self._entries.get(entry.donor.id) is entry:
                return moment_of(moment)
            heapq.heappop(self._wakes)
        return None

    def opened(self, now: datetime) -> frozenset[str]:
        """Ids of the donors that began to take work (or offer other work) since the last call, and take it at `now`."""
        self.settle(now)
        opened, self._opened = frozenset(self._opened), set()
        return opened

    def _settle(self, entry: _Entry, now: datetime, at: float) -> None:
        donor, load, limits = entry.donor, entry.load, entry.donor.limits
        takes_work, wake_at = not (load.draining or load.paused or slots_taken(limits, load)), None
        if has_hours(limits):
            _, wake_at, hours_open = entry.hours = _hours_around(entry, now, at)
            takes_work = takes_work and hours_open
        if hourly_capped(limits, load, now):
            takes_work = False
            frees_at = load.hourly_slot_frees_at
            if frees_at is not None and frees_at > at:
                wake_at = frees_at if wake_at is None else min(wake_at, frees_at)
        if wake_at is not None and wake_at != entry.wake_at:
            heapq.heappush(self._wakes, (wake_at, next(self._serial), entry))
        entry.wake_at = wake_at
        entry.free_gb = free_memory_gb(donor, load)
        self._shelve(entry, (donor.region, load.running > 0) if takes_work else None)
        if takes_work and not entry.open:
            self._opened.add(donor.id)
        elif not takes_work:
            self._opened.discard(donor.id)
        entry.open = takes_work

    def _shelve(self, entry: _Entry, place: _Place | None) -> None:
        """Move a donor to `place` on the shelves of its kinds."""
        loaded = entry.load.loaded
        if place == entry.place and loaded == entry.loaded:
            return
        self._unshelve(entry)
        if loaded != entry.loaded:
            entry.kinds, entry.loaded = tuple(_kinds(entry.donor, loaded)), loaded
        if place is not None:
            for kind in entry.kinds:
                insort(self._shelves.setdefault(kind, {}).setdefault(place, []), entry.key)
        entry.place = place

    def _unshelve(self, entry: _Entry) -> None:
        if entry.place is None:
            return
        for kind in entry.kinds:
            places = self._shelves[kind]
            shelf = places[entry.place]
            del shelf[bisect_left(shelf, entry.key)]
            if not shelf:
                del places[entry.place]
                if not places:
                    del self._shelves[kind]
        entry.place = None

    def _forget(self, entry: _Entry) -> None:
        self._unshelve(entry)
        self._unsettled.discard(entry)
        self._timed.discard(entry)


class _Walk:
    """A way down one shelf, past the donors that can't take the ask."""

    __slots__ = ("_excluded", "_factor", "_gb", "_model", "_number", "_shelf", "position")

    def __init__(self, shelf: _Shelf, times: float, ask: Ask, *, loaded: bool, number: int) -> None:
        self._shelf = shelf
        self._factor = times
        self._excluded = ask.excluded
        # Who holds the model is on another shelf at a higher score, and needs no further memory for it.
        self._model = None if loaded else ask.model
        self._gb = 0.0 if loaded else ask.gpu_memory_gb
        self._number = number
        self.position = 0

    def head(self) -> _Head | None:
        """The donor at or after `position` that is next on this shelf. None: the shelf is done."""
        shelf, gb, model, excluded = self._shelf, self._gb, self._model, self._excluded
        for position in range(self.position, len(shelf)):
            loss, latency, memory, id_, entry = shelf[position]
            if gb > 0 and gb > entry.free_gb:
                continue
            if (model is not None and model in entry.load.loaded) or id_ in excluded:
                continue
            self.position = position
            return -score(-loss, self._factor), latency, memory, id_, self._number, entry, self
        return None


class _TimedWalk(_Walk):
    """A walk for an ask of known length: past the donors, too, whose window ends before it would."""

    __slots__ = ("_at", "_seconds")

    def __init__(self, shelf: _Shelf, times: float, ask: Ask, *, loaded: bool, number: int, at: float) -> None:
        super().__init__(shelf, times, ask, loaded=loaded, number=number)
        self._seconds, self._at = ask.seconds, at

    def head(self) -> _Head | None:
        while (found := super().head()) is not None and self._shuts_too_soon(found[-2]):
            self.position += 1
        return found

    def _shuts_too_soon(self, entry: _Entry) -> bool:
        """In doubt the rule itself decides."""
        return entry.hours is not None and entry.hours[1] - self._at < self._seconds * entry.donor.pace - _DOUBT


_Head = tuple[float, float, float, str, int, _Entry, _Walk]
"""Orders walks by their next donor: score, tie break, then the walk's number, since a donor may be on two shelves."""


def _kinds(donor: Donor, loaded: frozenset[str]) -> Iterator[_Kind]:
    """The kinds of shelves on which an open donor is found."""
    for type_ in donor.supported_types:
        yield _Kind(type_, "some" if donor.models else "any")
        for model in donor.models:
            yield _Kind(type_, "may", model)
        for model in loaded & donor.models if donor.models else loaded:
            yield _Kind(type_, "has", model)


def _offer(donor: Donor) -> tuple[object, ...]:
    """What decides which work the donor may take, apart from its load."""
    return donor.supported_types, donor.models, donor.region, donor.gpu_memory_gb, donor.limits


def _hours_around(entry: _Entry, now: datetime, at: float) -> tuple[float, float, bool]:
    """From, until (Unix seconds) and state of the working hours around `now`; what is known already is kept."""
    if entry.hours is not None and entry.hours[0] <= at < entry.hours[1]:
        return entry.hours
    limits = entry.donor.limits
    opened = is_open(limits, now)
    turn = closes_at(limits, now) if opened else opens_at(limits, now)
    return at, turn.timestamp() if turn is not None else math.inf, opened
