"""A donor's agent: one machine in one grid, for as long as its owner likes. Here its parts come together.

::

    owner ── command line, page ──► Agent ── Heart ──────► the grid's HTTP service
                                      │
                       judging (pure): what is wanted, and the word for it
                                      ▼
                                  Workplace ── OrderDesk ──► worker process (Dask, or pull)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ...grid.acceptance import closes_at, is_open, opens_at
from ...grid.config.fields import mask
from ...grid.credentials import Signer
from ...grid.donor_guard import PauseReason
from ...pipelines.dispatch.doors import Doors
from ..supervision import Part
from . import config_file
from .agreeing import Agreement
from .certificate import OwnCertificate
from .environment import SECTIONS
from .face import AgentState, AgentStatus, LogLine, NotAllowed
from .freeing import Freeing
from .guarding import Guarding
from .heart import Heart
from .judging import Facts, judged, wanted
from .log import LogRing
from .membership import Membership, Options
from .orders import OrderDesk, donor_order
from .reports import WorkerReport
from .sensors import machine_sensors
from .server import Away, Heard, Refused
from .state import Home
from .tally import Tally
from .work import Workplace

logger = logging.getLogger(__name__)
worker_log = logging.getLogger("idlegrid.worker")

LOOK_EVERY = 0.25
"""Seconds between two looks at the machine, the clock and the owner's hours."""
FREED_WITHIN = 5.0
"""Seconds that an answer to `pause` waits for the device to be free."""
GOODBYE = 5.0
"""Seconds that the grid has to hear that this machine leaves."""
TOLD = 10
"""Refusals that a heartbeat tells."""
OF_THE_PROCESS = (*SECTIONS, "supported_types")
"""Sections of the settings that a worker process reads when it starts."""
NO_SCHEDULER = "the grid told no Dask scheduler: restart with --pull"


class Agent:
    """One agent, an `AgentFace`. `run` it; it returns when it has left the grid."""

    def __init__(self, home: Home, options: Options, ring: LogRing) -> None:
        """Reads what the home holds. Raises ConfigError, OSError, BadCredentials."""
        self.home, self._ring = home, ring
        self.member = Membership(home, options)
        self._service = self.member.service()
        self._agreement = Agreement(self._service, self.member, self._apply)
        self._desk = OrderDesk(home.orders_socket)
        self._certificate = OwnCertificate(home)
        self._freeing = Freeing(self._desk, self.member.id, self._doors, self._address, home.certificate)
        self._rest: asyncio.Task[bool] | None = None
        """Tells what the last worker process left."""
        self._guard = Guarding(
            machine_sensors(self.member.settings.gpu.device_id), lambda: self.member.settings.limits(), self._decide
        )
        self._work = Workplace(self._part, self._freeing.give_back)
        self._work.ended.append(self._process_ended)
        self._heart = Heart(
            self._service,
            home.credentials,
            interval=self.member.loaded.settings.heartbeat_interval,
            facts=self._beat,
            heard=self._heard,
            changed=self._decide,
            certificate=self._certificate,
            scheduler=self._address,
        )
        self._incarnation = uuid.uuid4().hex
        self._tally = Tally(home.starts)
        self._desk.remember(self._tally.starts)
        self._setting = asyncio.Lock()
        self._leaving: str | None = None
        self._draining: str | None = None
        self._stopping = False
        self._held: str | None = None
        self._told: tuple[AgentState, datetime] = (AgentState.STARTING, datetime.now(UTC))
        self._news = AgentState.STARTING
        self._going = asyncio.Event()

    # -- its life

    async def run(self) -> None:
        """Work for the grid until `leave` or `stop_now`, and until nothing runs any more."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._service)
            await stack.enter_async_context(self._desk)
            self._desk.on_report(self._report)
            await self._agreement.begin()
            await self._desk.say(donor_order(self.member.donor()))
            await self._guard.look()
            for what in self._guard.readings.unknown:
                logger.info("not known here: %s", what)
            self._decide()
            logger.info(
                "%s works for %s as %s", self.member.donor().name, mask(self.member.credentials.server), self.member.id
            )
            loops = (self._work.run(), self._heart.run(), self._guard.run(), self._watch())
            tasks = [asyncio.create_task(one) for one in loops]
            left = asyncio.create_task(self._left())
            try:
                done, _ = await asyncio.wait([*tasks, left], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (*tasks, left):
                    task.cancel()
                await asyncio.gather(*tasks, left, return_exceptions=True)
            await self._goodbye()

    def leave(self, why: str = "stopped by its owner") -> None:
        """Finish what runs, then end."""
        self._leaving = self._leaving or why
        self._decide()
        self._heart.beat_now()
        self._going.set()

    def stop_now(self) -> None:
        """Hand back what runs, and end."""
        self._stopping = True
        self.leave()

    async def _left(self) -> None:
        await self._going.wait()
        await self._work.vacant()

    async def _goodbye(self) -> None:
        if self._rest is not None:
            await asyncio.wait([self._rest], timeout=GOODBYE)
            self._freeing.make_way()
        with contextlib.suppress(Away, Refused, TimeoutError, OSError):
            async with asyncio.timeout(GOODBYE):
                await self._service.offline(self.member.id)
        logger.info("left the grid")

    async def _watch(self) -> None:
        """Look at what nobody tells: the clock, the hours, the machine."""
        while True:
            until = self.member.kept.paused_until
            if self.member.kept.paused and until is not None and datetime.now(UTC) >= until:
                logger.info("the pause is over")
                self.member.keep(paused=False, paused_until=None)
                self._heart.beat_now()
            self._decide()
            await self._hold()
            self._tell_news()
            await asyncio.sleep(LOOK_EVERY)

    def _tell_news(self) -> None:
        """Have the grid know at once that this machine takes work, or doesn't; that it is busy it hears in time."""
        facts = self._facts()
        state, _ = judged(facts)
        news = AgentState.ONLINE if state is AgentState.BUSY else state
        if news not in (self._news, AgentState.OFFLINE):
            self._news = news
            self._heart.beat_now()

    # -- what its owner wants

    def status(self) -> AgentStatus:
        """How it is now."""
        facts, settings, report = self._facts(), self.member.settings, self._desk.report
        state, reason = judged(facts)
        if state is not self._told[0]:
            self._told = (state, facts.now)
        donor, limits = self.member.donor(), settings.limits()
        return AgentStatus(
            state=state,
            reason=reason,
            since=self._told[1],
            worker_id=self.member.id,
            name=donor.name,
            region=donor.region,
            server=mask(self.member.credentials.server),
            pull=self.member.kept.pull,
            types=tuple(sorted(donor.supported_types)),
            paused_until=self.member.kept.paused_until,
            opens_at=None if is_open(limits, facts.now) else opens_at(limits, facts.now),
            closes_at=closes_at(limits, facts.now) if is_open(limits, facts.now) else None,
            score=self._heart.score,
            running=report.running,
            finished=report.finished,
            jobs_today=self._tally.today(facts.now, limits.time_zone),
            jobs_last_hour=self._tally.last_hour(facts.now),
            limits=settings.load_control.model_dump() | {"time_zone": limits.time_zone},
            config_version=self.member.kept.config_version,
            gpu=self._guard.gpu_now(donor.gpu_model),
            certificate_expires_at=self._certificate.expires_at(),
            pid=os.getpid(),
        )

    async def pause(self, seconds: float | None) -> None:
        """Free the device now and take nothing until `resume`, or for so long."""
        until = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        self.member.keep(paused=True, paused_until=until)
        self._decide()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FREED_WITHIN):
                await self._work.vacant()
        self._heart.beat_now()

    async def resume(self) -> None:
        """Take work again, after `pause` or `drain`."""
        self.member.keep(paused=False, paused_until=None)
        if not self._stopping:
            self._leaving = self._draining = None
            self._going.clear()
        self._decide()
        self._heart.beat_now()

    async def drain(self) -> None:
        """Finish what runs, take nothing new, leave the grid; the agent then ends."""
        self.leave("told to drain by its owner")

    async def set(self, key: str, value: str) -> None:
        """Change one setting for good. Raises ValueError with what is allowed."""
        await self.set_many({key: value})

    async def set_many(self, values: Mapping[str, str]) -> None:
        """Change several settings for good, all of them or none. Raises NotAllowed."""
        async with self._setting:  # the file is read and written: two changes at once would lose one
            await asyncio.to_thread(config_file.change_many, self.member.file, values)
            self.member.reload()
        keys = [config_file.full_key(key) for key in values]
        logger.info("%s %s set", ", ".join(keys), "is" if len(keys) == 1 else "are")
        if any(key.split(".")[0] in OF_THE_PROCESS for key in keys):
            self._work.restart()
        await self._apply()
        self._heart.beat_now()
        origins = {key: self.member.loaded.origins[key] for key in keys}
        overridden = {
            key: f"{key} is in the file now, but the agent's {origin} is in force until it is gone"
            for key, origin in origins.items()
            if origin.startswith("environment")
        }
        if overridden:
            raise NotAllowed(overridden)

    def log_lines(self, after: int = 0, limit: int = 200) -> Sequence[LogLine]:
        """The newest `limit` lines with a number above `after`, oldest first."""
        return self._ring.lines(after, limit)

    # -- what the grid wants

    async def _heard(self, heard: Heard) -> None:
        await self._agreement.keep(changed=heard.config_changed, version=heard.config_version)
        self._follow(heard.scheduler_address)
        for command in heard.commands:
            await self._obey(command)
        self._decide()

    def _follow(self, address: str | None) -> None:
        """Work for the scheduler where it is now."""
        before = self._address()
        if address is not None and address != self.member.kept.scheduler_address:
            self.member.keep(scheduler_address=address)
        if self._address() != before:
            logger.info("the grid's scheduler is at %s now", address)
            self._work.restart()

    async def _obey(self, command: str) -> None:
        """Do what the grid says. It says so until a heartbeat shows that it was done."""
        logger.info("the grid says: %s", command)
        match command:
            case "drain":
                if self._draining is None:
                    self._draining = "told to drain by the grid"
                    self._heart.beat_now()
            case "resume":
                if self._draining is not None:
                    self._draining = None
                    self._heart.beat_now()
            case "restart":
                self._work.restart()
                await self._service.offline(self.member.id)  # the old incarnation ends as it should
                self._incarnation = uuid.uuid4().hex
                self._heart.beat_now()
            case "shutdown":
                self.leave("told to leave by the grid")
            case _:
                logger.warning("this version does not know what %r means", command)

    # -- what follows from it

    async def _apply(self) -> None:
        """Have the worker process work by the limits that are in force."""
        await self._desk.say(donor_order(self.member.donor()))
        self._decide()

    def _facts(self) -> Facts:
        now, limits = datetime.now(UTC), self.member.settings.limits()
        is_closed = not is_open(limits, now)
        return Facts(
            now=now,
            time_zone=limits.time_zone,
            ready=self._desk.connected,
            running=len(self._desk.report.running),
            leaving=self._leaving,
            draining=self._draining,
            stopping=self._stopping,
            paused=self.member.kept.paused,
            paused_until=self.member.kept.paused_until,
            guarded=self._guard.blocked,
            held=self._guard.held,
            closed=is_closed,
            opens_at=opens_at(limits, now) if is_closed else None,
            away=self._heart.away,
            refused=self._heart.refused or (None if self.member.kept.pull or self.member.scheduler else NO_SCHEDULER),
        )

    def _decide(self) -> None:
        want, why = wanted(self._facts())
        if want is not self._work.wanted:
            self._work.want(want, why)

    async def _hold(self) -> None:
        """Have the worker process take nothing new while the machine asks for that, and go on afterwards."""
        if (held := self._guard.held) != self._held:
            self._held = held
            await self._desk.say({"order": "pause" if held else "resume"})

    def _part(self) -> Part:
        self._freeing.make_way()
        return self.member.part(worker_log.info)

    def _process_ended(self) -> None:
        self._rest = asyncio.create_task(self._freeing.tell_rest())

    def _doors(self) -> Doors:
        return Doors(signer=Signer(self.home.credentials))

    def _address(self) -> str | None:
        return None if self.member.kept.pull else self.member.scheduler

    def _report(self, report: WorkerReport) -> None:
        self._tally.heard((*report.running, *report.finished), datetime.now(UTC))

    def _beat(self) -> Mapping[str, Any]:
        """The body of a heartbeat."""
        facts = replace(self._facts(), away=None, refused=None)
        state, _ = judged(facts)
        report = self._desk.report
        return {
            "status": _status(facts, state),
            "gpu_memory_used_gb": report.gpu_memory_used_gb,
            "running": len(report.running),
            "waiting": 0,
            "kv_cache": 0.0,
            "config_version": self.member.kept.config_version,
            "incarnation": self._incarnation,
            "paused_reason": self._guard.code or _paused_reason(facts) if state is AgentState.PAUSED else None,
            "gpu_info": {"refused": [{"job_id": one.job_id, "reason": one.reason} for one in report.refused[:TOLD]]},
        }


def _status(facts: Facts, state: AgentState) -> str:
    """The state as the grid knows it. Who drains says so even in a pause: it was told to, and obeys."""
    if facts.draining is not None or facts.leaving is not None:
        return "draining"
    return state.value


def _paused_reason(facts: Facts) -> str:
    """Why it takes nothing, for the grid: a word that says nothing more of its owner."""
    return PauseReason.OWNER if facts.paused or not facts.closed else "outside_working_hours"
