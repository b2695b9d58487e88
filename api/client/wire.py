"""The two ways to the service: blocking, and on an event loop. All that differs between the two clients.

Both have one face of coroutines. Those of the blocking way never wait for a loop: whatever is built on them can be run
to its end by `finish`, without a loop and without a thread.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx

T = TypeVar("T")


class Wire(Protocol):
    """What the calls need of the outside world."""

    def build(self, method: str, path: str, **parts: Any) -> httpx.Request:
        """A request; `parts` as of httpx: `json`, `params`, `headers`, `timeout`."""

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Its answer; with `stream` the body stays where it is. Raises httpx.TransportError."""

    def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body of a streamed answer, as it comes. Raises httpx.TransportError."""

    async def read(self, response: httpx.Response) -> None:
        """Take in the whole body of a streamed answer. Raises httpx.TransportError."""

    async def end(self, response: httpx.Response) -> None:
        """Give up a streamed answer."""

    async def sleep(self, seconds: float) -> None: ...

    async def aside(self, work: Callable[[], T]) -> T:
        """Do what reads a file, without holding up anybody."""

    async def close(self) -> None: ...


class BlockingWire:
    """Over `httpx.Client`; may be used by several threads."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def build(self, method: str, path: str, **parts: Any) -> httpx.Request:
        return self._client.build_request(method, path, **parts)

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        return self._client.send(request, stream=stream)

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        for chunk in response.iter_bytes():
            yield chunk

    async def read(self, response: httpx.Response) -> None:
        response.read()

    async def end(self, response: httpx.Response) -> None:
        response.close()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - there is no loop here

    async def aside(self, work: Callable[[], T]) -> T:
        return work()

    async def close(self) -> None:
        self._client.close()


class LoopWire:
    """Over `httpx.AsyncClient`, on asyncio or trio."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    def build(self, method: str, path: str, **parts: Any) -> httpx.Request:
        return self._client.build_request(method, path, **parts)

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        return await self._client.send(request, stream=stream)

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        async for chunk in response.aiter_bytes():
            yield chunk

    async def read(self, response: httpx.Response) -> None:
        await response.aread()

    async def end(self, response: httpx.Response) -> None:
        await response.aclose()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def aside(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work)

    async def close(self) -> None:
        await self._client.aclose()


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what was built on a `BlockingWire` to its end, here and now."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        coroutine.close()
    raise RuntimeError("a call on a blocking wire waited for an event loop")


def iterate(stream: AsyncGenerator[T, None]) -> Iterator[T]:
    """The same for what yields."""
    try:
        while True:
            try:
                item = finish(stream.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        finish(stream.aclose())
