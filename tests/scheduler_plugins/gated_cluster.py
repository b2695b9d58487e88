"""A scheduler and workers in this process, over mutual TLS with the certificates of a CA of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distributed import Worker
from distributed.security import Security

from idlegrid.grid.certificate_files import Paper, renew
from idlegrid.grid.peers import Role
from idlegrid.scheduler_plugins.scheduler import GridScheduler
from idlegrid.scheduler_plugins.security import GridSecurity


@dataclass
class Papers:
    """The certificates of one grid."""

    folder: Path
    scheduler: str | None = None

    def paper(self, role: Role, name: str) -> Paper:
        return renew(self.folder, role, name, datetime.now(UTC), file=f"{role}-{name}")

    def gated(self, role: Role, name: str) -> GridSecurity:
        return GridSecurity(self.paper(role, name), role, self.scheduler)

    def stock(self, role: Role, name: str) -> Security:
        """The same certificate without a gate, as Dask itself uses it, and an attacker."""
        paper = self.paper(role, name)
        names = {f"tls_{one}_cert": str(paper.file) for one in ("client", "scheduler", "worker")}
        return Security(require_encryption=True, tls_ca_file=str(paper.authority), **names)


@contextlib.asynccontextmanager
async def gated_cluster(papers: Papers, *names: str, gate: bool = True) -> AsyncIterator[tuple[Any, list[Any]]]:
    """A scheduler and a worker for each name; without the gate everything else is the same."""
    security = papers.gated if gate else papers.stock
    place = {"host": "127.0.0.1", "protocol": "tls://", "dashboard": False, "dashboard_address": ":0"}
    async with (
        contextlib.AsyncExitStack() as stack,
        GridScheduler(port=0, security=security(Role.SCHEDULER, "scheduler"), **place) as s,
    ):
        papers.scheduler = s.address
        workers = [
            await stack.enter_async_context(
                Worker(s.address, name=name, nthreads=1, dashboard=False, security=security(Role.WORKER, name))
            )
            for name in names
        ]
        yield s, workers
