import asyncio
import ssl

import pytest
from small_web import Web, answers, certificate


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    path = certificate(tmp_path_factory.mktemp("tls"), ["media.example", "other.example"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=path)


@pytest.fixture
async def web(tls):
    """A server for each port of the web; see `answers` for what it has."""
    seen = []

    async def serve(reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            seen.append(head)
            await answers(head.split(" ")[1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    servers = [await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) for context in (None, tls[0])]
    found = Web({port: one.sockets[0].getsockname()[1] for port, one in zip((80, 443), servers, strict=True)})
    found.seen = seen
    found.names = {"media.example": ["8.8.8.8"], "other.example": ["1.1.1.1"]}
    yield found
    for one in servers:
        one.close()
