"""The dispatcher's way to a scheduler: a Dask client that is thrown away at the first sign of trouble.

A Dask client whose scheduler died reconnects by itself, to a scheduler that knows nothing, with futures that are
cancelled; anything that waits on it may wait for ever. So every call here has a deadline, a client that is not as it
should be is dropped, and a new one proves that a task really runs before anything is claimed on its word.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import dask
from distributed import Client, Future, fire_and_forget

from ...grid.jobs import Ask
from ...grid.reliability import History
from ...scheduler_plugins.lanes import ANNOTATION, DURABLE
from .attempt import run
from .capacity import open_workers
from .work_order import WorkOrder

CONNECT = 5.0
"""Seconds that a scheduler has to answer."""
ANSWER = 5.0
"""Seconds that one question to it may take."""
PROBE = 10.0
"""Seconds that a free worker has to run nothing at all."""
CLOSE = 3.0


class LinkLost(ConnectionError):
    """The scheduler is gone, or does not do its work. A new link is needed."""


class Link:
    """One client, used by one event loop until it fails. Raises LinkLost where it does."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.proven = False
        """Whether a task ran through it."""

    @property
    def alive(self) -> bool:
        """Whether the client never lost its scheduler."""
        return bool(self._client.status == "running")

    async def state(self) -> Mapping[str, Any]:
        """The grid, as `scheduler_plugins.state` tells it."""
        state: Mapping[str, Any] | None = await self._answer(self._client.scheduler.grid_state())
        if state is None:
            raise LinkLost(f"the scheduler at {self._client.scheduler.address} runs without the grid's rules")
        return state

    async def prove(self, state: Mapping[str, Any]) -> bool:
        """Have a free worker run nothing. False while no worker is free: then there is nothing to claim for either."""
        if self.proven:
            return True
        free = [row["address"] for row in open_workers(state) if row["running"] + row["waiting"] == 0]
        if not free:
            return False
        chosen = random.choice(free)  # noqa: S311 - so that one that is frozen is not asked again and again
        future = self._client.submit(int, key=f"probe-{uuid.uuid4().hex}", workers=[chosen], pure=False)
        try:
            async with asyncio.timeout(PROBE):
                await future.exception()
        except TimeoutError:
            raise LinkLost(f"the worker at {chosen} ran nothing within {PROBE:g} s") from None
        finally:
            future.release()
        if future.status != "finished":
            raise LinkLost(f"the worker at {chosen} did not run a probe: {future.status}")
        self.proven = True
        return True

    def submit(self, ask: Ask, order: WorkOrder, ended: Callable[[Future], None]) -> Future:
        """Send an attempt; `ended` is called in this loop when Dask is done with it.

        The task stays at the scheduler even if this process dies: its worker needs nobody but the HTTP service.
        """
        with dask.annotate(**{ANNOTATION: ask.to_annotation(), DURABLE: True}):
            future = self._client.submit(run, order, key=order.name, retries=0, pure=False)
        fire_and_forget(future)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(ended, done))
        return future

    async def tell(
        self, histories: Mapping[str, History], usual: Mapping[str, float], blocked: Iterable[str] = ()
    ) -> None:
        """Tell the scheduler what the store knows: worker → its past; job type → how long it usually takes, in s; the
        workers that are blocked.
        """
        donors = {worker: history.to_wire() for worker, history in histories.items()}
        told = {"donors": donors, "usual": dict(usual), "blocked": sorted(blocked)}
        await self._answer(self._client.scheduler.grid_histories(**told))

    async def holders(self) -> dict[str, str]:
        """Name of an attempt → address of the worker that Dask gave it to."""
        held: Mapping[str, list[str]] = await self._answer(self._client.scheduler.processing(workers=None))
        return {str(key): address for address, keys in held.items() for key in keys}

    async def waits(self, name: str) -> bool:
        """Whether an attempt waits at the scheduler for a worker that may take it."""
        answer: Mapping[str, Any] = await self._answer(self._client.scheduler.grid_why(key=name))
        return bool(answer["state"] == "no-worker")

    async def explain(self, ask: Ask, name: str) -> Sequence[Mapping[str, Any]]:
        """What every worker says to an attempt, best first, then who refuses: `scheduler_plugins.why.grid_explain`."""
        answer = await self._answer(self._client.scheduler.grid_explain(ask=ask.to_annotation(), key=name))
        told: Sequence[Mapping[str, Any]] = answer["candidates"]
        return told

    async def cancel(self, futures: list[Future]) -> None:
        """Have Dask forget tasks that did not begin."""
        if futures:
            await self._answer(self._client.cancel(futures, force=True))

    async def _answer(self, question: Any) -> Any:
        try:
            async with asyncio.timeout(ANSWER):
                return await question
        except (OSError, TimeoutError) as error:
            raise LinkLost(f"the scheduler does not answer: {type(error).__name__} {error}") from error


@contextlib.asynccontextmanager
async def linked(address: str, **options: Any) -> AsyncIterator[Link]:
    """A new client of the scheduler at `address`, dropped at the end whatever state it is in. Raises LinkLost."""
    client = Client(address, asynchronous=True, set_as_default=False, timeout=CONNECT, **options)
    try:
        try:
            async with asyncio.timeout(2 * CONNECT):
                await client
        except (OSError, TimeoutError, ValueError) as error:
            raise LinkLost(f"no scheduler answers at {address}: {error}") from error
        yield Link(client)
    finally:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE):
                await client.close(timeout=1)
