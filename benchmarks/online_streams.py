"""The two readers that `online.py` compares, each a process that serves a pipe: over HTTP, and beside the engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Taken:
    """One stream as its reader saw it."""

    began: float
    """When it was asked for: seconds of the machine's monotonic clock, as all times here."""
    times: list[float] = field(default_factory=list)
    """When each piece of text came."""
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    ended: float = 0.0
    """When the whole answer was there, or when the reader left."""


@dataclass(frozen=True)
class Work:
    """What is asked for, the same of both."""

    questions: Sequence[str]
    answer: int
    """Tokens of each answer."""


# -- the client: a process that sends, and notes what comes -----------------------------------------------------------


class Reading(asyncio.Protocol):
    """Sends one request and notes what comes back, unparsed: a load generator must cost as little as it can."""

    def __init__(self, request: bytes, leave_after: int | None) -> None:
        self.request, self.leave_after = request, leave_after
        self.pieces: list[tuple[float, bytes]] = []
        self.began = self.ended = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.began = time.monotonic()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic(), data))
        if self.leave_after is not None and len(self.pieces) >= self.leave_after:
            self.transport.abort()
            self.ended = time.monotonic()

    def connection_lost(self, _: Exception | None) -> None:
        self.ended = self.ended or self.pieces[-1][0]
        self.done.set_result(None)

    def taken(self) -> Taken:
        body = b"".join(data for _, data in self.pieces)
        assert body.startswith(b"HTTP/1.1 200"), body[:500]
        assert self.leave_after is not None or b"data: [DONE]" in body, body[-500:]
        taken = Taken(self.began, ended=self.ended)
        there = list(accumulate(len(data) for _, data in self.pieces))
        for line in re.finditer(rb"^data: (\{.*\})$", body, re.MULTILINE):
            at, _ = self.pieces[bisect_left(there, line.end())]
            _note(taken, at, json.loads(line[1]))
        return taken


def _note(taken: Taken, at: float, chunk: dict[str, Any]) -> None:
    for choice in chunk["choices"]:
        if text := choice["delta"].get("content"):
            taken.times.append(at)
            taken.text += text
    if chunk.get("usage"):
        taken.tokens = chunk["usage"]["completion_tokens"]
        taken.prompt_tokens = chunk["usage"]["prompt_tokens"]


def client(pipe: Any, url: str, model: str) -> None:
    """Serves `(work, leavers)` from the pipe with the streams as they were taken, until None comes."""
    while (asked := pipe.recv()) is not None:
        pipe.send(asyncio.run(_all_streams(url, model, *asked)))


async def _all_streams(url: str, model: str, work: Work, leavers: int) -> list[Taken]:
    loop, address = asyncio.get_running_loop(), urlsplit(url)
    readings = [
        Reading(_http(address.netloc, model, question, work.answer), 12 if index < leavers else None)
        for index, question in enumerate(work.questions)
    ]
    for one in readings:
        await loop.create_connection(lambda one=one: one, address.hostname, address.port)  # type: ignore[misc]
    await asyncio.gather(*(one.done for one in readings))
    return [one.taken() for one in readings]


def _http(host: str, model: str, question: str, answer: int) -> bytes:
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": answer,
            "min_tokens": answer,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


# -- the same engine without a grid -----------------------------------------------------------------------------------


def in_process(pipe: Any, model: str) -> None:
    """Serves `work` from the pipe with the streams as they were taken, until None comes."""
    os.setsid()  # a scheduling group of its own, as the grid has
    asyncio.run(_in_process(pipe, model))


async def _in_process(pipe: Any, model: str) -> None:
    import torch

    from idlegrid.actors.serving.engines import make_engine
    from idlegrid.pipelines.llm.deployment import Deployment

    torch.set_num_threads(1)
    engine = make_engine(Deployment(model=model, device="auto", gpu_memory_gb=0.0).spec())
    await engine.start()
    pipe.send("ready")
    loop = asyncio.get_running_loop()
    turn = 0
    while (work := await loop.run_in_executor(None, pipe.recv)) is not None:
        turn += 1
        pipe.send(
            await asyncio.gather(
                *(_one(engine, f"{turn}-{i}", question, work.answer) for i, question in enumerate(work.questions))
            )
        )
    await engine.close()


async def _one(engine: Any, name: str, question: str, answer: int) -> Taken:
    from idlegrid.actors.llm.request import Request, Sampling, Tokens

    taken = Taken(time.monotonic())
    prompt = engine.encode_chat([{"role": "user", "content": question}])
    sampling = Sampling(temperature=0, top_p=1.0, max_tokens=answer, min_tokens=answer)
    async for event in engine.generate(Request(id=name, prompt=prompt, sampling=sampling)):
        if event.text:
            taken.times.append(time.monotonic())
            taken.text += event.text
        if not isinstance(event, Tokens):
            taken.tokens, taken.prompt_tokens = event.completion_tokens, event.prompt_tokens
    taken.ended = time.monotonic()
    return taken
