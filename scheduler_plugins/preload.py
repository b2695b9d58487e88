"""``--preload idlegrid.scheduler_plugins.preload``: the rules for a stock scheduler, the facts for a stock worker.

The same module serves ``dask scheduler``, ``dask worker`` and ``dask-cuda-worker``.
"""

from __future__ import annotations

from typing import Any

from distributed import Scheduler, Worker

from .donor_plugin import DonorPlugin
from .machine import local_donor
from .scheduler import attach


async def dask_setup(server: Any) -> None:
    """Called by Dask with the scheduler or the worker that was told to load this module; a nanny has nothing to do."""
    if isinstance(server, Scheduler):
        attach(server)
    elif isinstance(server, Worker):
        own_name = None if server.name in (None, "", server.address) else str(server.name)
        await server.plugin_add(DonorPlugin(local_donor(own_name)), catch_errors=False)
