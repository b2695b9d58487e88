"""Follows the desired state: brings a service of language models in line with the store's deployments, and reports.

Of all processes on one store, the one with the lease `SERVING` serves; the others know where it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ..grid.deployments import DeploymentReport, DeploymentState
from ..grid.store import SERVING, DeploymentRecord, Lease, Store, StoreUnavailable
from ..pipelines.llm.deployment import Deployment
from ..pipelines.llm.service import LlmService, Served
from .desired import Change, Scale, Step, Withdraw, deployment_of, report_of, steps
from .http.oracle import Silent

T = TypeVar("T")
logger = logging.getLogger(__name__)

EVERY = 0.5
"""Seconds between two looks at the store."""
LEASE = 10.0
"""Seconds after which another process may serve when nothing is heard of the one that did."""
RENEW = 2.5
"""Seconds after which the lease is prolonged."""
WRITE_EVERY = 1.0
"""Seconds between two reports that differ in words alone."""
SHOW_EVERY = 3.0
"""Seconds after which the scheduler is told again what it was told."""


class Board(Protocol):
    """Who shows what is deployed: the scheduler, with its page."""

    async def deployed(self, holder: str, deployments: Sequence[Mapping[str, Any]]) -> None:
        """What one process serves now. Raises Silent."""
        ...


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another process serves the deployments."""

    holder: str
    place: str | None
    """Base URL at which it is reached. None: it did not say."""
    models: tuple[str, ...]
    """That are wanted."""


class Follower:
    """Keeps one service as the store wants it, as far as this process is the one that serves. One event loop's.

    While the database is away, what is served goes on. Models that this process was told to serve itself (`own`) it
    serves whether it holds the lease or not.
    """

    def __init__(
        self,
        store: Store,
        service: LlmService,
        holder: str,
        *,
        own: Iterable[Deployment] = (),
        board: Board | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`own`: deployments that the service has already. `holder`: a name that no other process has."""
        self.holder = holder
        self.elsewhere: Elsewhere | None = None
        """Who serves the deployments, if it is another process."""
        self._store, self._service, self._board, self._clock = store, service, board, clock
        self._own = {deployment.model: deployment for deployment in own}
        self._served = dict(self._own)
        self._refused: dict[str, str] = {}
        self._place: str | None = None
        self._lease: Lease | None = None
        self._renewed = self._shown_at = float("-inf")
        self._shown: list[dict[str, Any]] = []
        self._reported: dict[str, tuple[float, DeploymentReport]] = {}
        self._away = False
        self._new = True
        self._settled = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, place: str | None) -> None:
        """Begin. `place`: base URL at which other processes of the grid reach this one; None: they can't."""
        self._place = place
        self._tasks = [
            asyncio.create_task(self._run(), name="idlegrid-follower"),
            asyncio.create_task(self._show_all(), name="idlegrid-follower-board"),
        ]

    async def close(self) -> None:
        """End all replicas, then let another process serve. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._service.close()
        if self._lease is not None:
            self._lease = None
            with suppress(StoreUnavailable):
                await self._call(self._store.leases.release, SERVING, self.holder)

    @property
    def serving(self) -> bool:
        """Whether this process serves the store's deployments, as far as it knows."""
        return self._lease is not None

    @property
    def settled(self) -> bool:
        """Whether it serves them, and has taken all that is wanted: a model that is not here then is nowhere."""
        return self._lease is not None and self._settled

    async def look(self) -> None:
        """One look: who serves, what is wanted, what is there. Raises StoreUnavailable."""
        await self._hold()
        records = await self._call(self._store.deployments.list)
        held = self._lease is not None
        await self._follow(records)
        self._settled = held
        await self._report(records)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
                self._away = False
            except StoreUnavailable as error:
                if not self._away:  # said once
                    logger.warning("deployments can't be followed now, what is served goes on: %s", error)
                self._away = True
            except Exception:
                logger.exception("following the deployments failed")
            await asyncio.sleep(EVERY)

    async def _show_all(self) -> None:
        while True:  # beside: a scheduler that is away keeps nobody waiting
            try:
                await self.show()
            except Exception:
                logger.exception("telling what is served failed")
            await asyncio.sleep(EVERY)

    async def _call(self, what: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(what, *args)

    async def _hold(self) -> None:
        """Take or keep the lease, or learn who has it."""
        now = self._clock()
        if self._lease is not None and now - self._renewed < RENEW:
            return
        held = await self._call(self._store.leases.hold, SERVING, self.holder, LEASE, self._place)
        if held is None and self._new and await self._before_us():
            held = await self._call(self._store.leases.hold, SERVING, self.holder, LEASE, self._place)
        self._new = False
        if held is not None and (self._lease is None or held.fence != self._lease.fence):
            self._reported.clear()
            logger.info("this process serves the deployments from now on")
        elif held is None and self._lease is not None:
            logger.warning("another process serves the deployments by now: this one stops")
        self._lease, self._renewed = held, now

    async def _before_us(self) -> bool:
        """Whether the holder is gone for certain: it listened where this process listens now. Its lease is ended."""
        lease = await self._call(self._store.leases.look, SERVING)
        if lease is None or self._place is None or lease.place != self._place:
            return False
        return await self._call(self._store.leases.release, SERVING, lease.holder)

    async def _follow(self, records: Sequence[DeploymentRecord]) -> None:
        wanted = dict(self._own)
        self._refused.clear()
        if self._lease is not None:
            self.elsewhere = None
            for spec in (one.spec for one in records if one.wanted):
                try:
                    wanted[spec.model] = deployment_of(spec)
                except ValueError as error:
                    self._refused[spec.model] = str(error)
        else:
            lease = await self._call(self._store.leases.look, SERVING)
            models = tuple(one.spec.model for one in records if one.wanted)
            known = lease is not None and lease.held and lease.holder != self.holder
            self.elsewhere = Elsewhere(lease.holder, lease.place, models) if known and lease else None
        for step in steps(self._served, wanted):
            await self._take(step)

    async def _take(self, step: Step) -> None:
        if isinstance(step, Withdraw):
            logger.info("%s is not served as it was any more", step.model)
            del self._served[step.model]
            await self._service.withdraw(step.model)
        elif isinstance(step, Scale):
            self._service.scale(step.model, step.replicas)
            self._served[step.model] = replace(self._served[step.model], replicas=step.replicas)
        elif isinstance(step, Change):
            logger.info("%s is to be served in another way", step.deployment.model)
            self._service.change(step.deployment)
            self._served[step.deployment.model] = step.deployment
        else:
            deployment = step.deployment
            try:
                self._service.deploy(deployment)
            except ValueError as error:
                self._refused[deployment.model] = str(error)
            else:
                logger.info("%s is served by %d replicas", deployment.model, deployment.replicas)
                self._served[deployment.model] = deployment

    async def _report(self, records: Sequence[DeploymentRecord]) -> None:
        """Write what changed; forget what is withdrawn and gone."""
        lease, now = self._lease, self._clock()
        if lease is None:
            return
        told = {one.id: one for one in await self._service.models()}
        for record in records:
            model = record.spec.model
            if not record.wanted:
                await self._call(self._store.deployments.gone, model, lease.fence)
                self._reported.pop(model, None)
                continue
            if model in self._refused:
                report = DeploymentReport(
                    state=DeploymentState.REFUSED, version=record.version, why=self._refused[model]
                )
            else:
                report = report_of(told[model], record.version)
            at, before = self._reported.get(model, (float("-inf"), None))
            if _news(before, report) or (report != before and now - at >= WRITE_EVERY):
                await self._call(self._store.deployments.report, model, report, lease.fence)
                self._reported[model] = (now, report)

    async def show(self) -> None:
        """Tell the scheduler what this process serves, for its page, unless it knows."""
        if self._board is None:
            return
        told = [_shown(one) for one in await self._service.models()]
        now = self._clock()
        due = now - self._shown_at >= SHOW_EVERY and (told or self._shown)
        if not due and told == self._shown:
            return
        with suppress(Silent):
            await self._board.deployed(self.holder, told)
            self._shown, self._shown_at = told, now


def _news(before: DeploymentReport | None, now: DeploymentReport) -> bool:
    """Whether more changed than words and counters."""
    return before is None or replace(before, why="", losses=0) != replace(now, why="", losses=0)


def _shown(served: Served) -> dict[str, Any]:
    report = report_of(served, 0)
    return {"model": served.id, "replicas": served.replicas, **report.to_wire()}
