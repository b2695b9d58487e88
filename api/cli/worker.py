"""`idlegrid worker`, the same as `gpu-worker`: a donor's machine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated

import typer

from .config import ConfigFile
from .connect import Address
from .serve import say
from .settings import settings


def start(
    scheduler: Address = None,
    name: Annotated[
        str | None, typer.Option(help="Name of this worker.", show_default="configured or generated")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Region code.", show_default="configured")] = None,
    drain_timeout: Annotated[float, typer.Option(min=0, help="Seconds that a running job gets to finish.")] = 300.0,
    config: ConfigFile = None,
) -> None:
    """Work for a grid under this machine's limits.

    Ctrl-C or SIGTERM: finish what runs, then leave. Twice: leave now.
    """
    from ...scheduler_plugins.machine import local_donor
    from ..serving import serve_worker, stop_on_signals
    from .connect import default_address

    settings(config)  # its warnings are told here; the donor reads it again
    donor = local_donor(name, config_path=config)
    donor = replace(donor, name=name or donor.name, region=region or donor.region)
    address = scheduler or default_address()

    async def run() -> None:
        await serve_worker(address, donor, stop_on_signals(say), say, drain_timeout=drain_timeout)

    asyncio.run(run())
