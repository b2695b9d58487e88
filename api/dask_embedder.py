"""The HTTP service's embedder: batches become tasks on the grid."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from typing import Any

import dask
from distributed import Client, Future

from ..actors.tasks import BadTokens, Embedded, embed_inputs, located, model_facts
from ..grid import catalogue
from ..grid.jobs import Ask
from .http.embedder import BadInput, EmbedAnswer, Input, Readiness, ServedModel, Unavailable


class DaskEmbedder:
    """Implements `api.http.embedder.Embedder` over a Dask client of the same event loop.

    A batch is one task, placed by the grid's rules; a task whose worker dies is run again elsewhere by Dask.
    """

    def __init__(self, client: Client, *, region: str | None = None) -> None:
        """`client`: asynchronous. `region`: where the service stands; work goes to donors near it."""
        self._client = client
        self._region = region
        self._facts: dict[str, dict[str, Any]] = {}

    async def models(self) -> Sequence[ServedModel]:
        """The catalogue's embedding models that this grid can get at, the default one first."""
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
        ask = Ask(type="embedding", model=model_id, region=self._region)
        with dask.annotate(grid=ask.to_annotation()):
            key = f"{function.__name__}-{uuid.uuid4().hex}"
            future: Future = self._client.submit(located(function), *args, key=key, pure=False, **kwargs)
        try:
            return await future
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._client.cancel([future], reason="client-gone", msg="given up"))
            raise
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"the grid can't be reached: {error}") from error
        finally:
            future.release()

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether a worker could take embedding work: open, and with facts; a full one counts, it will be free."""
        try:
            state = await self._client.scheduler.grid_state()
        except (OSError, TimeoutError) as error:
            return Readiness(ok=False, reason=f"the scheduler does not answer: {error}")
        workers = [worker for worker in state["workers"] if "embedding" in worker.get("types", ("embedding",))]
        if any(worker["state"] in ("online", "busy") for worker in workers):
            return Readiness(ok=True)
        if not workers:
            return Readiness(ok=False, reason="no worker that takes embedding work is connected")
        reasons = sorted({str(worker.get("reason") or worker["state"]) for worker in workers})
        return Readiness(ok=False, reason=f"no worker takes work now: {', '.join(reasons)}")
