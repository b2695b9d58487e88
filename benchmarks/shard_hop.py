"""What one hop between two processes costs on loopback; a part of `shard_chain.py`, or alone.

One JSON object on the last line: `hop_overhead_us`, by payload (a decode step of one, or of 16 tokens of a model of
4,096 in float32): the median of one hop in µs (half of a round trip) of bytes over links, of a tensor over links, raw
and as int8, of bytes over a raw asyncio stream and over `distributed.comm`, and of an array as a call of a Dask actor;
`link_vs_raw` and `actor_vs_link`, of the bytes of one token.
All take turns in short rounds, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import torch
from distributed import Client, LocalCluster
from distributed.comm import connect as connect_comm
from distributed.comm import listen as listen_comm

from idlegrid.actors.shards.codecs import Packed, pack, unpack
from idlegrid.actors.shards.frame import Buffer, Codec
from idlegrid.actors.shards.inlet import Inlet
from idlegrid.actors.shards.leg import Door, Leg
from idlegrid.actors.shards.link import Link

ROWS, HIDDEN = (1, 16), 4096
ROUNDS, TURNS = 30, 20
THERE, BACK = Leg(chain=bytes(16), epoch=1), Leg(chain=bytes([1] * 16), epoch=1)
WITHIN = 30.0
BYTES = b"bytes"
"""Asks the other process to send back what came, without making a tensor of it."""
LENGTH = struct.Struct(">Q")
Hop = Callable[[torch.Tensor], Awaitable[Any]]


def sending(link: Link, step: int, packed: Packed, note: bytes = b"") -> Awaitable[None]:
    """The link's own coroutine."""
    return link.send(
        step,
        note=note,
        dtype=packed.dtype,
        codec=packed.codec,
        shape=packed.shape,
        body=packed.body,
        within=WITHIN,
    )


class Pair:
    """Two links, there and back."""

    def __init__(self, link: Link, inlet: Inlet) -> None:
        self.link, self.inlet, self.step = link, inlet, 0

    async def turn(self, tensor: torch.Tensor, codec: Codec = Codec.RAW) -> torch.Tensor:
        await sending(self.link, self.step, pack(tensor, codec))
        self.step += 1
        return unpack(await self.inlet.receive())

    async def turn_bytes(self, tensor: torch.Tensor) -> Buffer:
        await sending(self.link, self.step, pack(tensor), BYTES)
        self.step += 1
        return (await self.inlet.receive()).body


# ---- the other process


async def echo_links(inlet: Inlet, back: Door) -> None:
    link = await Link.open(back, BACK)
    while True:
        frame = await inlet.receive()
        as_they_are = Packed(frame.dtype, frame.codec, frame.shape, frame.body)
        await sending(link, frame.step, as_they_are if frame.note == BYTES else pack(unpack(frame), frame.codec))


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            writer.write(LENGTH.pack(length) + await reader.readexactly(length))
        except (ConnectionError, asyncio.IncompleteReadError):
            return


async def echo_comm(comm: Any) -> None:
    try:
        while True:
            await comm.write(await comm.read())
    except OSError:
        return


def serve(pipe: Any) -> None:
    """Everything that echoes."""
    torch.set_num_threads(1)

    async def live() -> None:
        loop = asyncio.get_running_loop()
        inlet = await Inlet.open()
        inlet.admit(THERE.chain, epoch=1)
        stream = await asyncio.start_server(echo_stream, "127.0.0.1", 0, limit=2**20)
        async with await listen_comm("tcp://127.0.0.1:0", echo_comm) as comm:
            pipe.send((inlet.door, stream.sockets[0].getsockname()[1], comm.contact_address))
            echo = asyncio.create_task(echo_links(inlet, await loop.run_in_executor(None, pipe.recv)))
            await loop.run_in_executor(None, pipe.recv)
            echo.cancel()
            stream.close()
            await inlet.close()

    asyncio.run(live())


class Echo:
    """The actor of the comparison."""

    async def echo(self, values: Any) -> Any:
        return values


# ---- this process


async def hops(stack: AsyncExitStack, pipe: Any) -> dict[str, Hop]:
    """The ways there and back, by name."""
    door, port, comm_address = pipe.recv()
    inlet = await Inlet.open()
    stack.push_async_callback(inlet.close)
    inlet.admit(BACK.chain, epoch=1)
    pipe.send(inlet.door)
    link = await Link.open(door, THERE)
    stack.push_async_callback(link.close)
    pair = Pair(link, inlet)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    stack.callback(writer.close)
    comm = await connect_comm(comm_address)
    stack.push_async_callback(comm.close)
    cluster = await stack.enter_async_context(
        LocalCluster(
            n_workers=1, threads_per_worker=1, asynchronous=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        )
    )
    client = await stack.enter_async_context(Client(cluster, asynchronous=True, direct_to_workers=True))
    actor = await client.submit(Echo, actor=True, pure=False)

    async def raw(tensor: torch.Tensor) -> Any:
        body = tensor.numpy()
        writer.write(LENGTH.pack(body.nbytes) + body.tobytes())
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return await reader.readexactly(length)

    async def dask_comm(tensor: torch.Tensor) -> Any:
        await comm.write({"x": tensor.numpy().tobytes()})
        return (await comm.read())["x"]

    async def dask_actor(tensor: torch.Tensor) -> Any:
        return await actor.echo(tensor.numpy())

    return {
        "link": pair.turn_bytes,
        "link_tensor": pair.turn,
        "link_int8": lambda tensor: pair.turn(tensor, Codec.INT8),
        "raw_asyncio": raw,
        "distributed_comm": dask_comm,
        "dask_actor": dask_actor,
    }


async def measure(pipe: Any) -> dict[str, Any]:
    """µs of one hop, by payload and way."""
    table: dict[str, dict[str, float]] = {}
    async with AsyncExitStack() as stack:
        ways = await hops(stack, pipe)
        for rows in ROWS:
            tensor = torch.randn(rows, HIDDEN)
            taken: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(ROUNDS + 1):
                for name, way in ways.items():
                    for _ in range(TURNS):
                        since = time.perf_counter()
                        await way(tensor)
                        if number:  # the first round warms up
                            taken[name].append((time.perf_counter() - since) / 2 * 1e6)
            medians = {name: round(statistics.median(each), 1) for name, each in taken.items()}
            table[f"{rows}x{HIDDEN}"] = medians
            print(f"{rows:3} x {HIDDEN}: " + ", ".join(f"{name} {value:.0f} µs" for name, value in medians.items()))
    small = table[f"1x{HIDDEN}"]
    return {
        "hop_overhead_us": table,
        "link_vs_raw": round(small["link"] / small["raw_asyncio"], 2),
        "actor_vs_link": round(small["dask_actor"] / small["link"], 2),
    }


def measured() -> dict[str, Any]:
    """See `measure`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,))
    process.start()
    try:
        return asyncio.run(measure(here))
    finally:
        here.send("end")
        process.join(10)


def main() -> int:
    torch.set_num_threads(1)
    print(json.dumps(measured()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
