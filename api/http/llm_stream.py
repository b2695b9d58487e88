"""The choices of one request as one stream of events, and that stream as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from fastapi import Response
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from ...actors.llm.request import Event, Finished, FinishReason
from .batch_driver import DeadlineExceeded
from .errors import ApiError
from .llm_errors import as_api_error, from_finish

DONE = b"data: [DONE]\n\n"
_NATURAL = (FinishReason.STOP, FinishReason.LENGTH)

Told = tuple[int, Event]
"""Number of a choice, and what happened to it."""
Observe = Callable[[int, Event], None]


class Choices:
    """Generates the choices of one request at the same time. Use it as a context manager: leaving aborts them.

    Each choice is read by a task of its own, so that an engine's generator is entered, cancelled and closed in one
    task, whoever consumes the events.
    """

    def __init__(self, streams: Sequence[AsyncIterator[Event]], timeout: float, observe: Observe) -> None:
        """`timeout`: seconds until the choices are given up; `observe` sees each event when it comes."""
        self._streams, self._timeout, self._observe = streams, timeout, observe
        self._queue: asyncio.Queue[Told | BaseException] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._late: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._read(index, one)) for index, one in enumerate(self._streams)]
        late = DeadlineExceeded(f"no whole answer within {self._timeout:g} s (setting api.generation_timeout)")
        self._late = asyncio.get_running_loop().call_later(self._timeout, self._queue.put_nowait, late)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._late is not None:
            self._late.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def batches(self) -> AsyncGenerator[list[Told], None]:
        """What happened, as soon as something did, until every choice has finished.

        Raises ApiError when a choice fails; then the others are of no use either.
        """
        unfinished = len(self._streams)
        while unfinished:
            batch: list[Told] = []
            failure: ApiError | None = None
            for item in [await self._queue.get(), *self._waiting()]:
                failure = failed(item)
                if failure is not None:
                    break
                assert isinstance(item, tuple)
                batch.append(item)
            if batch:
                yield batch
            if failure is not None:
                raise failure
            unfinished -= sum(isinstance(event, Finished) for _, event in batch)

    def _waiting(self) -> list[Told | BaseException]:
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]

    async def _read(self, index: int, stream: AsyncIterator[Event]) -> None:
        event: Event | None = None
        try:
            async for event in stream:
                self._observe(index, event)
                self._queue.put_nowait((index, event))
            if not isinstance(event, Finished):
                raise RuntimeError("the engine ended a stream without saying how")
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the request's outcome
            self._queue.put_nowait(error)
        finally:
            if (close := getattr(stream, "aclose", None)) is not None:
                await close()


def failed(item: Told | BaseException) -> ApiError | None:
    """The error that something in the queue is; None: it is none."""
    if isinstance(item, BaseException):
        return as_api_error(item)
    event = item[1]
    return from_finish(event) if isinstance(event, Finished) and event.reason not in _NATURAL else None


class EventStream(Response):
    """Server-sent events, written as they come. A client that goes away closes `body` at once."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, body: AsyncGenerator[bytes, None]) -> None:
        """`first`: what `body` gave already; `body`: whole events, is closed whatever happens."""
        super().__init__(headers={"x-accel-buffering": "no"})  # nginx must not collect what should arrive at once
        del self.headers["content-length"]
        self._first, self._body = first, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((writing, gone), return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            writing.cancel()
            gone.cancel()
            await asyncio.gather(writing, gone, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        async with aclosing(self._body):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for chunk in self._body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def data_line(document: Any) -> bytes:
    """One event."""
    return b"data: " + to_json(document) + b"\n\n"


async def told(
    choices: Choices,
    begin: Callable[[], bytes],
    render: Callable[[list[Told]], Awaitable[bytes]],
    end: Callable[[], bytes],
) -> AsyncGenerator[bytes, None]:
    """The body of a stream: `begin` once the first event is there, then all events, `end`, and `[DONE]`.

    What fails before `begin` raises ApiError, so that it can still be answered with a status; what fails later is told
    by an error event, as vLLM does, and `[DONE]` follows: no client is left waiting, and none takes it for an answer.
    """
    async with choices, aclosing(choices.batches()) as batches:
        first = await anext(batches)
        try:
            yield begin() + await render(first)
            async for batch in batches:
                if lines := await render(batch):
                    yield lines
            yield end() + DONE
        except Exception as error:  # noqa: BLE001 - the status is sent already: it has to be told in the stream
            yield data_line(as_api_error(error).body) + DONE
