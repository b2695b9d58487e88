"""Where something beside a Dask worker listens, and with which TLS: as the worker itself does."""

from __future__ import annotations

import ssl
from typing import Any


def host_of(address: str) -> str:
    """The host of a worker's address: loopback for one that listens nowhere else."""
    protocol, _, rest = address.rpartition("://")
    host = rest.rpartition(":")[0].strip("[]")
    return host if protocol in ("tcp", "tls") and host else "127.0.0.1"


def listener_tls(worker: Any) -> ssl.SSLContext | None:
    """For who listens: what is beside a worker is as private as Dask's own connections are."""
    return _context(worker, worker.security.get_listen_args("worker"))


def client_tls(worker: Any) -> ssl.SSLContext | None:
    """For who connects to what is beside another worker."""
    return _context(worker, worker.security.get_connection_args("worker"))


def _context(worker: Any, arguments: dict[str, Any]) -> ssl.SSLContext | None:
    if not worker.address.startswith("tls://"):
        return None
    context: ssl.SSLContext = arguments["ssl_context"]
    return context
