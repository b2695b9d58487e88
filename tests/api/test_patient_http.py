"""Connections on which nothing is asked end; those on which something is answered don't."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

from idlegrid.api.patient_http import Patience, PatientProtocol
from idlegrid.api.quiet_server import QuietServer

PATIENCE = 0.1
ASKED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Impatient(PatientProtocol):
    patience = PATIENCE


class ImpatientH11(Patience, H11Protocol):
    """The same on uvicorn's other parser, which a donor has who lacks httptools."""

    patience = PATIENCE


@asynccontextmanager
async def served(protocol, answers: asyncio.Event):
    async def app(scope, receive, send):
        await answers.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    server = QuietServer(uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, timeout_keep_alive=60))
    socket = uvicorn.Config(app, port=0, log_config=None).bind_socket()
    serving = asyncio.create_task(server.serve(sockets=[socket]))
    await server.answers.wait()
    reader, writer = await asyncio.open_connection("127.0.0.1", socket.getsockname()[1])
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


PROTOCOLS = pytest.mark.parametrize("protocol", [Impatient, ImpatientH11])


@PROTOCOLS
@pytest.mark.parametrize("said", [b"", ASKED[:-2]], ids=["nothing", "half a head"])
async def test_who_asks_nothing_is_hung_up_on(protocol, said):
    async with served(protocol, asyncio.Event()) as (reader, writer):
        writer.write(said)
        async with asyncio.timeout(30):
            assert await reader.read() == b""


@PROTOCOLS
async def test_who_asked_is_answered_however_long_it_takes_and_may_ask_again(protocol):
    answers = asyncio.Event()
    async with served(protocol, answers) as (reader, writer), asyncio.timeout(30):
        writer.write(ASKED)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 5 * PATIENCE)
        answers.set()
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(ASKED)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert await reader.read() == b"", "and then it says nothing for long"


async def test_uvicorn_alone_would_wait():
    async with served(AutoHTTPProtocol, asyncio.Event()) as (reader, _writer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 5 * PATIENCE)
