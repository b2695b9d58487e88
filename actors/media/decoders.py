"""The decoders of this process: a few children that live long, each replaced once it breaks or has worked enough."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..isolation import wire
from ..isolation.spawning import ONE_THREAD, Child, Starter
from .child import MOST_CPU, PARENT
from .limits import DecoderUnavailable, MediaError

START_PATIENCE = 60.0
"""Seconds that a decoder may take to start: 0.4 on an idle machine."""
GRACE = 1.0
"""Seconds that a decoder has beyond its limit before it is killed."""
MOST_USES = 1000
"""Files after which a decoder is replaced: libraries leak."""
MOST_BUSY = MOST_CPU / 4
"""Seconds of work after which a decoder is replaced, well before its own limit of CPU time."""
Frame = tuple[dict[str, Any], bytearray]


@dataclass(slots=True)
class Decoder:
    """One child."""

    child: Child
    missing: Mapping[str, str]
    """What it can't decode, and why."""
    uses: int = 0
    busy: float = 0.0

    @property
    def worn(self) -> bool:
        """Whether it is to be replaced before it is used again."""
        return self.uses >= MOST_USES or self.busy >= MOST_BUSY or self.child.process.poll() is not None


@dataclass(slots=True)
class Decoders:
    """A pool. Threads that find all of them at work wait for one."""

    size: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    _idle: list[Decoder] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _starter: Starter = field(default_factory=Starter)
    _places: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = threading.Semaphore(self.size)

    def ask(self, head: Mapping[str, Any], data: bytes, *, seconds: float, most: int) -> Iterator[Frame]:
        """Messages of a decoder about `data`, until the reader has enough; at most `most` bytes of them together.

        Raises MediaError when the file breaks the decoder or its limits, DecoderUnavailable when there is no decoder.
        """
        with self._one() as decoder:
            kind = head["kind"]
            if kind in decoder.missing:
                raise DecoderUnavailable(f"{kind} can't be decoded on this machine: {decoder.missing[kind]}")
            begun = time.monotonic()
            deadline = begun + seconds + GRACE
            try:
                wire.send(decoder.child.line, head, data, deadline)
                while True:
                    frame = wire.receive(decoder.child.line, most, deadline)
                    most -= len(frame[1])
                    if "error" in frame[0]:
                        raise MediaError(str(frame[0]["error"])[:1000])
                    yield frame
                    if not frame[0].get("more"):
                        return
            except wire.Late:
                decoder.child.kill()
                raise MediaError(f"the file took longer than {seconds:g} s to decode; send it in parts") from None
            except wire.TooMuch as error:
                decoder.child.kill()
                raise MediaError(f"the file decodes to more than is taken: {error}") from None
            except wire.Broken:
                raise _death(decoder.child.kill(), seconds) from None
            except GeneratorExit:  # the reader stopped half-way: what the decoder goes on to say is nobody's
                decoder.child.kill()
                raise
            finally:
                decoder.uses += 1
                decoder.busy += time.monotonic() - begun

    def processes(self) -> list[int]:
        """Process ids of the decoders that wait for work."""
        with self._lock:
            return [one.child.process.pid for one in self._idle]

    def close(self) -> None:
        """End the decoders that wait; the next file starts others."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.child.kill()

    @contextmanager
    def _one(self) -> Iterator[Decoder]:
        with self._places:
            decoder = self._waiting() or self._start()
            try:
                yield decoder
            finally:
                if decoder.worn:
                    decoder.child.kill()
                else:
                    with self._lock:
                        self._idle.append(decoder)

    def _waiting(self) -> Decoder | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                decoder = self._idle.pop()
            if not decoder.worn:
                return decoder
            decoder.child.kill()

    def _start(self) -> Decoder:
        try:
            child = self._starter.start("idlegrid.actors.media.child", ONE_THREAD | {PARENT: str(os.getpid())})
        except OSError as error:
            raise DecoderUnavailable(f"no decoder can be started here: {error}") from error
        try:
            head, _ = wire.receive(child.line, 0, time.monotonic() + START_PATIENCE)
        except wire.Broken as error:
            code = child.kill()
            raise DecoderUnavailable(f"a decoder did not start ({error}; exit code {code})") from error
        if "failed" in head:
            child.kill()
            raise DecoderUnavailable(f"a decoder did not start: {head['failed']}")
        return Decoder(child, dict(head.get("missing", {})))


def _death(code: int, seconds: float) -> Exception:
    if code == -signal.SIGKILL:
        return DecoderUnavailable("a decoder was killed by somebody else: the machine may be short of memory")
    if code == -signal.SIGXCPU:
        return MediaError(f"the file took longer than {seconds:g} s to decode; send it in parts")
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return MediaError(f"the file broke its decoder ({how}); convert it to another format")


DECODERS = Decoders()
"""Those of this process."""
atexit.register(DECODERS.close)


def _forget() -> None:
    """A process that was forked has no decoders: those that it knows are its parent's."""
    DECODERS.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forget)
