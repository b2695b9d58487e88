"""``--preload idlegrid.scheduler_plugins.preload``: the rules for a stock scheduler, the facts for a stock worker.

The same module serves ``dask scheduler``, ``dask worker`` and ``dask-cuda-worker``. On a grid with TLS
(`scheduler.tls`) it is the gate of all of them too, and of a nanny that loads it (``--preload-nanny``).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import Scheduler, Worker

from ..grid.certificate_files import Paper
from ..grid.config import ConfigError, load_settings
from ..grid.donors import Donor
from ..grid.peers import Role
from . import gated_comm, private_api
from .donor_plugin import DonorPlugin
from .gate import Gate
from .machine import local_donor
from .scheduler import attach


async def dask_setup(server: Any) -> None:
    """Called by Dask with the scheduler, the worker or the nanny that was told to load this module."""
    if load_settings().settings.scheduler.tls:
        guard(server)
    if isinstance(server, Scheduler):
        attach(server)
    elif isinstance(server, Worker):
        own_name = None if server.name in (None, "", server.address) else str(server.name)
        donor = local_donor(own_name)
        await server.plugin_add(DonorPlugin(certified_as(server, donor)), catch_errors=False)


def guard(server: Any) -> None:
    """Gate the connections of a stock process. Raises RuntimeError on another release of distributed, and without
    TLS.
    """
    private_api.check()
    if not server.address.startswith("tls://"):
        raise RuntimeError(f"scheduler.tls is on, and {server.address} has no TLS: start it with --tls-ca-file …")
    scheduler = isinstance(server, Scheduler)
    gated_comm.default_gate = Gate(
        Role.SCHEDULER if scheduler else Role.WORKER, None if scheduler else server.scheduler.address
    )


def certified_as(worker: Any, donor: Donor) -> Donor:
    """A donor by the name in its worker's certificate: the gate hears it as nobody else. Raises NoCertificate."""
    if gated_comm.default_gate is None:
        return donor
    name = Paper(Path(worker.security.tls_worker_cert)).holder
    return donor if donor.id == name else replace(donor, id=f"{name}/{donor.id}")


def _close_until_known() -> None:
    """Dask listens before it calls us: until we know who we are, nobody is heard."""
    with suppress(ConfigError):  # told by whoever needs the settings
        if load_settings().settings.scheduler.tls:
            gated_comm.install()
            gated_comm.default_gate = Gate(Role.CLIENT)


_close_until_known()
