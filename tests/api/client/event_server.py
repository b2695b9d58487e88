"""A real HTTP server of server-sent events whose first connections break where they are told to."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

TEXTS = [f"token {number} \u2028é" for number in range(40)]


class EventServer:
    """Serves the events of one job: 1 is `running`, then the tokens, then `completed`."""

    def __init__(self, breaks: Sequence[int], torn: bool, deaf: bool) -> None:
        self.breaks = list(breaks)
        """Sequence number at which each connection breaks, one after the other; the last ones are whole."""
        self.torn = torn
        """Break in the middle of that event, else right behind it."""
        self.deaf = deaf
        """Begin anew whatever `Last-Event-ID` says."""
        self.resumed_after: list[int] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        found = re.search(r"last-event-id: (\d+)", head, re.IGNORECASE)
        after = int(found[1]) if found else 0
        self.resumed_after.append(after)
        breaks_at = self.breaks.pop(0) if self.breaks else None
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for seq, event in enumerate(self.events(), 1):
            if seq <= after and not self.deaf:
                continue
            text = event.replace("SEQ", str(seq)).encode()
            if seq == breaks_at:
                self._chunk(writer, text[: len(text) // 2] if self.torn else text)
                await writer.drain()
                writer.transport.abort()  # RST: the client meets an error, no end
                return
            self._chunk(writer, text)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    def _chunk(self, writer: asyncio.StreamWriter, text: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(text), text))

    def events(self) -> Iterator[str]:
        yield _event("status", {"status": "running"})
        yield from (_event("tokens", {"text": text}) for text in TEXTS)
        yield _event("status", {"status": "completed"})


def _event(kind: str, data: object) -> str:
    return f": ping\n\nid: SEQ\nevent: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


@contextmanager
def event_server(breaks: Sequence[int], *, torn: bool = False, deaf: bool = False) -> Iterator[EventServer]:
    """One that serves in a thread of its own."""
    server = EventServer(breaks, torn, deaf)
    listens = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        over = asyncio.Event()
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        stop.append(partial(asyncio.get_running_loop().call_soon_threadsafe, over.set))
        listens.set()
        await over.wait()
        listener.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert listens.wait(30)
    try:
        yield server
    finally:
        stop[0]()
        thread.join()
