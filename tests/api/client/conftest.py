"""Both clients behind one face, so that each test runs on both."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests
sys.path.insert(0, str(Path(__file__).parents[1] / "http"))

from idlegrid.api import AsyncGridClient, GridClient

Handler = Callable[[httpx.Request], httpx.Response]


class Sync:
    """`GridClient`, each call in a thread of its own."""

    def __init__(self, client: GridClient) -> None:
        self._client = client

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self._client, name), *args, **options)

    async def take(self, count: int | None, *args: Any, **options: Any) -> list[Any]:
        """The first `count` events of a stream; None: all."""

        def read() -> list[Any]:
            taken: list[Any] = []
            for event in self._client.stream(*args, **options):
                taken.append(event)
                if len(taken) == count:
                    break
            return taken

        return await asyncio.to_thread(read)

    async def close(self) -> None:
        self._client.close()


class Async:
    """`AsyncGridClient`."""

    def __init__(self, client: AsyncGridClient) -> None:
        self._client = client

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        return await getattr(self._client, name)(*args, **options)

    async def take(self, count: int | None, *args: Any, **options: Any) -> list[Any]:
        taken: list[Any] = []
        async for event in self._client.stream(*args, **options):
            taken.append(event)
            if len(taken) == count:
                break
        return taken

    async def close(self) -> None:
        await self._client.aclose()


Connect = Callable[..., Sync | Async]


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """``connect(url, …)`` as the clients take it; ``connect(handler)`` answers without a network."""
    made: list[Sync | Async] = []

    def connect(where: str | Handler, *args: Any, **options: Any) -> Sync | Async:
        url = where if isinstance(where, str) else "http://grid.test"
        if not isinstance(where, str):
            options["transport"] = httpx.MockTransport(where)
        one = request.param == "sync"
        made.append(Sync(GridClient(url, *args, **options)) if one else Async(AsyncGridClient(url, *args, **options)))
        return made[-1]

    yield connect
    for client in made:
        await client.close()
