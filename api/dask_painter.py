"""The HTTP service's hand: pictures that are wanted together become one task on the grid."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..actors.diffusion.picture import NotDrawn, Wish
from ..actors.diffusion.tasks import Drawing, draw_all
from ..actors.media.png import check_png
from ..grid import catalogue
from .dask_tasks import DaskTasks, listed, memory_of
from .http.embedder import Readiness, ServedModel
from .http.images_face import OPENAI_NAME, Drawn


class DaskPainter:
    """Implements `api.http.images_face.Painter` with somebody's way to the grid."""

    def __init__(self, tasks: DaskTasks, *, model: str | None = None) -> None:
        """`model`: the one to use where none is named, also one that the catalogue doesn't list."""
        self._tasks = tasks
        self._default = catalogue.canonical(model, "image_gen")

    async def models(self) -> Sequence[ServedModel]:
        """The default one, which has OpenAI's name too, and the catalogue's others."""
        return listed("image_gen", self._default, OPENAI_NAME)

    async def draw(self, model_id: str, wishes: Sequence[Wish]) -> Sequence[Drawn | NotDrawn]:
        """One task for all of them; cancelled with the call. What comes back is looked at: donors are strangers."""
        found: list[Drawing | NotDrawn] = await self._tasks.run(
            "image_gen", model_id, draw_all, model_id, list(wishes), memory=memory_of(model_id)
        )
        return await asyncio.to_thread(believed, found, wishes)

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether a worker could take pictures to be drawn."""
        return await self._tasks.takes("image_gen")


def believed(found: Sequence[Drawing | NotDrawn], wishes: Sequence[Wish]) -> list[Drawn | NotDrawn]:
    """What can be an answer to these wishes."""
    believed: list[Drawn | NotDrawn] = []
    for one, wish in zip(found, wishes, strict=True):
        if isinstance(one, NotDrawn):
            believed.append(one)
            continue
        try:
            check_png(one.data, wish.width, wish.height)
            believed.append(Drawn(one.data, wish.seed))
        except ValueError as error:
            believed.append(NotDrawn(f"what a worker sent is no such picture: {error}", refused=False))
    return believed
