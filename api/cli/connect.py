"""A client of a grid that runs, for commands that ask it something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distributed import Client

Address = Annotated[
    str | None,
    typer.Option("--scheduler", "-s", help="Scheduler to connect to.", show_default="scheduler.address of the config"),
]


@contextmanager
def connected(address: str | None, *, timeout: float = 5.0) -> Iterator[Client]:
    """A Dask client of the grid at `address`; closed in the end. Raises ConnectionError when nobody answers."""
    from distributed import Client

    where = address or default_address()
    try:
        client = Client(where, timeout=timeout, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ConnectionError(
            f"no grid answers at {where} within {timeout:g} s; start one with `idlegrid up`, or give its address with "
            "--scheduler"
        ) from error
    try:
        yield client
    finally:
        client.close()


def default_address() -> str:
    """The configured scheduler, or this machine's."""
    from ...grid.config import load_settings

    settings = load_settings().settings
    return settings.scheduler.address or f"tcp://127.0.0.1:{settings.scheduler.port}"
