"""A donor's agent: keeps one worker process at work for a scheduler, and turns a signal into an orderly leave."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from distributed.core import rpc

from ..grid.certificate_files import NoCertificate
from ..grid.donors import Donor
from ..scheduler_plugins.machine import VARIABLE as DONOR
from ..scheduler_plugins.machine import to_variable
from ..scheduler_plugins.security import VARIABLE as CERTIFICATE
from ..scheduler_plugins.security import worker_security
from .links import PATIENCE, unreachable
from .local import KEEPS_MEMORY, ONE_THREAD
from .supervision import Part, Supervised
from .tls import via

DRAIN_POLL = 0.2
"""Seconds between two looks at what a leaving worker still runs."""
PARTING = 20.0
"""Seconds that a worker has to leave on top of what its running work gets."""


async def serve_worker(
    address: str, donor: Donor, stop: asyncio.Event, *, drain_timeout: float, certificate: Path | None = None
) -> None:
    """One worker process for the scheduler at `address`, until `stop`: then it finishes what runs, and leaves.

    A worker that ends is started again, whatever its exit code; a scheduler that goes away is waited for. After
    `drain_timeout` seconds it leaves even if something still runs. `certificate`: its file, for a scheduler with TLS.
    Raises ConnectionError when no scheduler answers at first.
    """
    await find(address, certificate=certificate)
    environment = {} if certificate is None else {CERTIFICATE: str(certificate)}
    part = worker_part(address, donor, drain_timeout=drain_timeout, environment=environment, quiet=False)
    await Supervised(part).run(stop)


async def serve_puller(
    urls: Sequence[str], donor: Donor, token: str, stop: asyncio.Event, *, drain_timeout: float
) -> None:
    """One worker process that asks the service at `urls` for jobs, until `stop`. Raises CannotStart: it is refused."""
    part = puller_part(
        urls, donor, drain_timeout=drain_timeout, environment={"IDLEGRID_API_WORKER_TOKEN": token}, must_start=True
    )
    await Supervised(part).run(stop)


def puller_part(
    urls: Sequence[str],
    donor: Donor,
    *,
    drain_timeout: float,
    environment: dict[str, str],
    tell: Callable[[str], None] | None = None,
    must_start: bool = False,
) -> Part:
    """The process that asks the service at `urls` for work as `donor`, for a supervisor."""
    return Part(
        f"worker {donor.name}",
        (sys.executable, "-m", "idlegrid.api.pull_process", *urls),
        ONE_THREAD | KEEPS_MEMORY | environment | {DONOR: to_variable(donor)},
        grace=drain_timeout + PARTING,
        quiet=False,
        tell=tell,
        must_start=must_start,
    )


def worker_part(
    address: str,
    donor: Donor,
    *,
    drain_timeout: float,
    environment: dict[str, str] | None = None,
    memory_limit: int | None = None,
    host: str | None = None,
    quiet: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Part:
    """The process that works as `donor`, for a supervisor."""
    options = ["--drain-timeout", f"{drain_timeout:g}"]
    if memory_limit is not None:
        options += ["--memory-limit", str(memory_limit)]
    if host is not None:
        options += ["--host", host]
    return Part(
        f"worker {donor.name}",
        (sys.executable, "-m", "idlegrid.api.worker_process", address, *options),
        ONE_THREAD | KEEPS_MEMORY | (environment or {}) | {DONOR: to_variable(donor)},
        grace=drain_timeout + PARTING,
        memory_limit=memory_limit,
        quiet=quiet,
        tell=tell,
        must_start=False,
    )


async def find(address: str, patience: float = PATIENCE, certificate: Path | None = None) -> None:
    """Return when a scheduler answers at `address`; raises ConnectionError after `patience` seconds, and at once
    without a certificate for it (`worker_security`).
    """
    try:
        shown = via(worker_security(address, certificate))
        async with asyncio.timeout(patience), rpc(address, **shown) as scheduler:
            await scheduler.identity(n_workers=0)
    except NoCertificate as error:
        raise ConnectionError(f"{address} can't be connected to: {error}") from None
    except (OSError, TimeoutError, ValueError) as error:
        raise unreachable(address, patience, error) from None


async def find_again(address: str, every: float) -> None:
    """Return when a scheduler answers at `address`, however long that takes."""
    while True:
        with contextlib.suppress(ConnectionError):
            return await find(address)
        await asyncio.sleep(every)


async def first_of(*things: Awaitable[Any]) -> None:
    """Wait for the first of some things; the others are given up. Raises what that one raises."""
    tasks = [asyncio.ensure_future(thing) for thing in things]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def leave(address: str, donor_id: str, worker: str, *, patience: float) -> None:
    """Have nothing more sent, wait until nothing runs (at most `patience` s), then retire the worker."""
    async with rpc(address, **via(worker_security(address))) as scheduler:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(patience):
                await scheduler.grid_control(donor=donor_id, action="drain")
                while (await scheduler.processing(workers=[worker]))[worker]:  # noqa: ASYNC110 - another process's
                    await asyncio.sleep(DRAIN_POLL)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(10):
                await scheduler.retire_workers(workers=[worker])
