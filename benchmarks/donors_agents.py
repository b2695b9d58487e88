"""The agents of `donors.py`: real HTTP over connections that are kept, real registration, signed requests."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from idlegrid.grid.signing import signed_headers

TYPE = "embedding"
RESULT = {"embeddings": [[0.6, 0.8]], "dimensions": 2, "usage": {"prompt_tokens": 2, "total_tokens": 2}}
WAIT = 20
"""Seconds for which one question for work is held."""
IDLE = 4.0
"""Seconds after which an idle connection is not used again: uvicorn keeps it for five."""
REGIONS = ("europe-west", "asia-east", "america-north", "oceania")


class Refused(Exception):
    """The service answered with what is no success."""


class Connection:
    """One connection; one request at a time. Plain HTTP/1.1, since the client must not be what is measured."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self._place = f"{host}:{port}", (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._busy = asyncio.Lock()
        self._used_at = 0.0

    async def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body. Raises OSError, EOFError."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"Content-Length: {len(body)}"]
        if body:
            lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        async with self._busy:
            if time.monotonic() - self._used_at > IDLE:  # the service closes it about now
                self.close()
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._place)
            reader, writer = self._streams
            try:
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = head.partition("content-length:")[2].partition("\r\n")[0].strip()
                told = await reader.readexactly(int(length or 0))
                self._used_at = time.monotonic()
            except (OSError, EOFError, asyncio.CancelledError):
                self.close()
                raise
        return int(head.split(" ", 2)[1]), told

    async def document(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON of a success; None: it has none."""
        sent = b"" if body is None else json.dumps(body).encode()
        status, told = await self.ask(method, path, sent, headers or {})
        if status >= 300:
            raise Refused(f"{method} {path.partition('?')[0]}: {status} {told[:300]!r}")
        return json.loads(told) if told else None

    def close(self) -> None:
        """The next request opens it anew."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Agent:
    """One donor's agent."""

    worker_id: str
    token: str
    secret: bytes
    says: Connection
    asks: Connection
    incarnation: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    async def join(cls, number: int, host: str, port: int, admin: Connection) -> Self:
        """Enrolled by an administrator, registered, and heard for the first time."""
        made = await admin.document("POST", "/api/v1/admin/enrolments", {"valid_seconds": 600})
        facts = {
            "name": f"agent-{number}",
            "region": REGIONS[number % len(REGIONS)],
            "gpu_model": "simulated",
            "gpu_memory_gb": 24.0,
            "gpu_count": 1,
            "supported_types": [TYPE],
        }
        says = Connection(host, port)
        told = await says.document("POST", "/api/v1/workers/register", facts, {"X-Enrolment-Token": made["token"]})
        secret = told["signing_secret"].encode()
        self = cls(told["worker_id"], told["token"], secret, says, Connection(host, port))
        await self.beat()
        return self

    async def beat(self) -> None:
        """One heartbeat."""
        body = {"status": "online", "gpu_memory_used_gb": 1.5, "config_version": 1, "incarnation": self.incarnation}
        await self._signed(self.says, "POST", "heartbeat", body)

    async def work(self, got: Callable[[str], None]) -> None:
        """Ask for jobs, and do them, until cancelled. `got` hears the id of each as soon as it is here."""
        while True:
            job = await self._signed(self.asks, "GET", f"next-job?wait={WAIT}&types={TYPE}")
            if job is None:
                continue
            got(job["job_id"])
            word = {"fence": job["fence"], "incarnation": self.incarnation}
            headers = {"X-Attempt-Token": job["attempt_token"]}
            door = f"jobs/{job['job_id']}"
            await self._signed(self.says, "POST", f"{door}/progress", word | {"begin": True}, headers)
            end = word | {"success": True, "result": RESULT, "processing_time": 0.01}
            await self._signed(self.says, "POST", f"{door}/complete", end, headers)

    def close(self) -> None:
        self.says.close()
        self.asks.close()

    async def _signed(
        self, way: Connection, method: str, door: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        path = f"/api/v1/workers/{self.worker_id}/{door}"
        raw_path, _, query = path.partition("?")
        sent = b"" if body is None else json.dumps(body).encode()
        signature = signed_headers(
            self.secret,
            key_id=self.worker_id,
            method=method,
            host=way.host,
            raw_path=raw_path.encode(),
            raw_query=query.encode(),
            body=sent,
            timestamp=int(time.time()),
            nonce=secrets.token_urlsafe(16),
        )
        status, told = await way.ask(method, path, sent, {"X-Worker-Token": self.token, **signature, **(headers or {})})
        if status >= 300:
            raise Refused(f"{method} {door.partition('?')[0]}: {status} {told[:300]!r}")
        return json.loads(told) if told else None


async def joined(count: int, host: str, port: int) -> list[Agent]:
    """So many agents, a few at a time."""
    numbers = iter(range(count))

    async def some() -> list[Agent]:
        admin = Connection(host, port)
        try:
            return [await Agent.join(number, host, port, admin) for number in numbers]
        finally:
            admin.close()

    return [agent for few in await asyncio.gather(*(some() for _ in range(8))) for agent in few]
