"""The HTTP service's way to have tasks done on the grid: a Dask client that is made anew when Dask gave it up."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from concurrent.futures import CancelledError as TaskCancelled
from types import TracebackType
from typing import Any, Self

import dask
from distributed import Client, Future

from ..actors.tasks import located
from ..grid import catalogue
from ..grid.jobs import Ask
from .http.embedder import Readiness, ServedModel, Unavailable
from .links import PATIENCE, unreachable

DEATHS_ALLOWED = 1
"""A donor may vanish at any time, so work is done again once; what kills two workers is not tried on a third."""
BACKGROUND = -100
"""Priority, as Dask has it, of what gives way to everything else."""
_LARGE_GRAPH = "distributed.admin.large-graph-warning-threshold"
"""A recording travels with its task, whatever Dask thinks of that: it is used once."""
_TAKES_WORK = ("online", "busy")


class DaskTasks:
    """Tasks over a Dask client of the same event loop. Enter it before use; several doors may share one.

    Each is placed by the grid's rules; one whose worker dies is run again elsewhere by Dask. While the scheduler is
    away calls fail within seconds; when it is back, they work again.
    """

    def __init__(self, address: str, *, region: str | None = None, must_answer: bool = True) -> None:
        """`address`: of the scheduler. `region`: where the service stands; work goes to donors near it.

        `must_answer`: whether it is an error when no scheduler answers at first; else nobody waits for it.
        """
        self._must_answer = must_answer
        self._address = address
        self._region = region
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Connects. Raises ConnectionError when no scheduler answers."""
        if not self._must_answer:
            return self
        try:
            await self._connect()
        except (OSError, TimeoutError, ValueError) as error:
            raise unreachable(self._address, PATIENCE, error) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def _connect(self) -> Client:
        client = Client(self._address, asynchronous=True, set_as_default=False, timeout=PATIENCE)
        try:
            await client
        except BaseException:
            await client.close()
            raise
        if self._client is not None:
            await self._client.close()
        self._client = client
        return client

    async def _grid(self) -> Client:
        """The client, connected anew if Dask gave it up. Raises Unavailable while no scheduler answers."""
        async with self._connecting:
            client = self._client
            if client is not None and client.status == "running":
                return client
            if client is None or client.status == "closed":
                with contextlib.suppress(OSError, TimeoutError):
                    return await self._connect()
        raise Unavailable("the grid's scheduler can't be reached; it is looked for")

    async def run(
        self,
        ask_type: str,
        model_id: str,
        function: Any,
        *args: Any,
        memory: float = 0.0,
        background: bool = False,
        **kwargs: Any,
    ) -> Any:
        """What `function` returns on a worker that takes this type and model; cancelled with the call.

        `memory`: of a GPU, in GB. `background`: whatever else waits for a worker goes first. Raises Unavailable, and
        what the function raises.
        """
        client = await self._grid()
        ask = Ask(
            type=ask_type, model=model_id, gpu_memory_gb=memory, region=self._region, deaths_allowed=DEATHS_ALLOWED
        )
        with dask.annotate(grid=ask.to_annotation()), dask.config.set({_LARGE_GRAPH: "1GB"}):
            key = f"{function.__name__}-{uuid.uuid4().hex}"
            priority = BACKGROUND if background else 0
            future: Future = client.submit(located(function), *args, key=key, pure=False, priority=priority, **kwargs)
        try:
            return await future
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.shield(client.cancel([future], reason="client-gone", msg="given up"))
            raise
        except (OSError, TimeoutError, TaskCancelled) as error:
            raise Unavailable(f"the grid's scheduler went away: {error}") from error
        finally:
            future.release()

    async def takes(self, ask_type: str) -> Readiness:
        """Whether a worker could take work of this type: open, and with facts; a full one counts, it will be free."""
        try:
            state = await (await self._grid()).scheduler.grid_state()
        except (OSError, TimeoutError, Unavailable) as error:
            return Readiness(ok=False, reason=f"the scheduler does not answer: {error}")
        workers = [worker for worker in state["workers"] if ask_type in worker["supported_types"]]
        if any(worker["state"] in _TAKES_WORK for worker in workers):
            return Readiness(ok=True)
        if not workers:
            return Readiness(ok=False, reason=f"no worker that takes {ask_type} work is connected")
        reasons = sorted({str(worker["reason"] or worker["state"]) for worker in workers})
        return Readiness(ok=False, reason=f"no worker takes work now: {', '.join(reasons)}")


def listed(kind: str, default: str, openai_name: str | None = None) -> list[ServedModel]:
    """The models of a job type: the default one, which may have OpenAI's name too, and the catalogue's others."""
    entries = {entry.id: entry for entry in catalogue.models(kind)}
    return [
        ServedModel(
            id=one,
            aliases=(
                *(entries[one].aliases if one in entries else ()),
                *((openai_name,) if openai_name is not None and one == default else ()),
            ),
        )
        for one in dict.fromkeys([default, *entries])
    ]


def memory_of(model_id: str) -> float:
    """GPU memory that a model needs, in GB. 0: nobody knows."""
    entry = catalogue.find(model_id)
    return entry.gpu_memory_gb if entry is not None else 0.0
