"""Direct mode: a call goes to the nearest worker's own endpoint, where the caller allows it, and past the queue.

What happens there is no durable job: nobody keeps it, and nobody does it again but the caller. Until the first byte of
an answer has come, whatever goes wrong may be tried again, through the queue; from then on nothing is done twice.
"""

from __future__ import annotations

import hmac
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from . import results
from .asking import LEAST, Asking, words
from .errors import GridError, Refused, Unavailable, WaitTimedOut
from .options import JobOptions

Mode = bool | Literal["auto"]
"""False: never. "auto": first, then through the queue. True: only so."""
NEAREST = "/api/v1/jobs/direct/nearest"
HEADER = "X-Ticket"
CONNECT = 3.0
"""Seconds to reach a worker."""
USUAL = 300.0
"""Seconds that a job has, unless its options say otherwise."""
MARGIN = 5.0
"""Seconds beyond them before the worker counts as gone."""
AVOIDED = 30.0
"""Seconds for which a worker that failed is not asked again; and the service, when it knows none."""
PROVEN = 600.0
"""Seconds for which a worker that has proved who it is is believed."""
MOST = 128_000_000
"""Bytes of an answer."""
SMALL = 16_384
"""Bytes of an answer that says only who or why."""
_QUEUE_ONLY = frozenset({"priority", "idempotency_key"})
_SHAPES: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "llm": results.Completion.of,
    "embedding": results.Embeddings.of,
    "whisper": results.Transcription.of,
    "image_gen": results.Image.of,
    "vision": results.ImageAnswer.of,
}


@dataclass(frozen=True, slots=True)
class Nearest:
    """What the service says of the worker to ask."""

    worker_id: str
    direct_url: str
    region: str
    client_region: str | None
    ticket: str
    challenge: str
    proof: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Nearest:
        """From the answer of `NEAREST`. Raises KeyError."""
        return cls(**{name: document[name] for name in cls.__slots__})


class _Unusable(Exception):
    """Direct mode can't be used for this call; nothing was answered yet. `worker`: whose fault it is."""

    def __init__(self, why: str, worker: str | None = None) -> None:
        super().__init__(why)
        self.worker = worker


class Direct:
    """The way past the queue. As thread-safe as the wire that it uses."""

    def __init__(self, asking: Asking, *, only: bool) -> None:
        """`only`: there is no other way; then calls raise Unavailable."""
        self._asking, self._only = asking, only
        self._avoided: dict[str, float] = {}
        self._nobody: dict[tuple[str, str | None], float] = {}
        self._proven: dict[tuple[str, str], float] = {}

    async def result(
        self,
        type: str,  # noqa: A002 - the field's name
        params: Mapping[str, Any],
        wait: float | None,
        options: JobOptions,
    ) -> Mapping[str, Any] | None:
        """The result, or None: ask the queue. Raises WaitTimedOut, Unavailable, and GridError once an answer began."""
        ends = math.inf if wait is None else time.monotonic() + wait
        try:
            if unfit := sorted(_QUEUE_ONLY & options.keys()):
                raise _Unusable(f"{', '.join(unfit)}: only the queue has that")
            near = await self._nearest(type, params.get("model"), options)
            await self._prove(near, ends)
            return await self._ask(near, type, params, options.get("timeout_seconds", USUAL), ends)
        except _Unusable as unusable:
            if unusable.worker is not None:
                self._avoided[unusable.worker] = time.monotonic() + AVOIDED
            if ends <= time.monotonic():
                raise WaitTimedOut("", wait or 0.0) from None
            if self._only:
                raise Unavailable(f"direct mode could not be used: {unusable}") from None
            return None

    async def _nearest(self, type: str, model: str | None, options: JobOptions) -> Nearest:  # noqa: A002
        now = time.monotonic()
        if now < self._nobody.get((type, model), 0.0):
            raise _Unusable("the grid knew no worker for it a moment ago")
        self._avoided = {worker: until for worker, until in self._avoided.items() if until > now}
        wanted = {"job_type": type, "model": model, "region": options.get("region"), "exclude": list(self._avoided)}
        query = {name: value for name, value in wanted.items() if value}
        try:
            document = await self._asking.once("GET", NEAREST, params=query)
            near = Nearest.of(document)
        except (GridError, KeyError, TypeError) as error:
            if isinstance(error, Refused):
                self._nobody[type, model] = now + AVOIDED
            raise _Unusable(f"the service names none: {error}") from None
        if options.get("allow_cross_region") is False and near.region != (options.get("region") or near.client_region):
            raise _Unusable(f"the nearest is in {near.region}")
        return near

    async def _prove(self, near: Nearest, ends: float) -> None:
        """See that whoever answers at the address is that worker, before it gets to see anything."""
        place, now = (near.worker_id, near.direct_url), time.monotonic()
        if now < self._proven.get(place, 0.0):
            return
        where = f"{near.direct_url}/v1/direct/proof"
        until = min(ends, now + MARGIN)
        response = await self._send(near, "GET", where, until - now, params={"challenge": near.challenge})
        try:
            said = json.loads(await self._read(response, SMALL, until))
            shown = str(said["proof"])
        except (httpx.TransportError, GridError, ValueError, KeyError, TypeError) as error:
            raise _Unusable(f"{near.direct_url} could not prove who it is: {error}", near.worker_id) from None
        if not hmac.compare_digest(shown.encode("utf-8", "replace"), near.proof.encode()):
            raise _Unusable(f"at {near.direct_url} somebody else answers", near.worker_id)
        self._proven[place] = now + PROVEN

    async def _ask(
        self,
        near: Nearest,
        type: str,  # noqa: A002 - the field's name
        params: Mapping[str, Any],
        seconds: float,
        ends: float,
    ) -> Mapping[str, Any]:
        until = min(ends, time.monotonic() + seconds + MARGIN)
        response = await self._send(
            near,
            "POST",
            f"{near.direct_url}/v1/direct/{type}",
            until - time.monotonic(),
            json={name: value for name, value in params.items() if value is not None},
            params={"timeout_seconds": seconds},
            headers={HEADER: near.ticket},
        )
        try:
            body = await self._read(response, MOST, until)
        except (httpx.TransportError, GridError) as error:
            told = words(error) if isinstance(error, httpx.TransportError) else str(error)
            raise GridError(f"the answer of worker {near.worker_id} broke off: {told}") from error
        return _result(near, type, body)

    async def _send(self, near: Nearest, method: str, url: str, silence: float, **parts: Any) -> httpx.Response:
        """The head of a good answer; anything else raises _Unusable. The API key is not sent: it is the service's."""
        wire = self._asking.wire
        timeout = httpx.Timeout(max(LEAST, silence), connect=CONNECT)
        headers = {"Accept-Encoding": "identity", **parts.pop("headers", {})}
        try:
            request = wire.build(method, url, timeout=timeout, headers=headers, **parts)
            response = await wire.send(request, stream=True)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            told = words(error) if isinstance(error, httpx.TransportError) else str(error)
            raise _Unusable(f"{near.direct_url}: {told}", near.worker_id) from None
        if response.is_success:
            return response
        try:
            said = json.loads(await self._read(response, SMALL, time.monotonic() + MARGIN))
            why = f"{said['detail']} ({said['code']})"
        except (httpx.TransportError, GridError, ValueError, KeyError, TypeError):
            why = "it does not say why"
        raise _Unusable(f"{near.direct_url}: {response.status_code}, {why}", near.worker_id)

    async def _read(self, response: httpx.Response, most: int, until: float) -> bytes:
        """The body, as long as it is not too large and comes in time. Raises httpx.TransportError, GridError."""
        wire, body = self._asking.wire, bytearray()
        try:
            async with aclosing(wire.chunks(response)) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > most:
                        raise GridError(f"it is larger than {most:,} bytes")
                    if time.monotonic() > until:
                        raise GridError("it came too slowly")
        finally:
            await wire.end(response)
        return bytes(body)


def _result(near: Nearest, type: str, body: bytes) -> Mapping[str, Any]:  # noqa: A002
    """A donor's word is no more than that: it must have the shape of a result, and hold no number that is none."""
    try:
        found = json.loads(body, parse_constant=_no_number)
        _SHAPES.get(type, dict)(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = f"worker {near.worker_id} answered with what is no result of {type}"
        raise GridError(f"{told}: {error.__class__.__name__}") from error
    result: Mapping[str, Any] = found
    return result


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")
