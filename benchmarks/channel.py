"""What the way of a token costs: from an engine in one process, over its channel, to a reader in another, on loopback.

One JSON object on the last line: `us_per_token`, the median and the 99th percentile in µs from the engine's `put` to
the reader, by number of streams that each get a token every 10 ms; `tokens_per_second`, as many as pass unpaced with
50 streams; `router_us_per_token`, the median through `Router` and `Journal` with one stream.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from idlegrid.actors.llm.engine_face import Engine, EngineFacts, EngineLoad, EventStream
from idlegrid.actors.llm.request import Event, Finished, FinishReason, Request, Sampling, Tokens
from idlegrid.actors.serving.channel import Channel
from idlegrid.actors.serving.host import Host
from idlegrid.actors.serving.status import HostState
from idlegrid.pipelines.llm.notice import Notice
from idlegrid.pipelines.llm.router import Router

STREAMS = (1, 8, 50)
SECONDS = 2.0
PACE = 0.01


class ClockEngine(Engine):
    """Each token's text is the time at which it was made."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(model="clock", revision="", context=10**9, vocab_size=2, dtype="float32", backend="clock")

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to give back."""

    async def submit(self, request: Request) -> EventStream:
        stream = EventStream(request.id, self.abort)
        self._tasks[request.id] = asyncio.create_task(self._run(request, stream))
        return stream

    def abort(self, request_id: str) -> None:
        self._tasks.pop(request_id).cancel()

    def load(self) -> EngineLoad:
        return EngineLoad(len(self._tasks), 0, 0.0, 1000)

    def encode(self, text: str) -> tuple[int, ...]:
        return (1,)

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        return (1,)

    async def _run(self, request: Request, stream: EventStream) -> None:
        pace = request.sampling.temperature
        for _ in range(request.sampling.max_tokens):
            await asyncio.sleep(pace)
            stream.put(Tokens(ids=(1,), text=repr(time.monotonic())))
        del self._tasks[request.id]
        stream.put(Finished(reason=FinishReason.LENGTH))


def serve(address: Any) -> None:
    """The other process."""

    async def live() -> None:
        host = Host(ClockEngine)
        address.send(await host.start())
        await asyncio.get_running_loop().run_in_executor(None, address.recv)
        await host.close()

    asyncio.run(live())


def ask(name: str, tokens: int, pace: float) -> Request:
    """A stream of so many tokens, one every `pace` seconds."""
    return Request(id=name, prompt=(1,) * 200, sampling=Sampling(max_tokens=tokens, temperature=pace))


async def latencies(events: AsyncIterator[Event]) -> list[float]:
    """µs of each token."""
    return [
        (time.monotonic() - float(event.text)) * 1e6
        async for event in events
        if isinstance(event, Tokens) and len(event.ids) == 1
    ]


async def direct(channel: Channel, request: Request) -> AsyncIterator[Event]:
    """Events without their places."""
    async with aclosing(channel.stream(request)) as events:
        async for _, event in events:
            yield event


class OneReplica:
    """What a router sees of a fleet with one replica."""

    closed, epoch = False, 1

    def __init__(self, channel: Channel) -> None:
        self.serving, self.changed = channel, Notice()

    def replicas(self) -> list[Any]:
        return [self]

    def why(self) -> str:
        return ""


async def unpaced(channel: Channel, streams: int, tokens: int) -> float:
    """Tokens a second through one channel. Those that are joined on the way count, too."""
    since = time.perf_counter()

    async def count(name: str) -> int:
        return sum(
            [len(event.ids) async for event in direct(channel, ask(name, tokens, 0.0)) if isinstance(event, Tokens)]
        )

    total = sum(await asyncio.gather(*(count(f"u{n}") for n in range(streams))))
    return total / (time.perf_counter() - since)


async def measure(address: Any) -> dict[str, Any]:
    channel = await Channel.open(address)
    while channel.status.state is not HostState.READY:  # noqa: ASYNC110 - once, before anything is measured
        await asyncio.sleep(0.01)
    tokens = int(SECONDS / PACE)
    table = {}
    for streams in STREAMS:
        each = await asyncio.gather(
            *(latencies(direct(channel, ask(f"{streams}-{n}", tokens, PACE))) for n in range(streams))
        )
        ordered = sorted(one for taken in each for one in taken)
        table[streams] = (round(statistics.median(ordered)), round(ordered[int(len(ordered) * 0.99)]))
        print(f"{streams:3} streams: median {table[streams][0]} µs, p99 {table[streams][1]} µs")
    router = Router(OneReplica(channel))  # type: ignore[arg-type]
    routed = statistics.median(await latencies(router.generate(ask("r", tokens, PACE))))
    speed = await unpaced(channel, 50, 400)
    print(f"through the router: median {routed:.0f} µs; unpaced: {speed:,.0f} tokens/s")
    await channel.close()
    return {"us_per_token": table, "router_us_per_token": round(routed), "tokens_per_second": round(speed)}


def main() -> int:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,))
    process.start()
    try:
        print(json.dumps(asyncio.run(measure(here.recv()))))
    finally:
        here.send("end")
        process.join(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
