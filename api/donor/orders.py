"""Orders between an agent and its worker process: JSON lines over a Unix socket that only their owner can open.

::

    agent                                          worker process
    OrderDesk ── {"order": "donor", "donor": …} ──────► OrderTaker ──► WorkerHands
              ── {"order": "pause" | "resume" | "drain"} ─►
              ── {"order": "hand_back", "why": …} ──────►    everything that runs is given up, then the process ends
              ◄───────────────── {"report": {…}} ──          at once when something changed, and each second
              ◄───────────────── {"handed_back": 2} ──
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, Self

from ...grid.donors import Donor
from ...scheduler_plugins.facts import Report, Statement
from .reports import Reports, WorkerReport

logger = logging.getLogger(__name__)

VARIABLE: Final = "IDLEGRID_ORDERS"
"""Path of the socket, in the environment of a worker process."""
REPORT_EVERY = 1.0
"""Seconds between two reports when nothing changes."""
TALKATIVE = 0.02
"""Seconds within which several changes are told in one report."""
RECONNECT_EVERY = 0.2
HAND_BACK_PATIENCE = 0.6
"""Seconds that a process has to hand back what it runs, before it is killed."""
MOST_LINE = 4_000_000
_LONGEST_PATH = 100
"""Bytes of a path that any system takes as the name of a socket."""


def donor_order(donor: Donor) -> dict[str, Any]:
    """The order that tells a worker process its facts and limits anew."""
    return {"order": "donor", "donor": Statement(donor, Report()).to_wire()["donor"]}


class OrderDesk:
    """The agent's side: at most one worker process at a time, the one that connected last. Belongs to one event loop.

    ::

        async with OrderDesk(home.orders_socket) as desk:
            part = worker_part(…, environment={orders.VARIABLE: str(home.orders_socket)})
            await desk.say(donor_order(donor))       # now, and to each process that comes later
            await desk.hand_back("paused by its owner")
    """

    def __init__(self, path: Path) -> None:
        """Nothing is listened on before ``async with``; the folder of `path` must exist and be its owner's alone."""
        self._path = path
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._standing: dict[str, Mapping[str, Any]] = {}
        self._reports = Reports()
        self._callbacks: list[Callable[[WorkerReport], None]] = []
        self._answered = asyncio.Event()
        self._changed = asyncio.Event()
        self._handing_back = False
        self._serving: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            with _short(self._path) as name:
                self._server = await asyncio.start_unix_server(self._serve, name, limit=MOST_LINE)
        finally:
            os.umask(mask)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        if self._writer is not None:
            self._writer.close()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    @property
    def connected(self) -> bool:
        """Whether a worker process listens."""
        return self._writer is not None

    @property
    def report(self) -> WorkerReport:
        """What was last heard; `finished` and `refused` go back over earlier processes."""
        return self._reports.latest

    def on_report(self, callback: Callable[[WorkerReport], None]) -> None:
        """Have `callback` called with each report, in this event loop."""
        self._callbacks.append(callback)

    def remember(self, starts: Iterable[tuple[str, datetime]]) -> None:
        """Jobs that this worker started before (id, aware instant): the hourly cap goes on counting them."""
        self._reports.remember(starts)

    async def say(self, order: Mapping[str, Any]) -> bool:
        """Give an order; whether a process was there to hear it.

        ``donor``, and the last one of ``pause``, ``resume`` and ``drain``, are told again to each process that comes
        later. For ``hand_back`` see the method.
        """
        if order["order"] != "hand_back":
            self._standing["donor" if order["order"] == "donor" else "mood"] = dict(order)
        return await self._send(order)

    async def wait_connected(self) -> None:
        """Return when a worker process listens."""
        while self._writer is None:
            self._changed.clear()
            await self._changed.wait()

    async def hand_back(self, why: str, patience: float = HAND_BACK_PATIENCE) -> bool:
        """Have the process give up what it runs, and end; whether it said that it has, within `patience` seconds.

        False also when none listens. The process may still be there: whoever asked makes sure that it ends.
        """
        self._answered.clear()
        self._handing_back = True
        if not await self._send({"order": "hand_back", "why": why}):
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), patience)
            return True
        return False

    def process_ended(self, outcome: str = "handed_back") -> None:
        """The process is dead: what it was last heard to run ended with this outcome."""
        self._tell(self._reports.gone(datetime.now(UTC), outcome))

    async def _send(self, order: Mapping[str, Any]) -> bool:
        writer = self._writer
        if writer is None:
            return False
        with contextlib.suppress(OSError):
            writer.write(_line(order))  # not drained: a process that doesn't read is dealt with by who waits for it
            return True
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._handing_back = writer, False
        self._changed.set()
        if (task := asyncio.current_task()) is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            await self._greet()
            while line := await reader.readline():
                self._hear(line)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("a worker process said what makes no sense, and is not listened to: %s", error)
        finally:
            if self._writer is writer:
                self._writer = None
                self._changed.set()
                self.process_ended("handed_back" if self._handing_back else "interrupted")
            writer.close()

    async def _greet(self) -> None:
        await self._send({"order": "started", "at": self._reports.starts(time.time())})
        for order in self._standing.values():
            await self._send(order)

    def _hear(self, line: bytes) -> None:
        said = json.loads(line)
        if "report" in said:
            self._tell(self._reports.heard(said["report"]))
        if "handed_back" in said:
            self._answered.set()

    def _tell(self, report: WorkerReport) -> None:
        for callback in self._callbacks:
            callback(report)


class WorkerHands(Protocol):
    """What a worker process can be told. Called in the taker's thread."""

    def set_donor(self, donor: Donor) -> None:
        """Work by these facts and limits from now on. Raises ValueError: another donor's."""
        ...

    def started_before(self, at: list[float]) -> None:
        """Unix seconds at which earlier processes of this worker started jobs: the hourly cap counts them."""
        ...

    def pause(self) -> None:
        """Take nothing new; what runs goes on."""
        ...

    def resume(self) -> None:
        """Take work again."""
        ...

    def drain(self) -> None:
        """Take nothing new and let what runs finish."""
        ...

    def hand_back(self, why: str) -> int:
        """Give up all that runs; how much that was. The process ends right after."""
        ...

    def end(self) -> None:
        """End the process, now."""
        ...

    def report(self) -> dict[str, Any]:
        """What runs, what ran, what was refused: `reports.Reports.heard` reads it."""
        ...


class OrderTaker:
    """The worker's side: two threads, which work while the event loop or a job holds everything else up."""

    def __init__(self, path: Path, hands: WorkerHands) -> None:
        self._path, self._hands = path, hands
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._socket: socket.socket | None = None
        self._saying = threading.Lock()

    def start(self) -> None:
        """Connect, obey and report, until the process ends."""
        for target in (self._take, self._tell):
            threading.Thread(target=target, name=f"idlegrid-orders-{target.__name__}", daemon=True).start()

    def changed(self) -> None:
        """Something to report has changed: any thread."""
        self._news.set()

    def stop(self) -> None:
        """Say the last report, and no more."""
        self._report()
        self._stopped.set()
        self._news.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _take(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as one, _short(self._path) as name:
                one.connect(name)
                self._socket = one
                self._news.set()
                with one.makefile("rb") as lines:
                    for line in lines:
                        self._obey(line)
            self._socket = None
            self._stopped.wait(RECONNECT_EVERY)

    def _obey(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            self._do(said["order"], said)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("an order of the agent could not be followed: %s", error)
        self._news.set()

    def _do(self, order: str, said: Mapping[str, Any]) -> None:
        match order:
            case "donor":
                self._hands.set_donor(Statement.from_wire({"donor": said["donor"], "report": {}}).donor)
            case "started":
                self._hands.started_before([float(at) for at in said["at"]])
            case "pause":
                self._hands.pause()
            case "resume":
                self._hands.resume()
            case "drain":
                self._hands.drain()
            case "hand_back":
                self._hand_back(str(said["why"]))
            case _:
                raise ValueError(f"{order!r} is none that this version knows")

    def _hand_back(self, why: str) -> None:
        try:
            count = self._hands.hand_back(why)
            self._report()
            self._say({"handed_back": count})
        finally:
            self._hands.end()

    def _tell(self) -> None:
        while not self._stopped.is_set():
            self._news.wait(REPORT_EVERY)
            self._news.clear()
            self._report()
            self._stopped.wait(TALKATIVE)

    def _report(self) -> None:
        if self._socket is not None and not self._stopped.is_set():
            self._say({"report": self._hands.report()})

    def _say(self, words: Mapping[str, Any]) -> None:
        with self._saying, contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.sendall(_line(words))


def taker(hands: WorkerHands) -> OrderTaker | None:
    """Take orders if this process was given an agent to take them from."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    found = OrderTaker(Path(path), hands)
    found.start()
    return found


def _line(words: Mapping[str, Any]) -> bytes:
    return json.dumps(words).encode() + b"\n"


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of that socket that is short enough for the system, whatever folder it lies in."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
