"""`idlegrid worker`, the same as `gpu-worker`: a donor's machine. What starts work, in each of its ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Address, ConfigFile
from .output import say
from .serve import serve
from .settings import scheduler_address, settings
from .worker_options import DrainTimeout, HomeFolder, Name, RegionCode, Yes, home_of

if TYPE_CHECKING:
    from ...grid.donors import Donor

_PULL = "Ask for work over HTTP alone: no Dask, nothing that is sent here runs as code."


def start(
    scheduler: Address = None,
    pull: Annotated[bool | None, typer.Option("--pull/--dask", help=_PULL, show_default="as it joined")] = None,
    name: Name = None,
    region: RegionCode = None,
    drain_timeout: DrainTimeout = 300.0,
    config: ConfigFile = None,
    home: HomeFolder = None,
) -> None:
    """Work for the grid that this machine joined.

    With --scheduler, or before it joined one: work for a Dask scheduler that asks for no registration. Ctrl-C or
    SIGTERM: finish what runs, then leave. Twice: hand back what runs, leave now.
    """
    place = home_of(home)
    if scheduler is None and place.credentials.exists():
        _start_registered(home, config, drain_timeout, pull)
        return
    from ..agent import serve_worker
    from ..tls import worker_paper

    if pull:
        raise typer.BadParameter("only a machine that joined a grid can: gpu-worker join URL TOKEN --pull")
    values = settings(config)
    donor = _donor(name, region, config)
    address = scheduler_address(scheduler, values)
    paper = worker_paper(address, values)
    if paper is not None:
        donor = replace(donor, id=paper.holder)  # at the scheduler a worker speaks for whom its certificate names alone
    serve(
        lambda stop: serve_worker(
            address, donor, stop, drain_timeout=drain_timeout, certificate=None if paper is None else paper.file
        ),
        "what runs is finished first",
    )


def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="Base URL of the grid's HTTP service.")],
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Enrolment token, from the grid's operator.")],
    pull: Annotated[bool, typer.Option("--pull", help=_PULL)] = False,
    yes: Yes = False,
    name: Name = None,
    region: RegionCode = None,
    drain_timeout: DrainTimeout = 300.0,
    home: HomeFolder = None,
) -> None:
    """Configure this machine, register it at a grid, and work.

    The token lets one machine in. Typed again with the same token, as a script does after a restart, it goes on with
    the same registration.
    """
    import asyncio

    from ..donor.joining import join as register
    from .worker_setup import ask

    place = home_of(home)
    ask(place, url, pull=pull, yes=yes, given={"name": name, "region": region})
    held = asyncio.run(register(place, url, token, pull=pull))
    say(f"joined   {url.rstrip('/')} as {held.worker_id}; `gpu-worker start` is enough from now on")
    _start_registered(home, None, drain_timeout, None)


def pull(
    url: Annotated[list[str], typer.Argument(metavar="URL...", help="Base URL of the grid's HTTP service.")],
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="What lets this worker in.", show_default="api.worker_token")
    ] = None,
    name: Name = None,
    region: RegionCode = None,
    drain_timeout: DrainTimeout = 300.0,
    config: ConfigFile = None,
) -> None:
    """Ask a private grid for work over HTTP alone, without registration.

    For grids that share one token among their own machines (api.worker_token); everybody else joins with --pull.
    Ctrl-C or SIGTERM: finish what runs, then leave.
    """
    from ..agent import serve_puller

    values = settings(config)
    donor = _donor(name, region, config)
    key = token or values.api.worker_token or ""
    urls = [one.rstrip("/") for one in url]
    serve(lambda stop: serve_puller(urls, donor, key, stop, drain_timeout=drain_timeout), "what runs is finished first")


def _donor(name: str | None, region: str | None, config: Path | None) -> Donor:
    from ...scheduler_plugins.machine import local_donor

    donor = local_donor(name, config_path=config)
    return replace(donor, name=name or donor.name, region=region or donor.region)


def _start_registered(home: Path | None, config: Path | None, drain_timeout: float, pull: bool | None) -> None:
    from ..donor.membership import Options
    from ..donor.running import run_agent
    from ..donor.state import Kept

    place = home_of(home)
    if pull is not None:
        replace(Kept.load(place.state), pull=pull).save(place.state)
    run_agent(place, Options(config=config, drain_timeout=drain_timeout), say)
