"""What computes for the doors in these tests: the functions that a worker runs, on a thread of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from idlegrid.actors.diffusion.picture import NotDrawn
from idlegrid.actors.diffusion.picture import Wish as PictureWish
from idlegrid.actors.diffusion.tasks import draw_all
from idlegrid.actors.tasks import embed_inputs
from idlegrid.actors.vision.look import Answer, Look, NotAnswered
from idlegrid.actors.vision.tasks import answer_all
from idlegrid.actors.whisper.speech import NotHeard, Transcript, Wish
from idlegrid.actors.whisper.tasks import transcribe_all
from idlegrid.api.dask_painter import believed
from idlegrid.api.http.embedder import EmbedAnswer, Input, Readiness, ServedModel
from idlegrid.api.http.images_face import Drawn


class _Served:
    def __init__(self, model: str) -> None:
        self.model = model

    async def models(self) -> Sequence[ServedModel]:
        return [ServedModel(id=self.model, aliases=("tiny",))]

    async def ready(self, model_id: str | None = None) -> Readiness:
        return Readiness(True)


class LocalEmbedder(_Served):
    async def embed(
        self, model_id: str, inputs: Sequence[Input], *, normalize: bool = True, background: bool = False
    ) -> EmbedAnswer:
        done = await asyncio.to_thread(embed_inputs, model_id, inputs, normalize=normalize, truncate=False)
        return EmbedAnswer(done.vectors, done.tokens)


class LocalTranscriber(_Served):
    async def transcribe(self, model_id: str, files: Sequence[bytes], wish: Wish) -> Sequence[Transcript | NotHeard]:
        return await asyncio.to_thread(transcribe_all, model_id, files, wish)


class LocalPainter(_Served):
    async def draw(self, model_id: str, wishes: Sequence[PictureWish]) -> Sequence[Drawn | NotDrawn]:
        return believed(await asyncio.to_thread(draw_all, model_id, wishes), wishes)


class LocalViewer(_Served):
    async def answer(self, model_id: str, looks: Sequence[Look]) -> Sequence[Answer | NotAnswered]:
        return await asyncio.to_thread(answer_all, model_id, looks)
