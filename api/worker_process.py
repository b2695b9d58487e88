"""One worker process: works for a scheduler until it is told to leave or the scheduler goes. Supervised, never alone.

``python -m idlegrid.api.worker_process ADDRESS``; who it is stands in the environment variable `IDLEGRID_DONOR`, and
`IDLEGRID_ORDERS` names the socket of its agent, if it has one (`donor.orders`).

*Measured*: a Dask worker whose scheduler dies closes itself, and waits for half a minute for the task that it runs; all
this time it is nobody's worker and keeps its device. So this process decides itself: it lets durable attempts finish,
since they tell their end over HTTP and need no scheduler, and then ends for good. Its supervisor starts the next one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .parent import tie_to_parent

if TYPE_CHECKING:
    from ..grid.donors import Donor
    from ..pipelines.dispatch.desk import Desk
    from ..pipelines.dispatch.slots import SlotGuard
    from ..scheduler_plugins.donor_plugin import DonorPlugin

SPOOL_PATIENCE = 5.0
"""Seconds that a worker which leaves takes to deliver what is in its spool; the rest stays on disk."""
LOOK_EVERY = 0.1
FIND_EVERY = 0.5
"""Seconds between two looks for a scheduler."""
START_PATIENCE = 30.0
"""Seconds that a scheduler has to take a worker in."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What this process was told when it was started."""

    address: str
    """Of the scheduler."""
    host: str | None
    """To listen on. None: where the scheduler is reached from."""
    memory_limit: str
    """Bytes, or ``auto``, as Dask has it."""
    drain_timeout: float
    """Seconds that running work gets to finish after SIGTERM."""


def main(words: Sequence[str] | None = None) -> None:
    """Entry point. Ends with code 0 whatever happened: to be started again is the supervisor's business."""
    tie_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which says SIGTERM in its own time
    asyncio.run(_worked(_orders(words)))


async def _worked(orders: Orders) -> None:
    """Work, then end at once: not through threads that still compute, nor through what Dask still waits for."""
    await _work(orders)
    sys.stdout.flush()
    os._exit(0)


def _orders(words: Sequence[str] | None) -> Orders:
    parser = argparse.ArgumentParser(prog="idlegrid-worker-process")
    parser.add_argument("address")
    parser.add_argument("--host")
    parser.add_argument("--memory-limit", default="auto")
    parser.add_argument("--drain-timeout", type=float, default=300.0)
    return Orders(**vars(parser.parse_args(words)))


async def _work(orders: Orders) -> None:
    from ..pipelines.dispatch.desk import desk
    from ..scheduler_plugins.machine import local_donor
    from .agent import find_again, first_of
    from .donor.direct_places import open_direct
    from .donor.warming import warm
    from .signals import quiet

    quiet()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    donor = local_donor(None)
    own = desk(donor.id)  # what an earlier process left is told now
    await asyncio.to_thread(warm, stop.is_set)
    await first_of(stop.wait(), find_again(orders.address, FIND_EVERY))
    if stop.is_set():
        return
    worker, plugin = _worker(orders, donor, own)
    try:
        async with asyncio.timeout(START_PATIENCE):
            await worker
    except (OSError, TimeoutError, RuntimeError):  # the scheduler went just now: the next process looks again
        return
    print(f"{donor.name} works for {orders.address} in {donor.region}", flush=True)
    if own.slots is not None:
        await asyncio.to_thread(open_direct, own, own.slots, plugin.elsewhere)
    await first_of(stop.wait(), _closed(worker))
    if not stop.is_set():
        print(f"the scheduler at {orders.address} is gone: looking for it", flush=True)
        await first_of(stop.wait(), asyncio.to_thread(own.finish, None))
    if stop.is_set():
        await _leave(orders, donor, worker, own)
    await asyncio.to_thread(own.spool.flush, SPOOL_PATIENCE)


async def _leave(orders: Orders, donor: Donor, worker: Any, own: Desk) -> None:
    """Take nothing new, finish what runs if it ends in time, go."""
    from .agent import leave

    ends = time.monotonic() + orders.drain_timeout
    await leave(orders.address, donor.id, worker.address, patience=orders.drain_timeout)
    await asyncio.to_thread(own.finish, max(0.0, ends - time.monotonic()))


def _worker(orders: Orders, donor: Donor, own: Desk) -> tuple[Any, DonorPlugin]:
    """A worker that obeys its owner's limits, and its agent's orders if it has one."""
    from ..pipelines.dispatch.guarded_worker import donor_lot, others_memory
    from ..pipelines.dispatch.slots import SlotGuard
    from ..scheduler_plugins.donor_plugin import DonorPlugin
    from .donor.hands import DaskHands
    from .donor.orders import taker

    plugin = DonorPlugin(donor)
    guard = own.slots = SlotGuard(donor, draw=donor_lot, memory=lambda: others_memory(plugin))
    worker = _dask_worker(orders, donor, plugin, guard)
    if (taken := taker(DaskHands(own, guard, worker=worker, plugin=plugin))) is not None:
        own.on_change(taken.changed)
    return worker, plugin


def _dask_worker(orders: Orders, donor: Donor, plugin: DonorPlugin, guard: SlotGuard) -> Any:
    from ..pipelines.dispatch.guarded_worker import GuardedWorker
    from ..scheduler_plugins.security import worker_security
    from .local import ChildManners

    return GuardedWorker(
        orders.address,
        guard=guard,
        name=donor.name,
        nthreads=donor.limits.max_concurrent_jobs,
        host=orders.host,
        security=worker_security(orders.address),
        memory_limit=orders.memory_limit,
        plugins=(plugin, ChildManners()),
        dashboard=False,
        silence_logs=logging.WARNING,
    )


async def _closed(worker: Any) -> None:
    """Return as soon as Dask begins to close the worker, whatever it still waits for."""
    from distributed.core import Status

    while worker.status in (Status.running, Status.paused, Status.init):  # noqa: ASYNC110 - Dask tells nobody
        await asyncio.sleep(LOOK_EVERY)


if __name__ == "__main__":
    main()
