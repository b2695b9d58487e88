"""The real HTTP service over a real store, on loopback in a thread; and a proxy that breaks connections to it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import uvicorn
from jobs_service import Service

from idlegrid.grid.store import Claim, Store

RESULT = {"embeddings": [[0.6, 0.8]], "dimensions": 2, "usage": {"prompt_tokens": 4, "total_tokens": 4}}
EVENT = b"event: "


@contextmanager
def in_thread(serve: Callable[[asyncio.Event], object]) -> Iterator[None]:
    """Run ``serve(over)`` on a loop of its own until the block ends; the loop runs when this yields."""
    runs = threading.Event()
    stop: list[Callable[[], object]] = []

    async def run() -> None:
        over = asyncio.Event()
        stop.append(partial(asyncio.get_running_loop().call_soon_threadsafe, over.set))
        runs.set()
        await serve(over)  # type: ignore[misc]

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert runs.wait(30)
    try:
        yield
    finally:
        stop[0]()
        thread.join(30)


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """The address of the service."""
    server = uvicorn.Server(uvicorn.Config(service.app(), log_level="warning", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        async def serve(over: asyncio.Event) -> None:
            task = asyncio.create_task(server.serve(sockets=[listening]))
            await over.wait()
            server.should_exit = True
            await task

        with in_thread(serve):
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"


class Proxy:
    """Between clients and the service. Each rule breaks one connection: the next that it fits."""

    def __init__(self, url: str) -> None:
        self._target = int(url.rpartition(":")[2])
        self.break_at_event: list[int] = []
        """The number of the event, counted along a connection, in whose middle it breaks."""
        self.lose_answers = 0
        """Answers that never arrive: the service did what was asked."""
        self.broken = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            onward = asyncio.create_task(_copy(reader, forth))
            onward.add_done_callback(lambda _: forth.close())  # a client that went is not waited for
            await self._answers(back, writer)
            onward.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            forth.close()
            writer.close()

    async def _answers(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = 0
        while data := await back.read(65536):
            if self.lose_answers:
                self.lose_answers -= 1
                return self._break(writer)
            before, seen = seen, seen + data.count(EVENT)
            if self.break_at_event and seen >= self.break_at_event[0]:
                kept = data.split(EVENT, self.break_at_event.pop(0) - before)
                writer.write(EVENT.join(kept[:-1]) + EVENT + kept[-1][:8])
                await writer.drain()
                return self._break(writer)
            writer.write(data)
            await writer.drain()
        return None

    def _break(self, writer: asyncio.StreamWriter) -> None:
        self.broken += 1
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy in front of the service."""
    proxy = Proxy(url)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy.url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        async def serve(over: asyncio.Event) -> None:
            server = await asyncio.start_server(proxy.serve, sock=listening)
            await over.wait()
            server.close()

        with in_thread(serve):
            yield proxy


def claim(store: Store, job_id: str) -> Claim:
    """A worker begins this job."""
    (claimed,) = store.jobs.claim(types=["embedding", "llm"], limit=1, lease=60, holder="tests", only=job_id)
    store.jobs.begin(job_id, claimed.fence, "w-1", "i-1", 60)
    return claimed


def complete(store: Store, claimed: Claim, result: dict[str, object] | None = None) -> None:
    """And ends it."""
    job_id = claimed.job.id
    store.jobs.complete(
        job_id, claimed.fence, worker_id="w-1", incarnation="i-1", result=result or RESULT, usage=None, seconds=0.1
    )
