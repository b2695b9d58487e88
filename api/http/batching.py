"""Which requests are computed together: a queue that forms batches. No clock, no I/O: `now` is an argument.

    waiting ──take──▶ in flight ──done──▶ (gone)
       └──withdraw──▶ (gone)

A batch of a group (a model) goes out when the group has a free slot and: nothing of the group is in flight (an idle
back end never waits), or a whole batch has gathered, or the oldest input has waited `max_wait`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

_SMOOTHING = 0.3
"""Weight of the newest batch in the mean time of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much is computed together, and how much may wait."""

    max_batch: int = 32
    """Inputs in one batch."""
    max_wait: float = 0.05
    """Longest wait for a batch to fill, in seconds."""
    max_in_flight: int = 4
    """Batches of one group at the same time."""
    max_items: int = 4096
    """Inputs that may wait."""
    max_chars: int = 16_000_000
    """Sum of the waiting inputs' sizes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs that are computed together."""

    number: int
    group: Hashable
    parts: dict[int, list[int]]
    """Ticket of a request → indices of its inputs in this batch."""

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


class QueueFull(Exception):
    """There is no room for the request."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} inputs are waiting, there is no room for this request")
        self.retry_after = retry_after
        """Seconds after which there is room, as far as can be told."""


@dataclass(slots=True)
class _Waiting:
    """A request some of whose inputs wait."""

    group: Hashable
    sizes: Sequence[int]
    since: float
    taken: int = 0
    """Inputs that went into a batch already; they go in order."""


@dataclass(slots=True)
class _Group:
    turns: deque[int] = field(default_factory=deque)
    """Tickets with waiting inputs, in the order in which they next give one: each batch takes from all in turn, so that
    a request with one input is not kept behind one with thousands."""
    items: int = 0
    in_flight: int = 0


class BatchQueue:
    """The waiting inputs and the batches that are out."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._waiting: dict[int, _Waiting] = {}  # in order of arrival
        self._groups: dict[Hashable, _Group] = {}
        self._out: dict[int, Batch] = {}
        self._numbers = itertools.count()
        self._items = self._chars = 0
        self._batch_seconds = 0.1

    @property
    def items(self) -> int:
        """Inputs that wait."""
        return self._items

    def offer(self, group: Hashable, sizes: Sequence[int], now: float) -> int:
        """Let a request with inputs of these sizes wait, at least one. Returns its ticket.

        Raises QueueFull. A request that is larger than the whole queue is taken when nothing waits: it would never be
        otherwise.
        """
        if not sizes:
            raise ValueError("a request has at least one input")
        chars = sum(sizes)
        limits = self.limits
        if self._items and (self._items + len(sizes) > limits.max_items or self._chars + chars > limits.max_chars):
            raise QueueFull(self._items, self._time_to_drain())
        ticket = next(self._numbers)
        self._waiting[ticket] = _Waiting(group, sizes, now)
        own = self._groups.setdefault(group, _Group())
        own.turns.append(ticket)
        own.items += len(sizes)
        self._items += len(sizes)
        self._chars += chars
        return ticket

    def withdraw(self, ticket: int) -> None:
        """Forget the inputs of a request that still wait. A ticket without any is no error."""
        request = self._waiting.pop(ticket, None)
        if request is None:
            return
        own = self._groups[request.group]
        own.turns.remove(ticket)
        self._forget(own, request.sizes[request.taken :])
        self._drop_if_idle(request.group)

    def take(self, now: float) -> Batch | None:
        """The next batch that is to be computed now, or None. Every batch must come back through `done`."""
        group = next((name for name in self._groups if self._is_due(name, now)), None)
        if group is None:
            return None
        own = self._groups[group]
        parts: dict[int, list[int]] = {}
        for _ in range(min(own.items, self.limits.max_batch)):
            ticket = own.turns.popleft()
            request = self._waiting[ticket]
            parts.setdefault(ticket, []).append(request.taken)
            self._forget(own, request.sizes[request.taken : request.taken + 1])
            request.taken += 1
            if request.taken < len(request.sizes):
                own.turns.append(ticket)
            else:
                del self._waiting[ticket]
        own.in_flight += 1
        self._groups[group] = self._groups.pop(group)  # the other groups come first next time
        batch = Batch(next(self._numbers), group, parts)
        self._out[batch.number] = batch
        return batch

    def done(self, batch: Batch, seconds: float) -> None:
        """A batch is over, however it ended, `seconds` after it was taken. Raises KeyError when it already was."""
        del self._out[batch.number]
        self._groups[batch.group].in_flight -= 1
        self._batch_seconds += _SMOOTHING * (seconds - self._batch_seconds)
        self._drop_if_idle(batch.group)

    def look_again_at(self) -> float | None:
        """The moment from which on `take` has a batch although nothing else happened. None: it needs an event first."""
        times = [
            self._oldest(name) + self.limits.max_wait
            for name, own in self._groups.items()
            if own.items and own.in_flight < self.limits.max_in_flight
        ]
        return min(times, default=None)

    def check_integrity(self) -> None:
        """Raise AssertionError unless all counts agree. For tests."""
        left = {ticket: request.sizes[request.taken :] for ticket, request in self._waiting.items()}
        assert all(left.values())
        assert self._items == sum(map(len, left.values()))
        assert self._chars == sum(map(sum, left.values()))
        for name, own in self._groups.items():
            mine = [ticket for ticket, request in self._waiting.items() if request.group == name]
            assert sorted(own.turns) == mine
            assert own.items == sum(len(left[ticket]) for ticket in mine)
            assert own.in_flight == sum(batch.group == name for batch in self._out.values())
            assert own.items or own.in_flight

    def _is_due(self, name: Hashable, now: float) -> bool:
        own, limits = self._groups[name], self.limits
        if not own.items or own.in_flight >= limits.max_in_flight:
            return False
        return own.in_flight == 0 or own.items >= limits.max_batch or now >= self._oldest(name) + limits.max_wait

    def _oldest(self, name: Hashable) -> float:
        return next(request.since for request in self._waiting.values() if request.group == name)

    def _forget(self, own: _Group, sizes: Sequence[int]) -> None:
        own.items -= len(sizes)
        self._items -= len(sizes)
        self._chars -= sum(sizes)

    def _drop_if_idle(self, name: Hashable) -> None:
        own = self._groups[name]
        if not own.items and not own.in_flight:
            del self._groups[name]

    def _time_to_drain(self) -> float:
        batches = self._items / self.limits.max_batch
        return batches * self._batch_seconds / self.limits.max_in_flight
