"""`idlegrid scheduler`: the Dask scheduler with the grid's rules, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging

from ..grid.config import Settings
from ..grid.config.service import Scheduler as Place
from ..grid.peers import Role
from ..scheduler_plugins.scheduler import GridScheduler
from .links import page_at
from .ports import check_free, obstacle
from .signals import Say
from .tls import kept_fresh, scheme_of, security_for


async def serve_scheduler(settings: Settings, stop: asyncio.Event, say: Say) -> None:
    """A scheduler with our plugins, until `stop`. Raises CannotStart when its port is taken,
    NoCertificate when TLS is wanted and there is none.
    """
    place = settings.scheduler
    check_free(place.host, place.port, "--port or IDLEGRID_SCHEDULER_PORT")
    logging.getLogger("distributed.scheduler").addFilter(_is_news)
    security = security_for(scheme_of(settings), Role.SCHEDULER, settings)
    async with (
        kept_fresh(settings, (Role.SCHEDULER, Role.SCHEDULER)),
        GridScheduler(
            host=place.host,
            port=place.port,
            protocol=scheme_of(settings),
            security=security,
            dashboard=True,
            dashboard_address=_dashboard_address(place, say),
        ) as scheduler,
    ):
        say(f"scheduler at {scheduler.address}")
        say(f"page      at {page_at(scheduler)}")
        await stop.wait()


NO_NEWS = ("marked as failed because", "Received heartbeat from unregistered worker")
"""That a job's worker died, in a count that is not the job's: the job's own attempts tell it. And a last sign of life
on its way while its worker leaves: the answer tells who is still there to register again."""


def _is_news(record: logging.LogRecord) -> bool:
    """Whether an operator can do something with it."""
    return not any(words in str(record.msg) for words in NO_NEWS)


def _dashboard_address(place: Place, say: Say) -> str:
    """Where the dashboard listens: another grid's dashboard on the usual port is no reason not to start."""
    port = place.dashboard_port
    if obstacle(place.host, port) is not None:
        say(f"port {port} is taken, so the page is at another one")
        port = 0
    return f"{place.host}:{port}"
