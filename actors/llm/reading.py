"""Reading the events of an event loop from a plain thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from queue import SimpleQueue

from .completion import Completion, whole
from .request import Event, Finished


def texts(events: AsyncIterator[Event], loop: asyncio.AbstractEventLoop) -> Generator[str, None, Completion]:
    """The answer in pieces, as they come, with the `Completion` as the return value.

    `events` are iterated on `loop`, another thread's. Closing the generator ends them. Raises what they raise, and
    GenerationFailed for an answer that does not come to its natural end.
    """
    told: SimpleQueue[Event | BaseException] = SimpleQueue()

    async def tell() -> None:
        try:
            async for event in events:
                told.put(event)
        except Exception as error:  # noqa: BLE001 - raised by who reads
            told.put(error)
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                await close()

    telling = asyncio.run_coroutine_threadsafe(tell(), loop)
    parts: list[str] = []
    try:
        while True:
            event = told.get()
            if isinstance(event, BaseException):
                raise event
            parts.append(event.text)
            if event.text:
                yield event.text
            if isinstance(event, Finished):
                return whole("".join(parts), event)
    finally:
        telling.cancel()
