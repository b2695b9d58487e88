"""What the doors for durable jobs share: the store, asked from an event loop, the rules' inputs, and the limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from ...grid.client_region import GeoIP, Locator, NetworkTable, region_of
from ...grid.config import Settings
from ...grid.job_types import UnknownJobTypeError, job_type
from ...grid.jobs import Ask, JobRecord
from ...grid.store import ApiKey, Store
from ...grid.tenants import Salts
from ..fetching import Fetched, Fetcher
from .oracle import NoOracle, Oracle
from .problems import Problem

P = ParamSpec("P")
T = TypeVar("T")

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
WATCHERS = 512
"""Requests of one process that may wait for events at the same time; each has a thread of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the doors hold a request, in seconds."""

    sync: float = 600.0
    """`/jobs/sync` at most, whatever its `timeout`."""
    pull: float = 60.0
    """`next-job` at most, whatever its `wait`."""
    stream: float = 3600.0
    """A stream of events; then the client resumes it."""
    heartbeat: float = 15.0
    """Between two signs of life of a stream."""
    look: float = 0.25
    """Between two looks at the queue for workers that ask; what this process took in, they hear of at once."""


class JobDoor:
    """The store and what is known around it, for the routes of jobs. One a process; of no use after `close`."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        secret: bytes,
        oracle: Oracle | None = None,
        patience: Patience | None = None,
        scheduler: str | None = None,
        fetcher: Fetched | None = None,
    ) -> None:
        """`secret` signs the capabilities of workers: the same for every process of a grid. `scheduler`: its address,
        which workers that register are told. `fetcher`: who fetches what clients name; None: as the settings say.

        Raises FileNotFoundError and ValueError on a GeoIP file that is none.
        """
        self.store, self.settings, self.secret = store, settings, secret
        self.oracle: Oracle = oracle or NoOracle()
        self.salts = Salts(secret, settings.api.share_prefixes)
        self.scheduler = scheduler
        self.fetcher: Fetched = fetcher or Fetcher.from_settings(settings.fetch)
        self.patience = patience or Patience(sync=settings.api.generation_timeout)
        path = settings.regions.geoip_path
        self._geoip = GeoIP(path) if path is not None else None
        self._locators: tuple[Locator | None, ...] = (NetworkTable(settings.regions.networks), self._geoip)
        self._threads = CapacityLimiter(settings.database.pool_size)
        self._watchers = CapacityLimiter(WATCHERS)
        self._on_work: list[Callable[[], None]] = []
        self._on_end: list[Callable[[], None]] = []
        self.ending = asyncio.Event()
        """The service ends: whoever waits for something is answered now, as if the time were over."""

    async def call(self, what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A method of the store, in a thread: at most as many at once as it has connections."""
        return await to_thread.run_sync(lambda: what(*args, **kwargs), limiter=self._threads)

    def on_work(self, told: Callable[[], None]) -> None:
        """Have `told` called, on the loop, whenever this process has taken in a job."""
        self._on_work.append(told)

    def took_in(self) -> None:
        """A job waits now."""
        for told in self._on_work:
            told()

    def end_waits(self) -> None:
        """Answer everybody who waits, so that the service can end. To be called on the loop."""
        self.ending.set()
        for told in self._on_end:
            told()

    def on_end(self, told: Callable[[], None]) -> None:
        """Have `told` called, on the loop, when nobody is to wait any more."""
        self._on_end.append(told)

    async def rest(self, seconds: float) -> None:
        """Wait so long; less when the service ends."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)

    async def wait_for_event(self, job_id: str, seq: int, timeout: float) -> bool:  # noqa: ASYNC109 - of the store
        """Whether the job has an event after `seq`, within `timeout` seconds and before the service ends."""
        heard = asyncio.ensure_future(
            to_thread.run_sync(
                self.store.events.wait, job_id, seq, timeout, limiter=self._watchers, abandon_on_cancel=True
            )
        )
        ending = asyncio.ensure_future(self.ending.wait())
        try:
            await asyncio.wait((heard, ending), return_when=asyncio.FIRST_COMPLETED)
            return heard.done() and heard.result()
        finally:
            heard.cancel()
            ending.cancel()

    async def find_key(self, secret: str) -> ApiKey | None:
        """The API key behind a secret."""
        return await self.call(self.store.keys.find, secret)

    async def job(self, job_id: str, sees: str | None, *, with_result: bool = False) -> JobRecord:
        """A job of this client (None: anybody's). Raises Problem 404, the same for a stranger's as for none."""
        record = None
        if _JOB_ID.fullmatch(job_id):
            record = await self.call(self.store.jobs.get, job_id, client_id=sees, with_result=with_result)
        if record is None:
            raise job_not_found()
        return record

    async def check(self) -> None:
        """Raise StoreUnavailable when the database doesn't answer."""
        await self.call(self.store.check)

    def region_of(self, address: str | None) -> str | None:
        """Region of a client by its address. None: not known."""
        return region_of(address, *self._locators)

    def close(self) -> None:
        """Close what was opened here; the store is its opener's."""
        if self._geoip is not None:
            self._geoip.close()


def is_job_id(text: str) -> bool:
    """Whether it may be a job's id at all: whatever else a client sends never reaches the database."""
    return _JOB_ID.fullmatch(text) is not None


def job_not_found() -> Problem:
    """404, of a job that never was, that was deleted, or that is somebody else's."""
    return Problem("job_not_found", "There is no such job of yours: the id is wrong, or the job was deleted long ago.")


def ask_of(job: JobRecord) -> Ask:
    """What placement must know of a stored job: what its type says of it, in its own region, without who failed."""
    ask = job.ask()
    with suppress(UnknownJobTypeError, ValueError):  # a type that was uninstalled since: what the job itself says
        kind = job_type(job.type)
        ask = kind.ask(kind.Params.model_validate(dict(job.params)))
    return replace(
        ask, region=job.region, allow_cross_region=job.allow_cross_region, excluded=ask.excluded | job.excluded
    )
