"""TLS on the Dask network as the settings have it: where the certificates lie, and which one this process shows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..grid.certificate_files import NoCertificate, Paper, renew
from ..grid.config import Settings, load_settings
from ..grid.peers import Role
from ..grid.secret import default_file

if TYPE_CHECKING:  # brings Dask
    from ..scheduler_plugins.security import GridSecurity

logger = logging.getLogger(__name__)

SCHEME = "tls://"
_LOADER = "distributed.client.security-loader"
LOOK_EVERY = 600.0
"""Seconds between two looks at whether a certificate is due."""


def folder_of(settings: Settings) -> Path:
    """Where certificates lie, and the CA where they are made: beside the grid's secret unless told otherwise."""
    named = settings.scheduler.tls_folder
    if named is not None:
        return named.expanduser()
    return (settings.database.secret_file or default_file()).parent / "tls"


def scheme_of(settings: Settings) -> str:
    """Of addresses on this grid's Dask network."""
    return SCHEME if settings.scheduler.tls else "tcp://"


def security_for(address: str, role: Role, settings: Settings | None = None) -> GridSecurity | None:
    """What this process shows at `address` as `role`, for Dask's `security=`.

    None for an address without TLS, and for a grid whose certificates somebody else made and gave to Dask's own
    settings (``distributed.comm.tls``). `settings` None: loaded if they are needed. Raises NoCertificate.
    """
    if not address.startswith(SCHEME):
        return None
    settings = settings or load_settings().settings
    if not settings.scheduler.tls and _dask_has_its_own():
        return None
    from ..scheduler_plugins.security import GridSecurity

    return GridSecurity(certificate(settings, role, role.value), role, address)


def worker_paper(address: str, settings: Settings) -> Paper | None:
    """The certificate of a worker that an operator gave one, for a scheduler with TLS. Raises NoCertificate."""
    if not address.startswith(SCHEME) or (not settings.scheduler.tls and _dask_has_its_own()):
        return None
    return certificate(settings, Role.WORKER, Role.WORKER)


def certificate(settings: Settings, role: Role, name: str) -> Paper:
    """The certificate of `name`: the one that lies there, or a new one where the CA is. Raises NoCertificate."""
    found = role in (Role.SCHEDULER, Role.API)  # not by whoever only looks for a grid
    return renew(folder_of(settings), role, name, datetime.now(UTC), file=file_of(role, name), found=found)


def _dask_has_its_own() -> bool:
    import dask

    return bool(dask.config.get("distributed.comm.tls.client.cert", None))


_speaker: tuple[Role, Settings | None] = (Role.CLIENT, None)


def speak_as(role: Role, settings: Settings | None = None) -> None:
    """Have every Dask client that this process makes without a `security=` of its own show the certificate of `role`.

    A loader that somebody else told Dask of stays. `settings` None: loaded when a grid with TLS is spoken to.
    """
    global _speaker  # a process has one role
    import dask

    _speaker = (role, settings)
    if not dask.config.get(_LOADER, None):
        dask.config.set({_LOADER: f"{__name__}.load_security"})


def load_security(info: Mapping[str, Any]) -> GridSecurity | None:
    """Called by Dask for a new client. Raises NoCertificate."""
    role, settings = _speaker
    return security_for(info["address"], role, settings)


def own_security(address: str) -> GridSecurity | None:
    """What this process shows at `address`, in the role that it has. Raises NoCertificate."""
    return load_security({"address": address})


def via(security: Any) -> dict[str, Any]:
    """A `security` as options of Dask's `rpc`."""
    return {} if security is None else {"connection_args": security.get_connection_args("client")}


@contextlib.asynccontextmanager
async def kept_fresh(settings: Settings, *holders: tuple[Role, str]) -> AsyncIterator[None]:
    """While the context is open, certificates (role and name) are replaced before they run out, if TLS is on."""
    if not settings.scheduler.tls:
        yield
        return
    task = asyncio.create_task(_keep(settings, holders))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _keep(settings: Settings, holders: tuple[tuple[Role, str], ...]) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY)
        for role, name in holders:
            try:
                await asyncio.to_thread(certificate, settings, role, name)
            except (NoCertificate, OSError) as error:
                logger.error("the certificate of %s can't be renewed: %s", name, error)


def file_of(role: Role, name: str) -> str:
    """Name of a certificate's file, without its ending."""
    return role.value if name == role.value else f"{role.value}-{name}"
