"""The HTTP service of a grid, for commands that speak with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .settings import settings

if TYPE_CHECKING:
    from ..client import GridClient

PATIENCE = 5.0
"""Seconds for which a command goes on trying while the service is away."""


@contextmanager
def service(url: str | None, api_key: str | None, config: Path | None) -> Iterator[GridClient]:
    """The SDK, for the service that is named or configured. Raises Unavailable, with what to do, where none answers."""
    from ..client import GridClient, Unavailable

    values = settings(config)
    base = url or values.service_url
    key = api_key or values.api.key or ""
    server = values.server
    try:
        with GridClient(base, key, timeout=server.timeout, retry_for=PATIENCE, verify=server.verify_ssl) as client:
            yield client
    except Unavailable as error:
        raise Unavailable(
            f"{error}. Does `idlegrid up` run there? --url or server.url names another address, api.port another port"
        ) from error
