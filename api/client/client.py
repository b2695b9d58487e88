"""`GridClient` and `AsyncGridClient`: a grid from Python, over HTTP."""

from __future__ import annotations

import os
import ssl
from types import TracebackType
from typing import Any, Self

import httpx

from .asking import Asking
from .calls import Calls
from .direct import Mode
from .face import call, stream
from .wire import BlockingWire, LoopWire, finish

KEY_VARIABLE = "IDLEGRID_API_KEY"
CONNECTIONS = httpx.Limits(max_connections=100, max_keepalive_connections=20)


class _Client:
    """What both can do."""

    chat = call(Calls.chat)
    complete = call(Calls.complete)
    embed = call(Calls.embed)
    transcribe = call(Calls.transcribe)
    generate_image = call(Calls.generate_image)
    analyze_image = call(Calls.analyze_image)
    submit = call(Calls.submit)
    job = call(Calls.job)
    wait = call(Calls.wait)
    cancel = call(Calls.cancel)
    stream = stream(Calls.stream)
    jobs = call(Calls.jobs)
    why = call(Calls.why)
    queue = call(Calls.queue)
    deploy = call(Calls.deploy)
    deployment = call(Calls.deployment)
    deployments = call(Calls.deployments)
    change_deployment = call(Calls.change_deployment)
    undeploy = call(Calls.undeploy)


class GridClient(_Client):
    """Jobs on a grid::

        with GridClient("http://127.0.0.1:8000") as grid:
            print(grid.chat("What is a lease?"))
            job = grid.submit("embedding", {"texts": ["a lease", "a fence"]})
            for event in grid.stream(job):
                print(event.kind, event.data)
            print(grid.job(job).result)

    Several threads may use one. `api_key`: None takes the variable IDLEGRID_API_KEY. `timeout`: longest wait for one
    answer, in s. `retry_for`: how long a call is tried again while the service is away or busy, in s. `verify`: how its
    certificate is checked, as of httpx. A `transport` of httpx can take the network's place.

    `direct`: whether calls that wait for a result may go to the nearest worker itself. It then sees your address, and
    there is no durable job. ``"auto"``: the queue takes over where that fails; True: there is no other way.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retry_for: float = 60.0,
        verify: bool | ssl.SSLContext = True,
        transport: httpx.BaseTransport | None = None,
        direct: Mode = False,
    ) -> None:
        self._http = httpx.Client(base_url=url, verify=verify, transport=transport, limits=CONNECTIONS)
        self._wire = BlockingWire(self._http)
        self._calls = Calls(Asking(self._wire, url, timeout, retry_for, _headers(api_key)), direct)

    def close(self) -> None:
        """Close the connections."""
        finish(self._wire.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncGridClient(_Client):
    """The same on an event loop: every call is awaited, `stream` is an ``async for``."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retry_for: float = 60.0,
        verify: bool | ssl.SSLContext = True,
        transport: httpx.AsyncBaseTransport | None = None,
        direct: Mode = False,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, verify=verify, transport=transport, limits=CONNECTIONS)
        self._wire = LoopWire(self._http)
        self._calls = Calls(Asking(self._wire, url, timeout, retry_for, _headers(api_key)), direct)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _headers(api_key: str | None) -> dict[str, Any]:
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    return {"X-API-Key": key} if key else {}
