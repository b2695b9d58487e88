"""`idlegrid up`, `scheduler`, `dispatcher` and `api`: the parts of a grid that serve until they are stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .options import Address, ConfigFile, Llms, Port, Regions, Workers
from .output import say
from .settings import scheduler_address, settings

if TYPE_CHECKING:
    from ...grid.config import Settings


def up(
    workers: Workers = None, region: Regions = None, llm: Llms = None, port: Port = None, config: ConfigFile = None
) -> None:
    """Start a whole grid on this machine.

    A scheduler with its page, workers, the dispatcher of jobs and the HTTP service, each in a process of its own that
    is started again when it ends, until Ctrl-C.
    """
    from ..up import serve_all

    values = _with_port(settings(config), "api", port)
    serve(
        lambda stop: serve_all(values, stop, say, workers=workers, regions=region, llms=llm or (), config=config),
        _ANSWERED,
    )


def scheduler(port: Port = None, config: ConfigFile = None) -> None:
    """Start a scheduler with the grid's rules.

    Workers, clients and the HTTP service connect to it.
    """
    from ..scheduling import serve_scheduler

    values = _with_port(settings(config), "scheduler", port)
    serve(lambda stop: serve_scheduler(values, stop, say), "work that waits is forgotten")


def dispatcher(scheduler: Address = None, config: ConfigFile = None) -> None:
    """Bring accepted jobs to the workers of a grid.

    Several may run side by side on one database; each may be killed at any time.
    """
    from ..dispatching import serve_dispatcher

    values = settings(config)
    address = scheduler_address(scheduler, values)
    serve(lambda stop: serve_dispatcher(address, values, stop, say), "jobs that run go on without it", values)


def api(scheduler: Address = None, llm: Llms = None, port: Port = None, config: ConfigFile = None) -> None:
    """Start the HTTP service for a running grid.

    It speaks OpenAI's API: /v1/embeddings, /v1/models, /v1/chat/completions, /v1/completions and /metrics, beside
    /healthz and /readyz. Language models are those that are deployed (`idlegrid deploy`), and those of --llm.
    """
    from ..serving import serve_api

    values = _with_port(settings(config), "api", port)
    address = scheduler_address(scheduler, values)
    serve(lambda stop: serve_api(address, values, stop, say, llms=llm or ()), _ANSWERED, values)


_ANSWERED = "open requests are answered first"


def serve(part: Callable[[asyncio.Event], Awaitable[None]], promise: str, values: Settings | None = None) -> None:
    """Run a part of the grid until a signal stops it; `promise`: what it does before it ends.

    With settings (the parts of the service) it logs as JSON lines.
    """
    from ..signals import quiet, stop_on_signals

    async def run() -> None:
        await part(stop_on_signals(say, promise))

    if values is not None:
        from ..logs import configure
        from ..parent import supervised

        configure(values.api.log_level or ("warning" if supervised() else "info"))
    quiet()
    asyncio.run(run())


def _with_port(values: Settings, section: str, port: int | None) -> Settings:
    if port is None:
        return values
    changed: Any = getattr(values, section).model_copy(update={"port": port})
    return values.model_copy(update={section: changed})
