"""Streams on a real server: a client that goes away, and many that don't."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from script_engine import TEXT, ScriptEngine
from sse import events, joined

from idlegrid.api.http import create_app
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.config import Settings

BODY = {"model": "script", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def address(engine: ScriptEngine, embedder) -> AsyncIterator[tuple[str, int]]:
    """The service on a free port of this loop."""
    app = create_app(embedder, Settings(), EngineBackend(engine, aliases=["script"]))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    socket = server.config.bind_socket()
    socket.listen()  # from here on the kernel takes connections, whenever the server is up
    serving = asyncio.create_task(server.serve(sockets=[socket]))
    yield socket.getsockname()
    engine.gate.set()
    server.should_exit = True
    async with asyncio.timeout(10):
        await serving
    socket.close()


async def send(address: tuple[str, int], body: dict) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = address
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(head.encode() + content)
    return reader, writer


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_dropped_connection_ends_what_has_not_said_a_word(engine, address, streamed, n):
    engine.gate.clear()
    _, writer = await send(address, BODY | {"stream": streamed, "n": n})
    await engine.until(lambda: engine.running == n)
    writer.transport.abort()
    async with asyncio.timeout(5):
        while engine.running:  # noqa: ASYNC110 - the engine's gate stays closed: nothing else would wake us
            await asyncio.sleep(0.005)
    assert len(engine.aborted) == n


async def test_a_dropped_connection_ends_a_stream_in_the_middle(engine, address):
    engine.pause_after = 2
    reader, writer = await send(address, BODY | {"stream": True, "n": 2})
    await reader.readuntil(b'"content":"r"')
    assert engine.running == 2
    writer.transport.abort()
    async with asyncio.timeout(5):
        while engine.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert len(engine.aborted) == 2


async def test_a_client_that_reads_to_the_end_aborts_nothing(engine, address):
    url = "http://{}:{}/v1/chat/completions".format(*address)
    async with httpx.AsyncClient() as client:
        answers = await asyncio.gather(*(client.post(url, json=BODY | {"stream": True}) for _ in range(16)))
    assert [joined(events(answer.content)) for answer in answers] == [TEXT] * 16
    assert (engine.running, engine.aborted) == (0, [])


async def test_tokens_are_sent_when_they_come(engine, address):
    engine.pause_after = 2
    reader, writer = await send(address, BODY | {"stream": True})
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in head
    assert b"x-request-id" in head
    await reader.readuntil(b'"content":"r"')  # and the engine is held: nothing else comes
    assert engine.running == 1
    engine.pause_after = None
    engine.gate.set()
    await reader.readuntil(b"data: [DONE]\n\n")
    writer.close()
    await writer.wait_closed()
