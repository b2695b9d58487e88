"""The Dask actor that holds an engine's place on a worker: made by placement, asked to start and to stop, no more.

Everything else goes over the host's own channel: an actor call costs more than a token may, and passes the scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from distributed import get_worker

from ...grid.acceptance import standing
from ...grid.donors import Donor, Load
from ...grid.verdicts import Reason
from ..llm.engine_face import Engine
from ..llm.resident import lend, take_back
from ..pauses import keep_pauses_short
from ..worker_address import host_of, listener_tls
from .channel import Address
from .engines import EngineSpec, make_engine
from .host import Host
from .status import HostState

STOP_PATIENCE = 20.0
"""Seconds that an engine has to close."""
PLUGIN = "idlegrid-donor"
"""Name of the donor's plugin on its worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a replica came to live."""

    address: Address
    donor_id: str
    """Empty on a worker without our plugin."""
    worker: str
    """Dask's address of the worker."""


class HostThread:
    """A host on an event loop of its own, in a thread: Dask's loop keeps neither tokens waiting nor waits for them."""

    def __init__(self, host: Host, listen: str) -> None:
        """Starts at once. Raises OSError when it can't listen."""
        self._host, self._stop = host, asyncio.Event()
        started: Future[Address] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(listen, started)), name="idlegrid-host", daemon=True
        )
        self._thread.start()
        self.address = started.result()

    async def _live(self, listen: str, started: Future[Address]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            address = await self._host.start(listen)
        except Exception as error:  # noqa: BLE001 - whoever asked for the thread waits for an answer, whatever it is
            started.set_exception(error)
            return
        started.set_result(address)
        await self._stop.wait()
        await self._host.close()

    def tell_status(self) -> None:
        """Tell the host's clients at once how it is. From any thread."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._host.tell_status)

    def stop_soon(self) -> None:
        """Close the host and its engine, and end the thread. Waits for nothing: Dask's own loop calls this too."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stop.set)

    def ends_with(self, owner: object) -> None:
        """Close soon when nobody holds `owner` any more. Not when the process ends: threads can't be started then, and
        what an engine holds ends with it."""
        weakref.finalize(owner, self.stop_soon).atexit = False

    def join(self, patience: float = STOP_PATIENCE) -> None:
        """Wait until it has ended, but not for longer than `patience` seconds."""
        self._thread.join(patience)


class EngineActor:
    """One replica's place. Made and called through Dask; when Dask drops it, its host ends."""

    def __init__(self, spec: EngineSpec, epoch: int) -> None:
        """Loads nothing: that is for `start`, whose answer must not wait for it."""
        self._spec, self._epoch = spec, epoch
        self._worker = get_worker()
        self._thread: HostThread | None = None

    def start(self) -> Placed:
        """Listen, and begin to load. Returns at once; how the loading goes is told on the channel."""
        if self._thread is not None:
            raise RuntimeError("this replica was started already")
        worker, spec = self._worker, self._spec

        def changed(state: HostState) -> None:  # holds the host, but not this actor: when it is dropped, the host ends
            _share(spec, host.engine, state)
            _tell_donor(worker, spec.model, state)

        host = Host(
            partial(_make, spec),
            epoch=self._epoch,
            tls=listener_tls(worker),
            leaving=partial(leaving, worker),
            changed=changed,
        )
        self._thread = HostThread(host, host_of(worker.address))
        self._thread.ends_with(self)  # Dask dropped us: whoever wanted us is gone
        plugin = worker.plugins.get(PLUGIN)
        contact = worker.contact_address or worker.address
        return Placed(
            address=replace(self._thread.address, host=host_of(contact)),
            donor_id="" if plugin is None else plugin.donor.id,
            worker=contact,
        )

    def stop(self) -> None:
        """Close the engine; its readers go on elsewhere. Idempotent."""
        if self._thread is not None:
            self._thread.stop_soon()
            self._thread.join()


def _make(spec: EngineSpec) -> Engine:
    """The engine, not started: what it needs is imported, and no model is loaded yet."""
    engine = make_engine(spec)
    keep_pauses_short()
    return engine


def leaving(worker: Any) -> str:
    """Why the worker's donor takes nothing new: empty if it does, or if nothing is known of it."""
    plugin = worker.plugins.get(PLUGIN)
    if plugin is None:
        return ""
    donor: Donor = plugin.donor
    load = Load(paused=plugin.report.paused, draining=plugin.report.draining)
    verdict = standing(donor, load, datetime.now(UTC))
    stays = verdict or verdict.reason in (Reason.CONCURRENCY, Reason.HOURLY_CAP)  # of new work; this one is here
    return "" if stays else f"{verdict.reason}: {verdict.detail}"


def _share(spec: EngineSpec, engine: Engine | None, state: HostState) -> None:
    """Tasks on this worker use the engine, too, as long as it serves. On the host's loop."""
    if engine is not None and state is HostState.READY:
        lend(spec, engine)
    elif engine is not None:
        take_back(engine)


def _tell_donor(worker: Any, model: str, state: HostState) -> None:
    """The model is resident now, or is not any more: placement prefers donors that hold it."""
    plugin = worker.plugins.get(PLUGIN)
    tell: Callable[[str], None] | None = None
    if plugin is not None and state is HostState.READY:
        tell = plugin.loaded
    elif plugin is not None and state is HostState.CLOSING:
        tell = plugin.unloaded
    if tell is not None:
        worker.loop.add_callback(tell, model)
