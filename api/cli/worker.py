"""`idlegrid worker`, the same as `gpu-worker`: a donor's machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from .options import Address, ConfigFile
from .serve import serve
from .settings import scheduler_address, settings


def start(
    scheduler: Address = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of this worker.", show_default="configured or generated"),
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", "-r", metavar="CODE", help="Where it stands.", show_default="configured")
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time that running work gets to finish.")
    ] = 300.0,
    config: ConfigFile = None,
) -> None:
    """Work for a grid under this machine's limits.

    Ctrl-C or SIGTERM: finish what runs, then leave. Twice: leave now.
    """
    from ...scheduler_plugins.machine import local_donor
    from ..agent import serve_worker

    values = settings(config)
    donor = local_donor(name, config_path=config)
    donor = replace(donor, name=name or donor.name, region=region or donor.region)
    address = scheduler_address(scheduler, values)
    serve(lambda stop: serve_worker(address, donor, stop, drain_timeout=drain_timeout), "what runs is finished first")


def pull(
    url: Annotated[list[str], typer.Argument(metavar="URL...", help="Base URL of the grid's HTTP service.")],
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="What lets this worker in.", show_default="api.worker_token")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of this worker.", show_default="configured or generated"),
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", "-r", metavar="CODE", help="Where it stands.", show_default="configured")
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time that running work gets to finish.")
    ] = 300.0,
    config: ConfigFile = None,
) -> None:
    """Ask a grid for work over HTTP alone.

    For machines that can't be a Dask worker: behind NAT, or where nothing may be sent that runs as code. Ctrl-C or
    SIGTERM: finish what runs, then leave.
    """
    from ...scheduler_plugins.machine import local_donor
    from ..agent import serve_puller

    values = settings(config)
    donor = local_donor(name, config_path=config)
    donor = replace(donor, name=name or donor.name, region=region or donor.region)
    key = token or values.api.worker_token or ""
    urls = [one.rstrip("/") for one in url]
    serve(lambda stop: serve_puller(urls, donor, key, stop, drain_timeout=drain_timeout), "what runs is finished first")
