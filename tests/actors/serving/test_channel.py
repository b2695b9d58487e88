"""Many requests over one connection: none waits for another, none outlives its reader, a dead host is noticed."""

import asyncio
import pickle
import socket
import struct
import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from chain_engine import ChainEngine, answer_to, text_of

from idlegrid.actors.llm.engine_face import EngineClosed, QueueFull
from idlegrid.actors.llm.request import Finished, FinishReason, Request, RequestRefused, Sampling, Tokens
from idlegrid.actors.serving.channel import WINDOW, Address, Channel
from idlegrid.actors.serving.errors import ChannelLost, StreamLost
from idlegrid.actors.serving.host import Host
from idlegrid.actors.serving.payload import request_to_wire
from idlegrid.actors.serving.status import HostState
from idlegrid.actors.serving.wire import VERSION, Connection

DEADLINE = 10.0


def a_request(id_="r", n=20, **fields):
    return Request(id=id_, prompt=(1, 2, 3), sampling=Sampling(max_tokens=n), **fields)


@asynccontextmanager
async def served(engine=None, **options):
    """A host that is ready, its engine and a channel to it."""
    engine = engine or ChainEngine()
    host = Host(lambda: engine, epoch=7, **options)
    address = await host.start()
    changed = asyncio.Event()
    channel = await Channel.open(address, heartbeat=0.05, deadline=DEADLINE, told=changed.set)
    try:
        async with asyncio.timeout(DEADLINE):
            while channel.status.state is HostState.LOADING:
                changed.clear()
                await changed.wait()
        yield host, engine, channel
    finally:
        await channel.close()
        await host.close()


async def read(channel, request, **options):
    """The tokens and the text of an answer, checked for order, and its end."""
    tokens, text = list(request.known), ""
    async with aclosing(channel.stream(request, **options)) as events:
        async for at, event in events:
            assert at == len(tokens)
            text += event.text
            if isinstance(event, Finished):
                return tokens, text, event
            tokens += event.ids
    raise AssertionError("no end came")


async def rest_of(stream):
    """Read on to what the stream raises; it must not end."""
    async for _, event in stream:
        assert not isinstance(event, Finished)


async def last_frame(connection):
    while True:
        await connection.receive()


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.001)


async def test_a_stream_is_the_engines_own():
    async with served() as (_, _, channel):
        request = a_request()
        tokens, text, end = await read(channel, request)
        assert tokens == answer_to(request)
        assert text == text_of(tokens)
        assert end.reason is FinishReason.LENGTH
        assert channel.in_flight == 0


async def test_known_tokens_are_gone_on_from():
    async with served() as (_, _, channel):
        request = a_request()
        whole = answer_to(request)
        tokens, text, _ = await read(channel, replace(request, known=tuple(whole[:8])))
        assert tokens == whole
        assert text == text_of(whole[7:])


async def test_fifty_streams_share_one_connection():
    async with served(ChainEngine(pace=0.001)) as (host, _, channel):
        requests = [a_request(f"r{n}", 40, salt=str(n)) for n in range(50)]
        requests = [replace(one, prompt=(n,)) for n, one in enumerate(requests)]
        answers = await asyncio.gather(*(read(channel, one) for one in requests))
        assert [tokens for tokens, _, _ in answers] == [answer_to(one) for one in requests]
        assert len(host._sessions) == 1


async def test_a_reader_that_stops_reading_delays_nobody_and_costs_bounded_memory():
    async with served() as (_, engine, channel):
        slow = channel.stream(a_request("slow", 1500))
        at, first = await anext(slow)
        tokens, _, _ = await asyncio.wait_for(read(channel, a_request("fast", 300)), DEADLINE)
        assert len(tokens) == 300
        await until(lambda: "slow" not in engine.streams)  # the engine got on without its reader
        inbox = next(iter(channel._streams.values()))
        assert inbox.qsize() <= WINDOW
        rest = [*first.ids]
        async for _, event in slow:
            rest += event.ids if isinstance(event, Tokens) else ()
        assert at == 0
        assert rest == answer_to(a_request("slow", 1500))


async def test_a_client_that_reads_nothing_has_its_tokens_joined_and_misses_none():
    asked = a_request("r", 2000)
    async with served() as (host, engine, _):
        before = set(host._sessions)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(host._server.sockets[0].getsockname())
        reader, writer = await asyncio.open_connection(sock=client, limit=4096)
        connection = Connection(reader, writer)
        connection.send({"op": "hello", "version": VERSION, "token": host._token})
        await until(lambda: set(host._sessions) - before)
        [session] = set(host._sessions) - before
        there = session._connection._writer
        there.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        there.transport.set_write_buffer_limits(1000)
        writer.transport.pause_reading()
        connection.send({"op": "open", "stream": 1, "request": request_to_wire(asked), "credit": 10**6})
        await until(lambda: engine.streams)
        await until(lambda: not engine.streams)  # it got on without its reader
        assert there.transport.get_write_buffer_size() < 10_000  # all of them would be several times as much
        writer.transport.resume_reading()
        tokens, pieces = [], 0
        async with asyncio.timeout(DEADLINE):
            while len(tokens) < 2000:
                for _, at, events in (await connection.receive()).get("of", ()):
                    assert at == len(tokens)
                    tokens += events[0]["ids"]
                    pieces += 1
        assert tokens == answer_to(asked)
        assert pieces < 1000
        connection.close()


async def test_closing_a_stream_aborts_its_request_alone():
    async with served(ChainEngine(pace=0.002)) as (_, engine, channel):
        other = asyncio.create_task(read(channel, a_request("other", 50)))
        async with aclosing(channel.stream(a_request("gone", 10_000))) as events:
            await anext(events)
        await until(lambda: engine.aborted == ["gone"])
        assert (await other)[2].reason is FinishReason.LENGTH


async def test_a_client_that_disconnects_aborts_all_it_asked_for():
    async with served(ChainEngine(pace=0.002)) as (_, engine, channel):
        streams = [channel.stream(a_request(f"r{n}", 10_000)) for n in range(5)]
        await asyncio.gather(*(anext(one) for one in streams))
        channel._connection._writer.transport.abort()  # as if its process were killed
        await until(lambda: len(engine.aborted) == 5)
        assert engine.load().running == 0
        for one in streams:
            with pytest.raises(ChannelLost):
                await rest_of(one)


async def test_a_client_that_falls_silent_is_given_up():
    async with served(ChainEngine(pace=0.002), silence=0.3) as (_, engine, channel):
        stream = channel.stream(a_request("r", 10_000))
        await anext(stream)
        channel._tasks[1].cancel()  # no heartbeat any more, the connection stays
        await until(lambda: engine.aborted == ["r"])
        await stream.aclose()


async def test_a_host_that_falls_silent_is_lost():
    async with served() as (host, _, _):
        mute = await asyncio.start_server(_tell_once_and_fall_silent, "127.0.0.1", 0)
        address = replace(_address(host), port=mute.sockets[0].getsockname()[1])
        channel = await Channel.open(address, heartbeat=0.02, deadline=0.3)
        with pytest.raises(ChannelLost, match=r"silent for 0\.3 s"):
            await asyncio.wait_for(read(channel, a_request()), DEADLINE)
        mute.close()


async def _tell_once_and_fall_silent(reader, writer):
    connection = Connection(reader, writer)
    await connection.receive()
    connection.send({"op": "welcome", "epoch": 7})
    connection.send({"op": "status", "status": {"state": "ready"}})
    await reader.read()
    writer.close()


async def test_a_client_that_stood_still_loses_nobody():
    async with served() as (host, _, _):
        channel = await Channel.open(_address(host), heartbeat=0.02, deadline=0.3)
        await until(lambda: channel.status.state is HostState.READY)
        time.sleep(0.8)  # noqa: ASYNC251 - the whole process, its loop too
        assert len((await read(channel, a_request()))[0]) == 20
        assert channel.lost is None
        await channel.close()


def _address(host):
    port = host._server.sockets[0].getsockname()[1]
    return Address(host="127.0.0.1", port=port, token=host._token, epoch=7)


async def test_what_the_engine_refuses_is_raised_as_such():
    async with served(ChainEngine(queue_limit=1, pace=0.01)) as (_, _, channel):
        with pytest.raises(RequestRefused, match="empty"):
            await read(channel, Request(id="x", prompt=()))
        first = channel.stream(a_request("first", 1000))
        await anext(first)
        with pytest.raises(QueueFull):
            await read(channel, a_request("second"))
        await first.aclose()


async def test_an_engine_that_breaks_is_told_to_all():
    async with served(ChainEngine()) as (_, engine, channel):
        engine.broken = "it broke"
        with pytest.raises(EngineClosed, match="it broke"):
            await read(channel, a_request())
        await until(lambda: channel.status.state is HostState.FAILED)
        assert channel.status.why == "it broke"


async def test_an_engine_that_cannot_be_loaded_says_why():
    def make():
        raise ValueError("no such model")

    host = Host(make)
    channel = await Channel.open(await host.start(), heartbeat=0.02)
    await until(lambda: channel.status.state is HostState.FAILED)
    assert channel.status.why == "ValueError: no such model"
    with pytest.raises(EngineClosed):
        await read(channel, a_request())
    await channel.close()
    await host.close()


async def test_a_host_that_closes_gives_its_streams_up_without_an_end():
    async with served(ChainEngine(pace=0.002)) as (host, engine, channel):
        stream = channel.stream(a_request("r", 10_000))
        await anext(stream)
        closing = asyncio.create_task(host.close())
        with pytest.raises((StreamLost, ChannelLost)):
            await rest_of(stream)
        await closing
        assert engine.load().running == 0


async def test_the_tokenizer_can_be_asked():
    async with served() as (_, _, channel):
        assert tuple(await channel.call("encode", "ab")) == (97, 98)
        assert tuple(await channel.call("encode_chat", [{"role": "user", "content": "a"}], {})) == (97,)
        with pytest.raises(RequestRefused, match="needs a message"):
            await channel.call("encode_chat", [], {})
        with pytest.raises(RequestRefused, match="nothing is known"):
            await channel.call("__class__")


async def test_status_says_load_and_facts():
    async with served(ChainEngine(pace=0.005)) as (_, _, channel):
        assert channel.status.facts["eos_ids"] == [1, 2]
        stream = channel.stream(a_request("r", 10_000))
        await anext(stream)
        await until(lambda: channel.status.running == 1)
        await stream.aclose()
        await until(lambda: channel.status.running == 0)


@pytest.mark.parametrize(
    "hello",
    [
        {"op": "hello", "version": VERSION, "token": "0" * 64},
        {"op": "hello", "version": VERSION},
        {"op": "hello", "version": VERSION + 1, "token": None},
        {"op": "open", "stream": 1, "request": {}, "credit": 1},
    ],
    ids=["wrong", "none", "version", "no-hello"],
)
async def test_without_the_token_nothing_is_answered(hello):
    async with served() as (host, engine, _):
        if "token" in hello and hello["token"] is None:
            hello["token"] = host._token
        reader, writer = await asyncio.open_connection(*host._server.sockets[0].getsockname())
        connection = Connection(reader, writer)
        connection.send(hello)
        with pytest.raises(ConnectionError):
            await connection.receive()
        connection.close()
        assert not engine.streams


@pytest.mark.parametrize("first", [True, False], ids=["before-the-token", "after-it"])
async def test_a_pickled_frame_ends_the_connection_and_nothing_else(first, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (type(tmp_path).touch, (tmp_path / "went-off",))

    async with served() as (host, _, channel):
        reader, writer = await asyncio.open_connection(*host._server.sockets[0].getsockname())
        connection = Connection(reader, writer)
        if not first:
            connection.send({"op": "hello", "version": VERSION, "token": host._token})
            assert (await connection.receive())["op"] == "welcome"
        body = pickle.dumps(Bomb())
        await asyncio.sleep(0)
        writer.write(struct.pack(">I", len(body)) + body)
        with pytest.raises(ConnectionError):
            await last_frame(connection)
        connection.close()
        assert not (tmp_path / "went-off").exists()
        assert (await read(channel, a_request()))[0] == answer_to(a_request())


async def test_another_host_on_the_same_port_is_not_taken_for_it():
    async with served() as (host, _, _):
        with pytest.raises(ChannelLost, match="epoch 7"):
            await Channel.open(replace(_address(host), epoch=6))


async def test_nobody_there():
    async with served() as (host, _, _):
        address = _address(host)
    with pytest.raises(ChannelLost, match="no host at"):
        await Channel.open(address, deadline=1)
