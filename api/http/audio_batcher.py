"""Recordings that arrive together are heard together: requests in, one call to the transcriber, an outcome for each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from ...actors.whisper.speech import NotHeard, Transcript, Wish
from .audio_face import Transcriber
from .batcher import DeadlineExceeded
from .batching import Batch, BatchLimits, BatchQueue
from .embedder import Unavailable

T = TypeVar("T")

SHORT_BYTES = 1_000_000
"""A larger file (30 s of wav, a minute of mp3) is heard alone: nobody waits for another's long recording."""


@dataclass(slots=True)
class _Waiting:
    """A request whose client waits."""

    file: bytes
    outcome: asyncio.Future[Transcript | NotHeard]


@dataclass(frozen=True, slots=True)
class _Group:
    """What can be heard in one call."""

    model_id: str
    wish: Wish
    alone: int | None
    """A number that nobody else has, for a large file."""


class AudioBatcher:
    """Short recordings for the same model with the same wish share a call. Lives on one event loop."""

    def __init__(self, transcriber: Transcriber, limits: BatchLimits) -> None:
        self._transcriber = transcriber
        self._queue = BatchQueue(limits)
        self._requests: dict[int, _Waiting] = {}
        self._running: dict[int, tuple[Batch, asyncio.Task[None]]] = {}
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def transcribe(self, model_id: str, file: bytes, wish: Wish, *, within: float) -> Transcript | NotHeard:
        """What is said in one recording.

        Raises QueueFull at once when there is no room, DeadlineExceeded after `within` seconds, what the transcriber
        raises, and Unavailable after `close`. Cancelling gives the recording up.
        """
        if self._closed:
            raise Unavailable("the service is shutting down")
        group = _Group(model_id, wish, next(self._numbers) if len(file) > SHORT_BYTES else None)
        ticket = self._queue.offer(group, [len(file)], self._now())
        request = self._requests[ticket] = _Waiting(file, asyncio.get_running_loop().create_future())
        self._pump()
        try:
            async with asyncio.timeout(within):
                return await request.outcome
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {within:g} s") from None
        finally:
            self._forget(ticket)

    async def close(self) -> None:
        """End every request that is open with Unavailable, and every call. Later ones are refused."""
        self._closed = True
        for request in self._requests.values():
            _end(request, Unavailable("the service is shutting down"))
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._look_again(None)

    def _forget(self, ticket: int) -> None:
        request = self._requests.pop(ticket)
        if request.outcome.done() and not request.outcome.cancelled():
            request.outcome.exception()  # seen, even if the client left in the same moment
        self._queue.withdraw(ticket)
        for batch, task in self._running.values():
            if ticket in batch.parts and not any(other in self._requests for other in batch.parts):
                task.cancel()
        self._pump()

    def _pump(self) -> None:
        """Send out every call that is due, and come back when the next one will be."""
        while not self._closed and (batch := self._queue.take(self._now())) is not None:
            task = asyncio.create_task(self._run(batch), name=f"speech-{batch.number}")
            self._running[batch.number] = (batch, task)
            task.add_done_callback(_over(self._done, batch, self._now()))
        self._look_again(None if self._closed else self._queue.look_again_at())

    def _done(self, batch: Batch, since: float) -> None:
        for ticket in batch.parts:
            if ticket in self._requests:
                _end(self._requests[ticket], Unavailable("the computation was cancelled"))
        del self._running[batch.number]
        self._queue.done(batch, self._now() - since)
        self._pump()

    async def _run(self, batch: Batch) -> None:
        """One call; what it raises is what each of its requests gets: they asked for the same."""
        waiting = [self._requests[ticket] for ticket in batch.parts if ticket in self._requests]
        try:
            heard = await self._hear(batch.group, [one.file for one in waiting])
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the outcome of the requests
            for one in waiting:
                _end(one, error)
            return
        for one, found in zip(waiting, heard, strict=True):
            if not one.outcome.done():
                one.outcome.set_result(found)

    async def _hear(self, group: Hashable, files: list[bytes]) -> list[Transcript | NotHeard]:
        assert isinstance(group, _Group)
        if not files:
            return []
        found = list(await self._transcriber.transcribe(group.model_id, files, group.wish))
        if len(found) != len(files):
            raise RuntimeError(f"{len(files)} recordings gave {len(found)} transcripts")
        return found

    def _look_again(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._now()), self._pump)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _over(done: Callable[[Batch, float], None], batch: Batch, since: float) -> Callable[[asyncio.Task[None]], None]:
    return lambda _: done(batch, since)


def _end(request: _Waiting, error: BaseException) -> None:
    if not request.outcome.done():
        request.outcome.set_exception(error)
