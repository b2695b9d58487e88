"""The sending end of one leg: steps in order, no more under way than the other end has room for, sent again when the
connection breaks, refused when the chain has gone on without us."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from itertools import islice

from .errors import FrameRefused, LinkFenced, LinkLost, LinkRefused, LinkTimeout
from .frame import Buffer, Codec, Dtype, Encoded, Frame, Kind, Limits, encode
from .leg import Door, Leg, Pace, Pulse
from .notes import from_note, to_note
from .round_trips import RoundTrips
from .wire import Wire, connect

ANSWERS = Limits(note=4096, body=0)
"""What the other end may say."""
LONGEST_PAUSE = 1.0
REFUSALS = 2
"""So often in a row nobody may listen at the door: a process that comes back has another one."""


class Link:
    """Sends to an inlet. Belongs to one event loop, and to one sender at a time. Made by `Link.open`.

    ::

        steps   0 1 2 3 4 5 6 7 8 9
                ├ taken ┤ ├ ring ┤ ▲       in the ring: sent, maybe received, not taken by the stage there
                                   next    ring ≤ window, in steps and in bytes
    """

    def __init__(self, door: Door, leg: Leg, first: int, tls: ssl.SSLContext | None, pace: Pace) -> None:
        self.leg = leg
        self.lost: LinkLost | LinkRefused | None = None
        """Why nothing can be sent any more; None while it can."""
        self.breaks = 0
        """How often the connection broke."""
        self.round_trips = RoundTrips()
        """Of its pings."""
        self._door, self._tls, self._pace = door, tls, pace
        self._taken = self._next = first
        self._window = self._most_bytes = 0
        self._ring: deque[Encoded] = deque()
        self._ring_bytes = 0
        self._wire: Wire | None = None
        """While it may be written to."""
        self._change = asyncio.Event()
        self._pulse = Pulse(pace)
        self._opened = False
        self._task = asyncio.create_task(self._run(), name="idlegrid-link")

    @classmethod
    async def open(
        cls,
        door: Door,
        leg: Leg,
        *,
        first: int = 0,
        tls: ssl.SSLContext | None = None,
        pace: Pace | None = None,
    ) -> Link:
        """Connect. `first`: the first step that will be sent in this epoch.

        Raises LinkRefused (LinkFenced), or LinkLost when nobody answers in `pace.patience` seconds.
        """
        link = cls(door, leg, first, tls, pace or Pace())
        try:
            while not link._opened and link.lost is None:
                await link._changed()
        except BaseException:
            await link.close()
            raise
        if link.lost is not None:
            raise link.lost
        return link

    @property
    def in_flight(self) -> int:
        """Steps that were sent and not taken."""
        return self._next - self._taken

    async def send(
        self,
        step: int,
        *,
        note: Buffer = b"",
        dtype: Dtype = Dtype.NONE,
        codec: Codec = Codec.RAW,
        shape: tuple[int, ...] = (),
        body: Buffer = b"",
        within: float,
    ) -> None:
        """Hand over the next step: it arrives once, or the link is lost. Waits only when the window is full.

        `body` must not change until the step is taken. Raises LinkTimeout when nothing was taken for `within` seconds
        (the step was not sent), the reason for which the link is lost, and ValueError for a step out of order.
        """
        size = len(note) + len(body)
        if self.lost is not None or self._full(size):
            await self._room(size, within)
        if step != self._next:
            raise ValueError(f"step {step} was to be sent, but the next of this link is {self._next}")
        leg = self.leg
        encoded = encode(
            Frame(Kind.DATA, codec, dtype, leg.chain, leg.model, leg.layers, leg.epoch, step, shape, note, body)
        )
        if self._wire is not None:
            self._wire.send(encoded)
        self._ring.append(encoded)
        self._ring_bytes += size
        self._next += 1

    async def over(self) -> LinkLost | LinkRefused:
        """Wait until it is lost, for whatever reason."""
        while self.lost is None:
            await self._changed()
        return self.lost

    async def close(self) -> None:
        """Close. What was not taken may be lost."""
        self._lose(LinkLost("it was closed here"))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _full(self, size: int) -> bool:
        in_flight = self.in_flight
        return in_flight >= self._window or (in_flight > 0 and self._ring_bytes + size > self._most_bytes)

    async def _room(self, size: int, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                while self.lost is None and self._full(size):
                    await self._changed()
        except TimeoutError:
            raise LinkTimeout(
                f"{self._door.address} took none of {self.in_flight} steps within {within:g} s; step {self._next} "
                "was not sent"
            ) from None
        if self.lost is not None:
            raise self.lost

    async def _changed(self) -> None:
        self._change.clear()
        await self._change.wait()

    # ---- one connection after the other

    async def _run(self) -> None:
        loop, pace = asyncio.get_running_loop(), self._pace
        away, pause, refused = loop.time(), pace.retry, 0
        while self.lost is None:
            patience = pace.allowed(pace.patience, self._pulse.slowest)
            left = away + patience - loop.time()
            try:
                why, served = await self._connection(min(pace.connect, left) if self._opened else pace.connect)
            except ConnectionRefusedError as error:
                why, served, refused = str(error), False, refused + 1
            except (OSError, TimeoutError) as error:
                why, served = str(error) or "no answer came in time", False
            except ValueError as error:  # no address, or no TLS for it: trying again doesn't help
                self._lose(LinkLost(str(error)))
                return
            if served:
                away, pause, refused = loop.time(), pace.retry, 0
                self.breaks += 1
            elif loop.time() - away >= patience or refused == REFUSALS:
                self._lose(LinkLost(f"{self._door.address} is gone: {why}", nobody=refused > 0))
            if self.lost is None:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _connection(self, within: float) -> tuple[str, bool]:
        """Connect and keep it up until it breaks. Returns why it did, and whether we were welcome."""
        ears = _Ears(self, self._pulse)
        since = ears.now()
        try:
            async with asyncio.timeout(within):
                ears.wire = wire = await connect(self._door.address, self._tls)
                wire.attach(ears, ANSWERS)
                wire.send(self._control(Kind.HELLO, step=self._taken, note=to_note({"token": self._door.token})))
                welcome = await ears.welcome
            self._pulse.connected(ears.now() - since)
            self._welcome(welcome, wire)
            return await self._beat(ears, wire), True
        finally:
            self._wire = None
            if ears.wire is not None:
                ears.wire.close()
            ears.forget_welcome()

    def _welcome(self, welcome: Frame, wire: Wire) -> None:
        """Send again what did not arrive, and go on."""
        room = from_note(welcome.note)
        window, most = (room.get("window"), room.get("bytes")) if isinstance(room, dict) else (None, None)
        said = isinstance(window, int) and window > 0 and isinstance(most, int)
        if not said or not self._taken <= welcome.step <= self._next:
            raise FrameRefused(f"{self._door.address} expects step {welcome.step}, {room}; the next is {self._next}")
        self._window, self._most_bytes = int(window or 0), int(most or 0)
        for encoded in islice(self._ring, welcome.step - self._taken, None):
            wire.send(encoded)
        self._wire, self._opened = wire, True
        self._change.set()

    async def _beat(self, ears: _Ears, wire: Wire) -> str:
        now, pulse = asyncio.get_running_loop().time, self._pulse
        while not ears.over:
            if pulse.beat(now()):
                ears.asked.append(now())
                wire.send(self._control(Kind.PING))
            elif pulse.silent:
                return "it was silent for too long"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.beat):
                    await ears.ended.wait()
        return ears.over

    def _control(self, kind: Kind, step: int = 0, note: bytes = b"") -> Encoded:
        leg = self.leg
        return encode(
            Frame(kind=kind, chain=leg.chain, model=leg.model, layers=leg.layers, epoch=leg.epoch, step=step, note=note)
        )

    # ---- what the other end says

    def took(self, step: int) -> None:
        """All steps before `step` were taken."""
        if not self._taken <= step <= self._next:
            raise FrameRefused(f"steps before {step} were taken, of those from {self._taken} to {self._next - 1}")
        for _ in range(step - self._taken):
            _, note, body = self._ring.popleft()
            self._ring_bytes -= len(note) + len(body)
        self._taken = step
        self._change.set()

    def refused(self, frame: Frame) -> None:
        """We are not wanted there."""
        why = f"{self._door.address} refuses: {from_note(frame.note)}"
        self._lose(LinkFenced(why) if frame.epoch > self.leg.epoch else LinkRefused(why))

    def _lose(self, error: LinkLost | LinkRefused) -> None:
        if self.lost is None:
            self.lost = error
        self._ring.clear()
        self._taken = self._next
        self._change.set()


class _Ears:
    """What is heard on one connection of a link."""

    def __init__(self, link: Link, pulse: Pulse) -> None:
        self.link, self.pulse = link, pulse
        self.now = asyncio.get_running_loop().time
        self.wire: Wire | None = None
        self.welcome: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.over = ""
        self.asked: deque[float] = deque()
        """When the pings were sent that have no answer; they are answered in their order."""

    def heard(self, frame: Frame) -> None:
        self.pulse.answered(self.now())
        if frame.kind is Kind.REFUSED:
            self.link.refused(frame)
            raise FrameRefused("the link was refused")
        if not self.welcome.done():
            if frame.kind is not Kind.WELCOME:
                raise FrameRefused(f"{frame.kind.name} came before WELCOME")
            self.welcome.set_result(frame)
        elif frame.kind in (Kind.TAKEN, Kind.PONG):
            if frame.kind is Kind.PONG and self.asked:
                self.link.round_trips.heard(self.now() - self.asked.popleft())
            self.link.took(frame.step)
        else:
            raise FrameRefused(f"{frame.kind.name} came, which means nothing here")

    def lost(self, why: str) -> None:
        self.over = why
        self.ended.set()
        if not self.welcome.done():
            self.welcome.set_exception(ConnectionResetError(why))

    def forget_welcome(self) -> None:
        """Nobody waits for it any more."""
        if not self.welcome.cancel() and not self.welcome.cancelled():
            self.welcome.exception()
