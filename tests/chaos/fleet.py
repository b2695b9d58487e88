"""Donors in this process: everything of a real agent but the processes. They join, beat, ask for work, do it, hand it
back, over real connections that can be cut as a dying process cuts them.

Registration, signing, tokens, heartbeats, settings, what the agent decides (`judging`), limits and slots, the asking
threads, attempts, leases and spool are the product's own. What is replaced is the worker process: its life is a `Life`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpcore
import httpx
from fleet_check import Diary

from idlegrid.api.donor.freeing import WORDS
from idlegrid.api.donor.hands import PullHands
from idlegrid.api.donor.heart import Heart
from idlegrid.api.donor.joining import join
from idlegrid.api.donor.judging import Facts, judged, wanted
from idlegrid.api.donor.membership import Membership, Options
from idlegrid.api.donor.server import Away, Heard, Refused
from idlegrid.api.donor.state import Home
from idlegrid.api.donor.work import Want
from idlegrid.grid.acceptance import is_open
from idlegrid.grid.config import Settings
from idlegrid.grid.credentials import Signer
from idlegrid.grid.donors import Donor, Limits
from idlegrid.pipelines.dispatch import desk as desk_module
from idlegrid.pipelines.dispatch.desk import Desk
from idlegrid.pipelines.dispatch.doors import Doors
from idlegrid.pipelines.dispatch.pull import Puller
from idlegrid.pipelines.dispatch.spool import Spool
from idlegrid.pipelines.dispatch.work_order import Identity

LOOK_EVERY = 0.25
"""As an agent's."""
START = 0.3
"""Seconds that a process would take at least until it asks."""
TELL = 5.0
"""Seconds that an agent takes to tell what its dead process left; the rest is told by the next one."""


class Wire(httpx.HTTPTransport):
    """Connections that can all be cut, as the death of their process would."""

    def __init__(self) -> None:
        super().__init__(verify=False)
        self._sockets: list[socket.socket] = []
        self._lock, self.dead = threading.Lock(), False
        self._pool = httpcore.ConnectionPool(network_backend=self._backend())

    def cut(self) -> None:
        with self._lock:
            self.dead = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _backend(self) -> httpcore.NetworkBackend:
        wire = self

        class Backend(httpcore.SyncBackend):
            def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
                stream = super().connect_tcp(*args, **kwargs)
                with wire._lock:
                    if wire.dead:
                        stream.close()
                        raise httpcore.ConnectError("the process is dead")
                    wire._sockets.append(stream.get_extra_info("socket"))
                return stream

        return Backend()


class MortalSpool(Spool):
    """On disk, as the dead leave it: who is dead writes and removes nothing any more."""

    dead = False

    def die(self) -> None:
        self.dead = True
        self._closed.set()
        self._news.set()
        if self._lock is not None:
            self._lock.close()

    def keep(self, *words: Any) -> None:
        if not self.dead:
            super().keep(*words)

    def unmark(self, *words: Any) -> None:
        if not self.dead:
            super().unmark(*words)


class Life:
    """What a worker process is between its start and its end."""

    def __init__(self, donor: Donor, home: Home, url: str, *, guarded: bool = True) -> None:
        self.wire = Wire()
        doors = Doors(self.wire, Signer(home.credentials))
        self.spool = MortalSpool(home.state.parent / "spool", doors)
        self.desk = Desk(donor.id, doors=doors, spool=self.spool)
        self.puller = Puller(donor, (url,), "", self.desk)
        if not guarded:
            self.desk.slots = None
        self.hands = PullHands(self.desk, self.puller.slots, end=lambda: None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.puller.ask_until, args=(self._stop,), daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self.desk.lines()[0])

    def starts(self) -> list[float]:
        running, finished = self.desk.lines()
        return [line.started_at.timestamp() for line in (*running, *finished)]

    def hold(self, held: bool) -> None:
        self.hands.pause() if held else self.hands.resume()

    def hand_back(self) -> None:
        """As a pause has it."""
        self._stop.set()
        self.hands.hand_back(WORDS)

    def finish(self) -> None:
        """As SIGTERM has it; `give_up` ends it sooner."""
        self._stop.set()
        self.desk.finish(None)

    def end(self) -> None:
        """The process ends in order; what it could not tell stays on disk."""
        self.spool.flush(TELL)
        self._cut()

    def die(self) -> None:
        """Nobody tells anybody."""
        self._stop.set()
        self._cut()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "a thread that asks did not end"

    def _cut(self) -> None:
        self.spool.die()
        self.wire.cut()


@dataclass(eq=False)
class Simulated:
    """One donor. `limits` are its owner's, as `config.yaml` has them."""

    name: str
    folder: Path
    limits: Mapping[str, Any]
    region: str
    obeys: bool = True
    """False, for the control: neither its guard nor the grid knows its owner's limits, and its pauses say nothing."""
    diary: Diary = field(default_factory=Diary)
    paused: bool = False
    held: str | None = None
    leaving: str | None = None
    frozen: bool = False
    """Dead, and not started again yet."""
    lives: int = 0

    def __post_init__(self) -> None:
        self.home = Home.find(self.folder)
        self._life: Life | None = None
        self._starts: list[float] = []
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[Any]] = []
        self._old: list[Life] = []
        self.id = ""

    @property
    def running(self) -> int:
        """Jobs."""
        return 0 if self._life is None else self._life.running

    # -- its life

    async def join(self, url: str, token: str) -> None:
        """Become a worker of the grid."""
        self.home.make()
        told = {"load_control": dict(self.limits) if self.obeys else {"max_concurrent_jobs": 3}}
        told |= {"name": self.name, "region": self.region, "supported_types": ["trial"]}
        self.home.config.write_text(_yaml(told))
        self.id = (await join(self.home, url, token, pull=True)).worker_id
        self.url = url

    async def start(self) -> None:
        """Begin as an agent that is started: what it remembered in its process is gone."""
        self.member = Membership(self.home, Options())
        self._service = await self.member.service().__aenter__()
        self._incarnation = uuid.uuid4().hex
        self._starts, self.leaving, self.frozen = [], None, False
        self._heart = Heart(
            self._service, self.home.credentials, interval=2.0, facts=self._beat, heard=self._heard, changed=_nothing
        )
        self._tasks = [asyncio.create_task(self._heart.run()), asyncio.create_task(self._watch())]

    async def vanish(self) -> None:
        """The machine is gone, agent and all: no goodbye, every connection cut."""
        async with self._turn:
            await self._cancel()
            if (life := self._life) is not None:
                self._bury(life)
                await asyncio.to_thread(life.die)
            self.diary.gone.append(time.time())
            self.frozen = True
        await self._service.__aexit__()

    async def stop(self) -> None:
        """Leave in order: what runs is finished first."""
        if self.frozen:
            return
        self.leaving = "stopped by its owner"
        self._heart.beat_now()
        while self._life is not None:  # noqa: ASYNC110 - its own loop sees to it
            await asyncio.sleep(0.05)
        self.diary.shuts(time.time())
        async with self._turn:
            await self._cancel()
        with contextlib.suppress(Away, Refused):
            await self._service.offline(self.id)
        await self._service.__aexit__()
        self.frozen = True

    async def close(self) -> None:
        """Nothing of it is left."""
        if self._tasks and not self.frozen:
            await self.vanish()
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for life in self._old:
            life.join()
            life.desk.doors.close()

    # -- its owner

    async def pause(self) -> None:
        """Returns when nothing runs."""
        self.paused = True
        if self.obeys:
            await self._decide()
        now = time.time()
        self.diary.shuts(now)
        self.diary.gone.append(now) if self.obeys else None
        self._heart.beat_now()

    async def hold(self) -> None:
        """As heat has it: nothing new begins, what runs goes on."""
        self.held = "too hot"
        if self.obeys:
            await self._decide()
        self.diary.shuts(time.time())
        self._heart.beat_now()

    async def resume(self) -> None:
        self.diary.opens(time.time())
        self.paused, self.held = False, None
        await self._decide()
        self._heart.beat_now()

    # -- what follows

    def _facts(self) -> Facts:
        limits, now = self.member.settings.limits(), datetime.now(UTC)
        return Facts(
            now=now,
            time_zone=limits.time_zone,
            ready=self._life is not None,
            running=self.running,
            leaving=self.leaving,
            paused=self.paused and self.obeys,
            held=self.held if self.obeys else None,
            closed=not is_open(limits, now),
            away=self._heart.away,
            refused=self._heart.refused,
        )

    async def _watch(self) -> None:
        while True:
            await self._decide()
            await asyncio.sleep(LOOK_EVERY)

    async def _decide(self) -> None:
        async with self._turn:
            want, _ = wanted(self._facts())
            if want is Want.WORK and self._life is None:
                await asyncio.sleep(START)
                self._life = await asyncio.to_thread(self._born)
            elif want is not Want.WORK and (life := self._life) is not None:
                await asyncio.to_thread(life.hand_back if want is Want.STOP else life.finish)
                self._starts += life.starts()
                self._bury(life)
                await asyncio.to_thread(life.end)
            if self._life is not None:
                self._life.hold(self.obeys and self.held is not None)

    def _born(self) -> Life:
        self.lives += 1
        life = Life(self.member.donor(), self.home, self.url, guarded=self.obeys)
        life.puller.slots.started_before(self._starts)
        return life

    def _bury(self, life: Life) -> None:
        self._life = None
        self._old.append(life)

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _beat(self) -> dict[str, Any]:
        state, _ = judged(self._facts())
        return {
            "status": state.value,
            "running": self.running,
            "config_version": self.member.kept.config_version,
            "incarnation": self._incarnation,
        }

    async def _heard(self, heard: Heard) -> None:
        assert heard.commands == (), "nobody gave any"


def owners_limits(settings: Mapping[str, Any]) -> Limits:
    """What an owner wrote, as the rules have it."""
    return Settings.model_validate({"load_control": {"time_zone": "UTC", **settings}}).limits()


def each_life_is_another_process(monkeypatch: Any) -> None:
    """In one process the lives would take each other for themselves."""
    monkeypatch.setattr(desk_module, "this_process", lambda worker_id: Identity(worker_id, uuid.uuid4().hex))


def _nothing() -> None:
    """The agent's loop looks by itself."""


def _yaml(value: Mapping[str, Any]) -> str:
    return json.dumps(value)  # which is YAML too
