"""The HTTP service's embedder: batches become tasks on the grid."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from concurrent.futures import CancelledError as TaskCancelled
from types import TracebackType
from typing import Any, Self

import dask
from distributed import Client, Future

from ..actors.tasks import BadTokens, Embedded, embed_inputs, located, model_facts
from ..grid import catalogue
from ..grid.jobs import Ask
from .http.embedder import BadInput, EmbedAnswer, Input, Readiness, ServedModel, Unavailable
from .links import PATIENCE, unreachable

DEATHS_ALLOWED = 1
"""A donor may vanish at any time, so work is done again once; what kills two workers is not tried on a third."""
_TAKES_WORK = ("online", "busy")


class DaskEmbedder:
    """Implements `api.http.embedder.Embedder` over a Dask client of the same event loop. Enter it before use.

    A batch is one task, placed by the grid's rules; a task whose worker dies is run again elsewhere by Dask. While the
    scheduler is away calls fail within seconds; when it is back, they work again.
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
        self._facts: dict[str, dict[str, Any]] = {}

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

    async def models(self) -> Sequence[ServedModel]:
        """The catalogue's embedding models, the default one first."""
        entries = sorted(catalogue.models("embedding"), key=lambda entry: not entry.default)
        return [self._served(entry) for entry in entries]

    def _served(self, entry: catalogue.ModelEntry) -> ServedModel:
        facts = self._facts.get(entry.id, {})
        return ServedModel(
            id=entry.id,
            aliases=entry.aliases,
            dimension=facts.get("dimension"),
            max_tokens=facts.get("max_tokens"),
            vocab_size=facts.get("vocab_size"),
        )

    async def embed(self, model_id: str, inputs: Sequence[Input], *, normalize: bool = True) -> EmbedAnswer:
        """One task for one batch; cancelled with the call."""
        if model_id not in self._facts:
            self._facts[model_id] = await self._run(model_id, model_facts, model_id)
        try:
            done: Embedded = await self._run(
                model_id, embed_inputs, model_id, list(inputs), normalize=normalize, truncate=False
            )
        except BadTokens as error:
            raise BadInput(error.what, index=error.index) from error
        return EmbedAnswer(done.vectors, done.tokens)

    async def _run(self, model_id: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        client = await self._grid()
        ask = Ask(type="embedding", model=model_id, region=self._region, deaths_allowed=DEATHS_ALLOWED)
        with dask.annotate(grid=ask.to_annotation()):
            key = f"{function.__name__}-{uuid.uuid4().hex}"
            future: Future = client.submit(located(function), *args, key=key, pure=False, **kwargs)
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

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether a worker could take embedding work: open, and with facts; a full one counts, it will be free."""
        try:
            state = await (await self._grid()).scheduler.grid_state()
        except (OSError, TimeoutError, Unavailable) as error:
            return Readiness(ok=False, reason=f"the scheduler does not answer: {error}")
        workers = [worker for worker in state["workers"] if "embedding" in worker["supported_types"]]
        if any(worker["state"] in _TAKES_WORK for worker in workers):
            return Readiness(ok=True)
        if not workers:
            return Readiness(ok=False, reason="no worker that takes embedding work is connected")
        reasons = sorted({str(worker["reason"] or worker["state"]) for worker in workers})
        return Readiness(ok=False, reason=f"no worker takes work now: {', '.join(reasons)}")
