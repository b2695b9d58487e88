"""A real service over a real store, and machines that joined it, for the tests of the agent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "client"))  # helpers of other tests
sys.path.insert(0, str(Path(__file__).parents[1] / "http"))

from jobs_service import SECRET, Service, with_settings
from live_service import Proxy, proxied, serving

from idlegrid.api.donor.joining import join
from idlegrid.api.donor.state import Home, Kept
from idlegrid.grid.credentials import Credentials
from idlegrid.grid.store import By, Store, open_store

DEADLINE = 60.0
ADMIN = By("an administrator", None)
SCHEDULER = "tcp://127.0.0.1:2"
"""Where the grid says that its scheduler is."""


@dataclass
class DonorGrid:
    """A grid that answers."""

    store: Store
    url: str
    proxy: Proxy

    def token(self) -> str:
        return self.store.enrolments.create(3600.0, None, ADMIN)[1]

    async def joined(self, folder: Path, **kept: Any) -> tuple[Home, Credentials]:
        """A machine that joined."""
        home = Home.find(folder)
        held = await join(home, self.url, self.token(), pull=True)
        replace(Kept.load(home.state), **kept).save(home.state)
        return home, held


@contextmanager
def donor_grid(folder: Path) -> Iterator[DonorGrid]:
    """Heartbeats come every second."""
    with open_store(f"sqlite:///{folder}/jobs.db", secret=lambda: SECRET) as store:
        store.upgrade()
        service = Service(store, with_settings(heartbeat_interval=1), scheduler=SCHEDULER)
        with serving(service) as url, proxied(url) as proxy:
            yield DonorGrid(store, url, proxy)


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(DEADLINE):
        while not (found := condition()):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)
    return found
