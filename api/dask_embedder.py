"""The HTTP service's embedder: batches become tasks on the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..actors.tasks import BadTokens, Embedded, embed_inputs, model_facts
from ..grid import catalogue
from .dask_tasks import DaskTasks
from .http.embedder import BadInput, EmbedAnswer, Input, Readiness, ServedModel


class DaskEmbedder(DaskTasks):
    """Implements `api.http.embedder.Embedder`: a batch is one task."""

    def __init__(self, address: str, *, region: str | None = None, must_answer: bool = True) -> None:
        """See `DaskTasks`."""
        super().__init__(address, region=region, must_answer=must_answer)
        self._facts: dict[str, dict[str, Any]] = {}

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

    async def embed(
        self, model_id: str, inputs: Sequence[Input], *, normalize: bool = True, background: bool = False
    ) -> EmbedAnswer:
        """One task for one batch; cancelled with the call."""
        if model_id not in self._facts:
            self._facts[model_id] = await self.run("embedding", model_id, model_facts, model_id)
        try:
            done: Embedded = await self.run(
                "embedding",
                model_id,
                embed_inputs,
                model_id,
                list(inputs),
                background=background,
                normalize=normalize,
                truncate=False,
            )
        except BadTokens as error:
            raise BadInput(error.what, index=error.index) from error
        return EmbedAnswer(done.vectors, done.tokens)

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether a worker could take embedding work."""
        return await self.takes("embedding")
