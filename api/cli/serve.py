"""`idlegrid up`, `scheduler` and `api`: the parts of a grid that serve until they are stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .config import ConfigFile
from .connect import Address
from .output import console
from .settings import settings

if TYPE_CHECKING:
    from ...grid.config import Settings

Workers = Annotated[int | None, typer.Option("--workers", "-w", min=1, show_default="one per GPU, else one per core")]
Regions = Annotated[
    list[str] | None,
    typer.Option("--region", "-r", help="Pretend that the workers stand there, dealt out in turn; repeatable."),
]
Port = Annotated[int | None, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on; 0: a free one.")]


def up(workers: Workers = None, region: Regions = None, port: Port = None, config: ConfigFile = None) -> None:
    """Start a whole grid on this machine: scheduler, workers and the HTTP service. Ctrl-C ends it."""
    from ..serving import serve_all

    _serve(
        lambda values, stop: serve_all(values, stop, say, workers=workers, regions=region),
        _with_port(settings(config), "api", port),
    )


def scheduler(port: Port = None, config: ConfigFile = None) -> None:
    """Start a scheduler with the grid's rules; workers and clients connect to it."""
    from ..serving import serve_scheduler

    _serve(lambda values, stop: serve_scheduler(values, stop, say), _with_port(settings(config), "scheduler", port))


def api(scheduler: Address = None, port: Port = None, config: ConfigFile = None) -> None:
    """Start the HTTP service (OpenAI-compatible) in front of a running grid."""
    from ..serving import serve_api
    from .connect import default_address

    address = scheduler or default_address()
    _serve(lambda values, stop: serve_api(address, values, stop, say), _with_port(settings(config), "api", port))


def say(line: str) -> None:
    """One line for the person who started it."""
    console.print(line, highlight=False, soft_wrap=True)


def _with_port(values: Settings, section: str, port: int | None) -> Settings:
    if port is None:
        return values
    changed: Any = getattr(values, section).model_copy(update={"port": port})
    return values.model_copy(update={section: changed})


def _serve(part: Callable[[Settings, asyncio.Event], Awaitable[None]], values: Settings) -> None:
    from ..serving import stop_on_signals

    async def run() -> None:
        await part(values, stop_on_signals(say))

    asyncio.run(run())
