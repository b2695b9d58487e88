"""What a link promises, on every transport; and that what others send changes nothing."""

import asyncio
import contextlib
import random
from dataclasses import replace

import pytest

from idlegrid.actors.shards.errors import LinkFenced, LinkLost, LinkRefused, LinkTimeout
from idlegrid.actors.shards.fence import Judgement
from idlegrid.actors.shards.frame import Assembler, Dtype, Frame, Kind, Limits, encode
from idlegrid.actors.shards.inlet import Inlet
from idlegrid.actors.shards.leg import Leg, Pace
from idlegrid.actors.shards.link import Link
from idlegrid.actors.shards.notes import from_note, to_note
from idlegrid.actors.shards.wire import connect

CHAIN, MODEL = b"c" * 16, b"m" * 8
LEG = Leg(chain=CHAIN, epoch=1, model=MODEL, layers=range(2, 5))
SOON, LATE = 0.2, 60.0
EAGER = Pace(beat=0.05, silence=60.0, connect=20.0, patience=60.0, retry=0.01)


@pytest.fixture
async def inlet(carrier):
    inlet = await Inlet.open(carrier.address, tls=carrier.listener, window=4, pace=EAGER)
    inlet.admit(CHAIN, epoch=1, entry=5, model=MODEL)
    yield inlet
    await inlet.close()


@contextlib.asynccontextmanager
async def link_to(inlet, carrier, leg=LEG, pace=EAGER, **options):
    async with asyncio.timeout(LATE):
        link = await Link.open(inlet.door, leg, tls=carrier.client, pace=pace, **options)
    try:
        yield link
    finally:
        await link.close()


def number(frame):
    """What `send` put into a frame."""
    return int.from_bytes(bytes(frame.body), "little")


async def send(link, *steps, within=LATE):
    for step in steps:
        await link.send(step, dtype=Dtype.INT64, shape=(1,), body=step.to_bytes(8, "little"), within=within)


async def receive(inlet, count):
    return [await inlet.receive(LATE) for _ in range(count)]


class Stranger:
    """A peer that says what it likes."""

    def __init__(self, wire):
        self.wire, self.said, self.answered, self.over = wire, [], asyncio.Event(), asyncio.Event()
        wire.attach(self, Limits())

    @classmethod
    async def at(cls, inlet, carrier):
        return cls(await connect(inlet.door.address, carrier.client))

    def heard(self, frame):
        self.said.append(frame)
        self.answered.set()

    def lost(self, why):
        self.over.set()

    def say(self, kind, leg=LEG, **fields):
        frame = Frame(kind=kind, chain=leg.chain, model=leg.model, layers=leg.layers, epoch=leg.epoch, **fields)
        self.wire.send(encode(frame))

    def hello(self, inlet, leg=LEG, step=0, token=None):
        self.say(Kind.HELLO, leg, step=step, note=to_note({"token": token or inlet.door.token}))

    async def ends(self):
        async with asyncio.timeout(LATE):
            await self.over.wait()
        return [frame.kind for frame in self.said]


# ---- on every transport


async def test_steps_arrive_in_order_with_all_that_they_carry(inlet, carrier):
    async with link_to(inlet, carrier) as link:
        big = bytes(range(256)) * 8192
        await link.send(0, note=b"plan", dtype=Dtype.FLOAT32, shape=(2, 2**18), body=big, within=LATE)
        await send(link, 1)
        first, second = await receive(inlet, 2)
    assert (bytes(first.note), bytes(first.body) == big, first.shape) == (b"plan", True, (2, 2**18))
    assert (first.chain, first.model, first.layers, first.epoch, first.step) == (CHAIN, MODEL, range(2, 5), 1, 0)
    assert (second.step, number(second)) == (1, 1)


async def test_a_sender_waits_for_who_receives_and_no_longer_than_it_wants(inlet, carrier):
    async with link_to(inlet, carrier) as link:
        await send(link, 0, 1, 2, 3)
        with pytest.raises(LinkTimeout, match="took none of 4 steps"):
            await send(link, 4, within=SOON)
        waiting = asyncio.create_task(send(link, 4, 5, 6))
        assert [number(frame) for frame in await receive(inlet, 7)] == list(range(7))
        await asyncio.wait_for(waiting, LATE)


async def test_a_sender_waits_for_room_in_bytes_too_but_one_step_may_always_go(carrier):
    limits = Limits(body=64_000, waiting=40_000)
    inlet = await Inlet.open(carrier.address, tls=carrier.listener, limits=limits, pace=EAGER)
    inlet.admit(CHAIN, epoch=1, entry=5, model=MODEL)
    async with link_to(inlet, carrier) as link:
        large = {"dtype": Dtype.INT64, "shape": (7000,), "body": bytes(56_000)}
        await link.send(0, **large, within=LATE)
        with pytest.raises(LinkTimeout):
            await send(link, 1, within=SOON)
        waiting = asyncio.create_task(send(link, 1))
        assert len((await receive(inlet, 1))[0].body) == 56_000
        await asyncio.wait_for(waiting, LATE)
        with pytest.raises(LinkTimeout):
            await link.send(2, **large, within=SOON)
        assert number(*await receive(inlet, 1)) == 1
    await inlet.close()


async def test_who_sends_more_than_there_is_room_for_is_cut_off_and_the_rest_stays(carrier):
    limits = Limits(body=64_000, waiting=40_000)
    inlet = await Inlet.open(carrier.address, tls=carrier.listener, limits=limits, window=3, pace=EAGER)
    inlet.admit(CHAIN, epoch=1, entry=5, model=MODEL)
    for fields, fits in (({}, 3), ({"dtype": Dtype.INT64, "shape": (2000,), "body": bytes(16_000)}, 2)):
        first = inlet._chains[CHAIN].fence.expected
        peer = await Stranger.at(inlet, carrier)
        peer.hello(inlet, step=first)
        await asyncio.wait_for(peer.answered.wait(), LATE)  # till then it may announce little
        for step in range(first, first + 4):
            peer.say(Kind.DATA, step=step, **fields)
        await peer.ends()
        assert inlet._chains[CHAIN].fence.expected == first + fits
        assert [frame.step for frame in await receive(inlet, fits)] == list(range(first, first + fits))
    await inlet.close()


class Disturber:
    """A proxy that knows frames: it repeats them, sends old ones again, changes their order, and breaks connections."""

    def __init__(self, target, draw):
        self.target, self.draw, self.old, self.tasks, self.writers = target, draw, [], [], []

    async def start(self):
        self.server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def connected(self, reader, writer):
        host, port = self.target.removeprefix("tcp://").split(":")
        there, out = await asyncio.open_connection(host, int(port))
        self.writers += [writer, out]
        self.tasks += [
            asyncio.create_task(self.back(there, writer)),
            asyncio.create_task(self.forth(reader, out, writer)),
        ]

    async def back(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def forth(self, reader, writer, other):
        assembler, draw, held = Assembler(Limits()), self.draw, []
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for frame in assembler.feed(data):
                    held.append(frame)
                    if frame.kind is Kind.DATA:
                        self.old.append(frame)
                        held += [frame] * draw.choice((0, 0, 1, 2)) + draw.sample(self.old, min(len(self.old), 1))
                    if draw.random() < 0.2:
                        held[-2:] = held[:-3:-1]
                for frame in held:
                    writer.write(b"".join(encode(frame)))
                held.clear()
                if draw.random() < 0.1:
                    break
        writer.close()
        other.close()

    async def stop(self):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.gather(*self.tasks, *(w.wait_closed() for w in self.writers), return_exceptions=True)


@pytest.mark.parametrize("seed", range(4))
async def test_repeated_late_and_reordered_frames_change_nothing(seed):
    inlet = await Inlet.open(window=4, pace=EAGER)
    inlet.admit(CHAIN, epoch=1, entry=5, model=MODEL)
    disturber = Disturber(inlet.door.address, random.Random(seed))
    door = replace(inlet.door, address=await disturber.start())
    async with asyncio.timeout(LATE):
        link = await Link.open(door, LEG, pace=EAGER)
        sending = asyncio.create_task(send(link, *range(150)))
        assert [number(frame) for frame in await receive(inlet, 150)] == list(range(150))
        await sending
    assert inlet.dropped(CHAIN)[Judgement.DUPLICATE] > 20
    assert link.breaks
    await link.close()
    await disturber.stop()
    await inlet.close()


async def test_a_broken_connection_is_made_anew_and_nothing_is_lost_or_doubled(inlet, carrier):
    async with link_to(inlet, carrier) as link:
        for step in range(40):
            await send(link, step)
            if step % 3 == 0:
                for peer in list(inlet._peers):
                    peer.wire.close()
            if step % 4 == 3:
                frames = await receive(inlet, 4)
                assert [number(frame) for frame in frames] == list(range(step - 3, step + 1))
        assert link.breaks
        with pytest.raises(TimeoutError):
            await inlet.receive(SOON)


async def test_who_was_replaced_is_fenced_off(inlet, carrier):
    async with link_to(inlet, carrier) as old, link_to(inlet, carrier, replace(LEG, epoch=2), first=7) as new:
        await send(new, 7)
        assert number(*await receive(inlet, 1)) == 7
        assert isinstance(await asyncio.wait_for(old.over(), LATE), LinkFenced)
        with pytest.raises(LinkFenced, match="epoch 2"):
            await send(old, 0)
        with pytest.raises(LinkFenced):
            await Link.open(inlet.door, LEG, tls=carrier.client, pace=EAGER)
        await send(new, 8)
        assert number(*await receive(inlet, 1)) == 8


async def test_steps_that_waited_when_the_chain_went_on_are_dropped(inlet, carrier):
    async with link_to(inlet, carrier) as old:
        await send(old, 0, 1)
        assert number(*await receive(inlet, 1)) == 0
        inlet.admit(CHAIN, epoch=2, entry=5, model=MODEL, first=1)
        async with link_to(inlet, carrier, replace(LEG, epoch=2), first=1) as new:
            await send(new, 1)
            (frame,) = await receive(inlet, 1)
        assert frame.epoch == 2
        with pytest.raises(TimeoutError):
            await inlet.receive(SOON)


async def test_what_does_not_fit_is_refused(inlet, carrier):
    wrong_door = replace(inlet.door, token="guessed")
    with pytest.raises(LinkRefused, match="token is wrong"):
        await Link.open(wrong_door, LEG, tls=carrier.client, pace=EAGER)
    for leg, why in (
        (replace(LEG, chain=b"x" * 16), "isn't known here"),
        (replace(LEG, layers=range(2, 4)), "layers from 5 on"),
        (replace(LEG, model=b"other..."), "layers from 5 on"),
    ):
        with pytest.raises(LinkRefused, match=why):
            await Link.open(inlet.door, leg, tls=carrier.client, pace=EAGER)


async def test_a_chain_that_is_over_is_forgotten(inlet, carrier):
    async with link_to(inlet, carrier) as link:
        await send(link, 0)
        inlet.forget(CHAIN)
        await asyncio.wait_for(link.over(), LATE)
        with pytest.raises(LinkRefused, match="over"):
            await send(link, 1)
        with pytest.raises(TimeoutError):
            await inlet.receive(SOON)


async def test_an_end_that_goes_is_lost_within_patience(carrier):
    inlet = await Inlet.open(carrier.address, tls=carrier.listener, pace=EAGER)
    inlet.admit(CHAIN, epoch=1, entry=5, model=MODEL)
    pace = replace(EAGER, patience=0.3, connect=0.3)
    async with link_to(inlet, carrier, pace=pace) as link:
        await inlet.close()
        await asyncio.wait_for(link.over(), LATE)
        with pytest.raises(LinkLost, match="is gone"):
            await send(link, 0)


async def test_duplicates_late_and_foreign_frames_change_nothing(inlet, carrier):
    peer = await Stranger.at(inlet, carrier)
    peer.hello(inlet)
    for step in (0, 0, 1, 0, 1, 2):
        peer.say(Kind.DATA, step=step)
    assert [frame.step for frame in await receive(inlet, 3)] == [0, 1, 2]
    assert inlet.dropped(CHAIN)[Judgement.DUPLICATE] == 3
    peer.say(Kind.DATA, replace(LEG, epoch=0), step=3)  # late, of an epoch that is over
    assert (await peer.ends())[-1] is Kind.REFUSED
    with pytest.raises(TimeoutError):
        await inlet.receive(SOON)


@pytest.mark.parametrize(
    "frames",
    [
        [(Kind.DATA, LEG, 1)],  # a gap
        [(Kind.DATA, LEG, step) for step in range(5)],  # more than the window
        [(Kind.DATA, replace(LEG, epoch=9), 0)],  # an epoch that was not opened
        [(Kind.DATA, replace(LEG, chain=b"x" * 16), 0)],
        [(Kind.DATA, replace(LEG, layers=range(4)), 0)],
        [(Kind.WELCOME, LEG, 0)],
        [(Kind.HELLO, LEG, 0)],
    ],
    ids=["gap", "window", "epoch", "chain", "layers", "welcome", "second hello"],
)
async def test_who_breaks_the_rules_is_cut_off(inlet, carrier, frames):
    peer = await Stranger.at(inlet, carrier)
    peer.hello(inlet)
    for kind, leg, step in frames:
        peer.say(kind, leg, step=step)
    await peer.ends()
    async with link_to(inlet, carrier, first=inlet._chains[CHAIN].fence.expected) as link:
        assert link.lost is None  # the chain itself is as it was


async def test_nothing_is_taken_from_who_has_not_shown_the_token(inlet, carrier):
    for say in (
        lambda peer: peer.say(Kind.DATA),
        lambda peer: peer.say(Kind.PING),
        lambda peer: peer.hello(inlet, token="x" * 300),  # more than a stranger may announce
    ):
        peer = await Stranger.at(inlet, carrier)
        say(peer)
        await peer.ends()
    with pytest.raises(TimeoutError):
        await inlet.receive(SOON)


async def test_who_says_nothing_is_not_waited_for(carrier):
    inlet = await Inlet.open(carrier.address, tls=carrier.listener, pace=Pace(beat=0.02, silence=0.1, longest=0.1))
    peer = await Stranger.at(inlet, carrier)
    await peer.ends()
    await inlet.close()


# ---- over TCP


async def test_a_pickle_is_a_wrong_beginning(tmp_path):
    """Control: distributed's own reader runs it."""
    import os
    import pickle

    from distributed.comm import connect as connect_comm
    from distributed.comm import listen as listen_comm
    from distributed.protocol.serialize import ToPickle

    victim, unharmed = tmp_path / "victim", tmp_path / "unharmed"

    class Payload:
        def __init__(self, path):
            self.path = path

        def __reduce__(self):
            return (os.mkdir, (str(self.path),))

    read = asyncio.Event()

    async def reads(comm):
        with contextlib.suppress(Exception):
            await comm.read()
        read.set()

    async with listen_comm("tcp://127.0.0.1:0", reads, deserialize=False) as listener:
        comm = await connect_comm(listener.contact_address)
        await comm.write({"x": ToPickle(Payload(victim))})
        await asyncio.wait_for(read.wait(), LATE)
        await comm.close()
    assert victim.exists()
    inlet = await Inlet.open(pace=EAGER)
    host, port = inlet.door.address.removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(pickle.dumps(Payload(unharmed)) * 10)
    assert await asyncio.wait_for(reader.read(), LATE) == b""
    writer.close()
    await inlet.close()
    assert not unharmed.exists()


async def test_a_note_is_plain_data():
    import msgpack

    from idlegrid.actors.shards.errors import FrameRefused

    assert from_note(to_note({"a": [1, "x", None]})) == {"a": (1, "x", None)}
    for wrong in (b"", b"\xc1", msgpack.packb(msgpack.ExtType(5, b"x")), b"\x91" * 5000, to_note(1) + b"x"):
        with pytest.raises(FrameRefused):
            from_note(wrong)


async def test_an_address_that_is_none_is_told_at_once():
    from idlegrid.actors.shards.leg import Door

    with pytest.raises(LinkLost, match="must be tcp://host:port"):
        await Link.open(Door(address="tcp://nowhere", token=""), LEG, pace=EAGER)
    with pytest.raises(ValueError, match="TLS context"):
        await Inlet.open("tls://127.0.0.1:0")


async def test_without_a_certificate_nobody_comes_in(certificate):
    import ssl

    listener, client = certificate
    inlet = await Inlet.open("tls://127.0.0.1:0", tls=listener, pace=EAGER)
    inlet.admit(CHAIN, epoch=1, entry=5, model=MODEL)
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    brief = replace(EAGER, patience=0.2)
    with pytest.raises(LinkLost):
        await Link.open(inlet.door, LEG, tls=stranger, pace=brief)
    link = await Link.open(inlet.door, LEG, tls=client, pace=EAGER)
    await link.close()
    await inlet.close()
