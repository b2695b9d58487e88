"""The grid that a command works on: one that runs, or one of its own on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from .output import tell

if TYPE_CHECKING:
    from distributed import Client

    from ...grid.config import Settings


@contextmanager
def grid_for(
    scheduler: str | None, workers: int | None, regions: list[str] | None, values: Settings
) -> Iterator[Client]:
    """The grid to work on: the one named here or in the configuration, else one of our own on this machine."""
    address = scheduler or values.scheduler.address
    if address is not None:
        if workers is not None or regions is not None:
            raise typer.BadParameter(
                f"--workers and --region shape a grid that is started here; this job runs on {address}"
            )
        from ..links import connect

        with connect(address) as client:
            yield client
        return
    from ..grid import Grid

    with Grid(workers=workers, regions=regions, settings=values) as grid:
        tell(f"grid of this machine: {grid.dashboard_link}")
        yield grid.client
