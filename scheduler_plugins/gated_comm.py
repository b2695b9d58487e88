"""TLS connections of Dask with a `Gate`: what a peer may not say is refused before it is decoded, and nothing of a
donor's messages is unpickled at the scheduler.

Dask unpickles some fields while it reads, the greeting of a connection included: a gate among the handlers would come
too late. So this is a backend for ``tls://`` in the place of Dask's own; for a `Security` of Dask's own it does
nothing. `private_api` checks that distributed still looks as it must.
"""

from __future__ import annotations

import logging
import struct
import time
from collections import Counter
from typing import Any

import msgpack
from distributed.comm.core import CommClosedError, FatalCommClosedError
from distributed.comm.registry import backends
from distributed.comm.tcp import TLS, TLSBackend, TLSConnector, TLSListener, read_bytes_rw
from distributed.protocol.serialize import Serialized
from distributed.protocol.utils import msgpack_opts, unpack_frames

from ..grid.peers import Peer, peer_of
from .gate import PICKLED, Gate, Refusal

logger = logging.getLogger("idlegrid.gate")

MOST_SAID = 256 * 1024 * 1024
"""Bytes of one message from a worker that calls: Dask makes room for what a message says that it has."""
TELL_EVERY = 10.0
"""Seconds within which the same refusal is logged once."""

refused: Counter[tuple[str, str]] = Counter()
"""How often who was refused what in this process."""
_told: dict[tuple[str, str], float] = {}
_KEPT = 1000

default_gate: Gate | None = None
"""For a stock Dask process that was told to load our preload module; see `preload`."""


class Refused(FatalCommClosedError):  # type: ignore[misc]
    """A peer was refused, and the connection to it is closed."""


class GatedTLS(TLS):  # type: ignore[misc]
    """One connection; Dask's own until `guard`."""

    gate: Gate | None = None
    peer: Peer | None = None
    incoming: bool = False
    _greeted: bool = False
    """The peer has said what it can; everything after that is a call."""

    def guard(self, gate: Gate, *, incoming: bool) -> None:
        """Have the gate look at everything that is read from now on. Raises Refused."""
        self.gate, self.incoming = gate, incoming
        self.peer = peer_of(self.extra_info.get("peercert"))
        if not incoming:
            return
        try:
            gate.greet(self.peer)
        except Refusal as refusal:
            raise self._refuse(refusal) from None

    async def read(self, deserializers: Any = None) -> Any:
        """The next message. Raises CommClosedError, and Refused."""
        gate, peer = self.gate, self.peer
        if gate is None or peer is None or not gate.plain(peer, incoming=self.incoming):
            return await super().read(deserializers)
        try:
            message = decoded(await self._frames())
            if self.incoming and self._greeted:
                gate.check(peer, message, same_host=self.same_host, connected=self._alive)
        except Refusal as refusal:
            raise self._refuse(refusal) from None
        self._greeted = True
        return message

    def _alive(self) -> bool:
        return not self.closed()

    async def _frames(self) -> list[Any]:
        """The frames of one message. Adapted from distributed's `TCP.read`. Raises Refusal for one too large."""
        if (stream := self.stream) is None:
            raise CommClosedError
        try:
            (size,) = struct.unpack("Q", await stream.read_bytes(8))
            self._measure(size)
            frames, rest = unpack_frames(await read_bytes_rw(stream, size), partial=True)
            self._measure(size + sum(rest))
            for length in rest:
                frames.append(await read_bytes_rw(stream, length))
        except OSError as error:  # what tornado and ssl raise
            self.abort()
            raise CommClosedError(f"in {self!r}: {type(error).__name__}: {error}") from error
        except BaseException:  # nobody knows what was read already
            self.abort()
            raise
        return list(frames)

    def _measure(self, size: int) -> None:
        """What another one fetches from a worker may have any size; what it sends by itself may not."""
        if self.incoming and size > MOST_SAID:
            raise Refusal(f"a message of {size >> 20:,} MiB")

    def _refuse(self, refusal: Refusal) -> Refused:
        who, what = str(self.peer or "a stranger"), str(refusal)
        if len(refused) < _KEPT or (who, what) in refused:
            refused[who, what] += 1
        now = time.monotonic()
        if now - _told.get((who, what), -TELL_EVERY) >= TELL_EVERY:
            if len(_told) >= _KEPT:
                _told.clear()
            _told[who, what] = now
            logger.warning("refused: %s at %s may not say this: %s", who, self.peer_address, what)
        self.abort()
        return Refused(f"{who} was refused: {what}")


def decoded(frames: list[Any]) -> Any:
    """A message as plain data: what was serialized stays so, what wants to be unpickled is refused.

    As `distributed.protocol.core.loads` without deserialization. Raises Refusal.
    """

    def field(found: dict[Any, Any]) -> Any:
        if "__Serialized__" not in found:
            return _plain(found)
        if "data" in found:
            return Serialized(*found["data"])
        at = int(found["__Serialized__"])
        header = msgpack.loads(frames[at], object_hook=_plain, use_list=False, **msgpack_opts)
        return Serialized(header, frames[at + 1 : at + 1 + header["num-sub-frames"]])

    try:
        return msgpack.loads(frames[0], object_hook=field, use_list=False, **msgpack_opts)
    except Refusal:
        raise
    except Exception as error:  # noqa: BLE001 - whatever such a thing is, it is no message of Dask's
        raise Refusal(f"what can't be read: {type(error).__name__}") from None


def _plain(found: dict[Any, Any]) -> Any:
    """A field, or one of a header: what is in a header is never looked up in the message again."""
    if wrong := PICKLED & found.keys():
        raise Refusal(f"a field that runs code where it is read ({min(wrong)})")
    return set(found["as-list"]) if "__Set__" in found else found


class GatedConnector(TLSConnector):  # type: ignore[misc]
    """Connects, and makes sure that whoever answers is who should be there."""

    comm_class = GatedTLS

    async def connect(
        self, address: str, deserialize: bool = True, *, gate: Gate | None = None, **options: Any
    ) -> GatedTLS:
        comm: GatedTLS = await super().connect(address, deserialize=deserialize, **options)
        if (gate := gate or default_gate) is None:
            return comm
        comm.guard(gate, incoming=False)
        expected = gate.expected(address)
        if comm.peer is None or comm.peer.role not in expected:
            raise comm._refuse(Refusal(f"answering at {address}, where a {' or '.join(expected)} should be"))
        return comm


class GatedListener(TLSListener):  # type: ignore[misc]
    """Listens, and guards each connection before anything is read from it."""

    comm_class = GatedTLS

    def __init__(self, *args: Any, gate: Gate | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._gate = gate

    async def on_connection(self, comm: GatedTLS, handshake_overrides: dict[str, Any] | None = None) -> None:
        if (gate := self._gate or default_gate) is not None:
            comm.guard(gate, incoming=True)
        await super().on_connection(comm, handshake_overrides)


class GatedBackend(TLSBackend):  # type: ignore[misc]
    """``tls://``, gated."""

    _connector_class = GatedConnector
    _listener_class = GatedListener


def install() -> None:
    """Have every ``tls://`` of this process go through here. Does nothing the second time."""
    if not isinstance(backends.get("tls"), GatedBackend):
        backends["tls"] = GatedBackend()
