"""Drives a batch queue on an event loop: requests in, batches out when they are due, an outcome for each request."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from .batching import Batch, BatchLimits, BatchQueue
from .embedder import Unavailable

In = TypeVar("In")
Out = TypeVar("Out")


class DeadlineExceeded(Exception):
    """The request was not answered in its time."""


@dataclass(slots=True, eq=False)
class Request(Generic[In, Out]):
    """A request whose client waits: for an outcome of each of its inputs."""

    inputs: Sequence[In]
    outcome: asyncio.Future[list[Out]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """In the order of the inputs."""
    _found: dict[int, Out] = field(default_factory=dict)

    def deliver(self, index: int, one: Out) -> None:
        """Take the outcome of one input; the last one completes the request."""
        self._found[index] = one
        if len(self._found) == len(self.inputs) and not self.outcome.done():
            self.outcome.set_result([self._found[place] for place in range(len(self.inputs))])

    def has(self, indices: Sequence[int]) -> bool:
        """Whether these of its inputs have what they wait for."""
        return all(index in self._found for index in indices)

    def fail(self, error: BaseException) -> None:
        """End the request with an error, if it has not ended yet."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class BatchDriver(ABC, Generic[In, Out]):
    """What is the same whatever is computed. Lives on one event loop."""

    def __init__(self, limits: BatchLimits, *, clock: Callable[[], float] | None = None) -> None:
        """`clock` gives seconds; the event loop's own unless a test gives another."""
        self._queue = BatchQueue(limits)
        self._clock = clock
        self._requests: dict[int, Request[In, Out]] = {}
        self._running: dict[int, tuple[Batch, asyncio.Task[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @abstractmethod
    async def _run(self, batch: Batch) -> None:
        """Compute one batch, and end its requests. Never raises."""

    @property
    def waiting(self) -> int:
        """Inputs that wait for a batch."""
        return self._queue.items

    async def _outcomes(self, group: Hashable, inputs: Sequence[In], sizes: Sequence[int], within: float) -> list[Out]:
        """An outcome for each input, in order; those of one `group` may share a batch.

        Raises QueueFull at once when there is no room, DeadlineExceeded after `within` seconds, what the computation
        raises, and Unavailable after `close`. Cancelling gives up what still waits, and batches in which nobody else
        has a part.
        """
        if self._closed:
            raise Unavailable("the service is shutting down")
        ticket = self._queue.offer(group, sizes, self._now())
        request = self._requests[ticket] = Request[In, Out](inputs)
        self._pump()
        try:
            async with asyncio.timeout(within):
                await asyncio.wait([request.outcome])
        except TimeoutError:
            if not request.outcome.done():  # else both happened in one turn of the loop: the answer counts
                raise DeadlineExceeded(f"no answer within {within:g} s") from None
        finally:
            self._forget(ticket)
        return request.outcome.result()

    async def _share_out(
        self, parts: Mapping[int, Sequence[int]], compute: Callable[[list[In]], Awaitable[Sequence[Out]]]
    ) -> None:
        """Compute what is still wanted of some parts in one call, and hand the outcomes out. Raises what it raises."""
        places = [(ticket, index) for ticket, part in parts.items() if ticket in self._requests for index in part]
        if not places:
            return
        outcomes = await compute([self._requests[ticket].inputs[index] for ticket, index in places])
        if len(outcomes) != len(places):
            raise RuntimeError(f"{len(places)} inputs gave {len(outcomes)} outcomes")
        for (ticket, index), one in zip(places, outcomes, strict=True):
            if ticket in self._requests:
                self._requests[ticket].deliver(index, one)

    def _fail(self, parts: Iterable[int], error: BaseException) -> None:
        """End the requests that have these parts with an error."""
        for ticket in parts:
            if ticket in self._requests:
                self._requests[ticket].fail(error)

    async def close(self) -> None:
        """End every request that is open with Unavailable, and every batch. Later ones are refused."""
        self._closed = True
        for request in self._requests.values():
            request.fail(Unavailable("the service is shutting down"))
        for ticket in list(self._requests):
            self._queue.withdraw(ticket)
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._set_timer(None)

    def _forget(self, ticket: int) -> None:
        """The client has its outcome or went away: nothing of its request is computed any more."""
        request = self._requests.pop(ticket)
        if not request.outcome.done():
            request.outcome.cancel()
        elif not request.outcome.cancelled():
            request.outcome.exception()  # seen, even if the client left in the same moment
        self._queue.withdraw(ticket)
        for batch, task in self._running.values():
            if ticket in batch.parts and not any(other in self._requests for other in batch.parts):
                task.cancel()
        self._pump()

    def _pump(self) -> None:
        """Send out every batch that is due, and come back when the next one will be."""
        while not self._closed and (batch := self._queue.take(self._now())) is not None:
            task = asyncio.create_task(self._run(batch), name=f"batch-{batch.number}")
            self._running[batch.number] = (batch, task)
            task.add_done_callback(partial(self._over, batch, self._now()))
        self._set_timer(None if self._closed else self._queue.look_again_at())

    def _over(self, batch: Batch, since: float, _: asyncio.Task[None]) -> None:
        """A batch ended. Whoever still waits for a part of it never gets one: the computation was cancelled."""
        for ticket, part in batch.parts.items():
            request = self._requests.get(ticket)
            if request is not None and not request.has(part):
                request.fail(Unavailable("the computation was cancelled"))
        del self._running[batch.number]
        self._queue.done(batch, self._now() - since)
        self._pump()

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._now()), self._pump)

    def _now(self) -> float:
        return (self._clock or asyncio.get_running_loop().time)()
