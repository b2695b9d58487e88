"""The way to a grid that runs: a Dask client of it, what it says of itself, and the address of its page."""

from __future__ import annotations

from typing import Any

from distributed import Client
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.core import FatalCommClosedError
from distributed.comm.registry import get_backend
from distributed.utils import format_dashboard_link

from ..grid.certificate_files import NoCertificate
from ..grid.config import Settings
from ..grid.peers import Role
from .tls import speak_as

PATIENCE = 5.0
"""Seconds that a scheduler has to answer."""


def connect(address: str, *, timeout: float = PATIENCE, settings: Settings | None = None, **options: Any) -> Client:
    """A Dask client of the scheduler at `address`; `options` are Client's. Raises ConnectionError: nobody answers.

    With `asynchronous=True` the client comes unconnected: enter it, or await it. `settings` say where the certificates
    for a ``tls://`` address lie; None: they are loaded if that is to be known.
    """
    speak_as(Role.CLIENT, settings)
    try:
        _check(address)  # before there is a client: one that fails so early can be waited for without end
        return Client(address, timeout=timeout, **options)
    except NoCertificate as error:
        raise ConnectionError(f"{address} can't be connected to: {error}") from None
    except (OSError, TimeoutError, ValueError) as error:
        raise unreachable(address, timeout, error) from None


def _check(address: str) -> None:
    """Raise ValueError when this can't be the address of a scheduler."""
    scheme, place = parse_address(address)
    get_backend(scheme)
    if scheme != "inproc":
        parse_host_port(place)


def unreachable(address: str, timeout: float, error: Exception) -> ConnectionError:
    """What it means that a client could not be connected."""
    if isinstance(error, ValueError):
        return ConnectionError(f"{address!r} is not the address of a scheduler ({error}); it is like tcp://host:8786")
    if isinstance(error, FatalCommClosedError):
        return ConnectionError(
            f"what answers at {address} has no certificate of the CA that is known here, or refuses ours; make one "
            "with `idlegrid admin certificate` where the grid runs"
        )
    return ConnectionError(
        f"no grid answers at {address} within {timeout:g} s; start one with `idlegrid up`, or name the address of "
        "one that runs"
    )


def ask(client: Client, operation: str, **arguments: Any) -> dict[str, Any]:
    """The answer of one of the scheduler's own handlers: ``grid_state``, ``grid_why`` or ``grid_control``.

    Raises ConnectionError when the scheduler is a plain one of Dask, or is gone.
    """
    answer: dict[str, Any] | None = client.sync(getattr(client.scheduler, operation), **arguments)
    if answer is None:  # Dask's own scheduler hangs up on what it does not know
        raise ConnectionError(
            f"the scheduler at {client.scheduler.address} does not know the grid's rules; start it with `idlegrid "
            "scheduler`, or with --preload idlegrid.scheduler_plugins.preload"
        )
    return answer


def page_of(dashboard: str | None) -> str | None:
    """Address of the grid's page, from that of Dask's dashboard; None without one."""
    from ..scheduler_plugins.page import ROUTE  # brings Bokeh, which no worker needs

    return None if dashboard is None else dashboard.removesuffix("/status") + ROUTE


def page_at(scheduler: Any) -> str | None:
    """Address of the grid's page of a scheduler that runs in this process."""
    host = scheduler.address.rpartition("://")[2].rpartition(":")[0]
    return page_of(format_dashboard_link(host, scheduler.http_server.port))
