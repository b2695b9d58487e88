"""The receiving end of links: knows the chains that may come, takes each step of the newest epoch once, in order, and
grants room for more as steps are taken. What anybody else sends changes nothing."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import ssl
from collections import deque
from dataclasses import dataclass, field

from .errors import FrameRefused
from .fence import Fence, Judgement
from .frame import NO_MODEL, Frame, Kind, Limits, encode
from .leg import Door, Pace
from .notes import from_note, to_note
from .wire import Listener, Wire, listen

logger = logging.getLogger(__name__)

STRANGERS = Limits(note=256, body=0)
"""What may be announced before the token was shown."""
MOST_PEERS = 256
"""Connections at a time; more are closed at once."""
LONGEST_WHY = 400
"""Characters of what a sender is told, which passes from stage to stage."""
WINDOW = 64
"""Steps of one chain that may be under way or wait here."""


@dataclass(slots=True, kw_only=True)
class _Chain:
    """One that may come."""

    model: bytes
    entry: int
    fence: Fence
    taken: int = 0
    """Steps before this one were taken."""
    told: int = 0
    """What the sender knows of that."""
    waiting: int = 0
    """Bytes of steps that came and were not taken."""
    untold: int = 0
    """Bytes that were taken since the sender was told."""
    over: str = ""
    """Why nothing more of it is taken in this epoch."""
    peer: _Peer | None = None
    dropped: dict[Judgement, int] = field(default_factory=lambda: dict.fromkeys(Judgement, 0))


class Inlet:
    """Where a stage, or the head, gets its steps. Belongs to one event loop. Made by `Inlet.open`."""

    def __init__(self, limits: Limits, window: int, pace: Pace) -> None:
        self.limits, self.window, self.pace = limits, window, pace
        self._token = secrets.token_hex(16)
        self._chains: dict[bytes, _Chain] = {}
        self._peers: set[_Peer] = set()
        self.waited = 0.0
        """Seconds for which the step that was taken last lay here."""
        self._queue: deque[tuple[Frame, float]] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._listener: Listener | None = None
        self._now = asyncio.get_running_loop().time
        self._watch = asyncio.create_task(self._watch_silence(), name="idlegrid-inlet")

    @classmethod
    async def open(
        cls,
        address: str = "tcp://127.0.0.1:0",
        *,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        window: int = WINDOW,
        pace: Pace | None = None,
    ) -> Inlet:
        """Listen. `limits` and `window` bound what waits here of each chain. Raises OSError."""
        inlet = cls(limits or Limits(), window, pace or Pace())
        try:
            inlet._listener = await listen(address, inlet._accept, STRANGERS, tls)
        except BaseException:
            await inlet.close()
            raise
        return inlet

    @property
    def door(self) -> Door:
        """What a sender needs to come in."""
        if self._listener is None:
            raise RuntimeError("the inlet doesn't listen")
        return Door(address=self._listener.address, token=self._token)

    def admit(self, chain: bytes, *, epoch: int, entry: int = 0, model: bytes = NO_MODEL, first: int = 0) -> None:
        """Take this chain from this epoch on; or, if it is known, only from this epoch on.

        `entry`: the layer before which its hidden states come in. `first`: the step that comes first.
        A lower epoch than one that was heard of changes nothing.
        """
        known = self._chains.get(chain)
        if known is None or epoch > known.fence.epoch:
            fresh = _Chain(model=model, entry=entry, fence=Fence(epoch, first), taken=first, told=first)
            self._chains[chain] = fresh
            if known is not None and known.peer is not None:
                known.peer.refuse(f"the chain is in epoch {epoch}", epoch)

    def forget(self, chain: bytes) -> None:
        """The chain is over: what waits of it is dropped, and nothing more is taken."""
        gone = self._chains.pop(chain, None)
        if gone is not None and gone.peer is not None:
            gone.peer.refuse("the chain is over", gone.fence.epoch)

    def end(self, chain: bytes, why: str) -> None:
        """The chain can't go on before its next epoch: its sender is told why."""
        known = self._chains.get(chain)
        if known is not None:
            known.over = why[:LONGEST_WHY]
            if known.peer is not None:
                known.peer.refuse(known.over, known.fence.epoch)

    def dropped(self, chain: bytes) -> dict[Judgement, int]:
        """How many frames of a chain were not taken, and why."""
        return dict(self._chains[chain].dropped)

    async def receive(self, within: float | None = None) -> Frame:
        """The next step of any chain; taking it grants its sender room. For one task at a time. Raises TimeoutError."""
        if (frame := self._take()) is not None:
            return frame
        loop = asyncio.get_running_loop()
        timer = None if within is None else loop.call_later(within, self._late)
        try:
            while True:
                self._arrival = loop.create_future()
                await self._arrival
                if (frame := self._take()) is not None:
                    return frame
        finally:
            if timer is not None:
                timer.cancel()

    def _late(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_exception(TimeoutError("no step came"))

    async def close(self) -> None:
        """Listen no more; close all connections."""
        self._watch.cancel()
        if self._listener is not None:
            await self._listener.close()
        for peer in list(self._peers):
            peer.shut()
        await asyncio.gather(self._watch, return_exceptions=True)

    def _take(self) -> Frame | None:
        while self._queue:
            frame, came = self._queue.popleft()
            self.waited = self._now() - came
            chain = self._chains.get(frame.chain)
            if chain is None or frame.epoch != chain.fence.epoch:
                continue  # the chain went on while it waited
            size = len(frame.note) + len(frame.body)
            chain.taken, chain.waiting, chain.untold = frame.step + 1, chain.waiting - size, chain.untold + size
            much = chain.taken - chain.told >= max(1, self.window // 2) or 4 * chain.untold >= self.limits.waiting
            if much and chain.peer is not None:
                chain.peer.tell_taken(Kind.TAKEN, chain)
            return frame
        return None

    def _accept(self, wire: Wire) -> _Peer:
        peer = _Peer(self, wire)
        if len(self._peers) >= MOST_PEERS:
            logger.warning("a connection was closed: %d are open already", MOST_PEERS)
            peer.shut()
        else:
            self._peers.add(peer)
        return peer

    async def _watch_silence(self) -> None:
        while True:
            await asyncio.sleep(self.pace.beat)
            for peer in list(self._peers):
                peer.quiet += 1
                if peer.quiet * self.pace.beat >= max(self.pace.silence, self.pace.longest):  # its link is quicker
                    peer.shut()

    # ---- what a peer says

    def left(self, peer: _Peer) -> None:
        """Its connection is over."""
        self._peers.discard(peer)
        if peer.chain is not None and peer.chain.peer is peer:
            peer.chain.peer = None

    def hello(self, peer: _Peer, frame: Frame) -> None:
        """Somebody wants in."""
        note = from_note(frame.note)
        token = note.get("token") if isinstance(note, dict) else None
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token.encode()):
            peer.refuse("the token is wrong", 0)
            return
        chain = self._chains.get(frame.chain)
        if chain is None:
            peer.refuse(f"chain {frame.chain.hex()} isn't known here", 0)
        elif (chain.model, chain.entry) != (frame.model, frame.layers.stop):
            peer.refuse(f"layers from {chain.entry} on of model {chain.model.hex()} are computed here", 0)
        elif frame.epoch < chain.fence.epoch:
            chain.dropped[Judgement.STALE] += 1
            peer.refuse(f"the chain is in epoch {chain.fence.epoch}", chain.fence.epoch)
        elif chain.over:
            peer.refuse(chain.over, chain.fence.epoch)
        else:
            self._welcome(peer, frame, chain)

    def _welcome(self, peer: _Peer, frame: Frame, chain: _Chain) -> None:
        if chain.fence.open(frame.epoch, frame.step):
            chain.taken = chain.told = frame.step
            chain.waiting = chain.untold = 0
        if chain.peer is not None:
            chain.peer.shut()  # the same sender, on a new connection; or one whose epoch is over
        chain.peer, peer.chain = peer, chain
        peer.wire.attach(peer, self.limits)
        room = {"window": self.window, "bytes": self.limits.waiting}
        peer.send(Kind.WELCOME, chain.fence.epoch, chain.fence.expected, to_note(room))

    def data(self, peer: _Peer, chain: _Chain, frame: Frame) -> None:
        """A step came."""
        if self._chains.get(frame.chain) is not chain:
            raise FrameRefused("a frame came of another chain than was opened, or of one that is over")
        if (frame.model, frame.layers.stop) != (chain.model, chain.entry):
            raise FrameRefused(f"a frame came from {frame.layers}, it must end before layer {chain.entry}")
        judgement = chain.fence.judge(frame.epoch, frame.step)
        if judgement is not Judgement.TAKE:
            chain.dropped[judgement] += 1
        if judgement is Judgement.STALE:
            peer.refuse(f"the chain is in epoch {chain.fence.epoch}", chain.fence.epoch)
        elif judgement is Judgement.GAP:
            raise FrameRefused(f"step {frame.step} of epoch {frame.epoch} came, expected was {chain.fence.expected}")
        elif judgement is Judgement.TAKE:
            self._queue_up(chain, frame)

    def _queue_up(self, chain: _Chain, frame: Frame) -> None:
        size = len(frame.note) + len(frame.body)
        if chain.fence.expected - chain.taken >= self.window:
            raise FrameRefused(f"more than {self.window} steps came before one was taken")
        if chain.waiting and chain.waiting + size > self.limits.waiting:
            raise FrameRefused(f"more than {self.limits.waiting} bytes came before they were taken")
        chain.fence.take()
        chain.waiting += size
        self._queue.append((frame, self._now()))
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class _Peer:
    """One connection to an inlet."""

    def __init__(self, inlet: Inlet, wire: Wire) -> None:
        self.inlet, self.wire = inlet, wire
        self.chain: _Chain | None = None
        """Once it has said whose it is."""
        self.quiet = 0
        self._shut = False

    def heard(self, frame: Frame) -> None:
        if self._shut:
            return
        if self.chain is None:
            if frame.kind is not Kind.HELLO:
                raise FrameRefused(f"{frame.kind.name} came before HELLO")
            self.inlet.hello(self, frame)
            return
        self.quiet = 0
        if frame.kind is Kind.DATA:
            self.inlet.data(self, self.chain, frame)
        elif frame.kind is Kind.PING:
            self.tell_taken(Kind.PONG, self.chain)
        else:
            raise FrameRefused(f"{frame.kind.name} came, which means nothing here")

    def lost(self, why: str) -> None:
        logger.debug("a connection ended: %s", why)
        self.inlet.left(self)

    def send(self, kind: Kind, epoch: int, step: int = 0, note: bytes = b"") -> None:
        """Tell the sender something."""
        self.wire.send(encode(Frame(kind=kind, epoch=epoch, step=step, note=note)))

    def tell_taken(self, kind: Kind, chain: _Chain) -> None:
        """How far it is with the chain."""
        chain.told, chain.untold = chain.taken, 0
        self.send(kind, chain.fence.epoch, chain.taken)

    def refuse(self, why: str, epoch: int) -> None:
        """Say why not, and close."""
        self.send(Kind.REFUSED, epoch, note=to_note(why))
        self.shut()

    def shut(self) -> None:
        """Close; what still comes is not listened to."""
        self._shut = True
        self.wire.close()
