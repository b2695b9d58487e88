"""Clients that go away while a worker computes for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from idlegrid.api import Grid

PATIENCE = 60.0


async def tasks_that_run(grid: Grid) -> set[str]:
    """Keys of what the workers' threads compute now, wanted or not, as the workers themselves see it."""

    def keys(dask_worker: Any) -> list[str]:
        return [str(task.key) for task in dask_worker.state.executing]

    found = await asyncio.to_thread(grid.client.run, keys)
    return {key for some in found.values() for key in some}


async def until(grid: Grid, running: bool) -> set[str]:
    """Wait until the workers compute something, or nothing."""
    async with asyncio.timeout(PATIENCE):
        while bool(keys := await tasks_that_run(grid)) is not running:  # noqa: ASYNC110 - the workers'
            await asyncio.sleep(0.1)
    return keys


async def ends_of(grid: Grid, keys: set[str]) -> list[str]:
    """How these tasks ended in their workers' threads: what each raised, empty for one that came to its end."""

    def ends(dask_worker: Any) -> list[str]:
        over = [event for event in dask_worker.state.stimulus_log if type(event).__name__.startswith("Execute")]
        return [getattr(event, "exception_text", "") for event in over if str(getattr(event, "key", "")) in keys]

    found = await asyncio.to_thread(grid.client.run, ends)
    return [end for some in found.values() for end in some]


async def leaves_in_the_middle(grid: Grid, asking: Coroutine[Any, Any, Any]) -> list[str]:
    """Ask, wait until a worker is at it, go away, and wait until no worker is. How the tasks ended."""
    await until(grid, False)
    task, begun = asyncio.ensure_future(asking), asyncio.ensure_future(until(grid, True))
    await asyncio.wait({task, begun}, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), task.result()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await until(grid, False)
    return await ends_of(grid, begun.result())
