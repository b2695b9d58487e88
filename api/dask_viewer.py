"""The HTTP service's eyes: questions about pictures become tasks on the grid."""

from __future__ import annotations

from collections.abc import Sequence

from ..actors.vision.look import Answer, Look, NotAnswered
from ..actors.vision.tasks import answer_all
from ..grid import catalogue
from .dask_tasks import DaskTasks, listed, memory_of
from .http.embedder import Readiness, ServedModel


class DaskViewer:
    """Implements `api.http.sight_face.Viewer` with somebody's way to the grid."""

    def __init__(self, tasks: DaskTasks, *, model: str | None = None) -> None:
        """`model`: the default one, also one that the catalogue doesn't list."""
        self._tasks = tasks
        self._default = catalogue.canonical(model, "vision")

    async def models(self) -> Sequence[ServedModel]:
        """The default one and the catalogue's others."""
        return listed("vision", self._default)

    async def answer(self, model_id: str, looks: Sequence[Look]) -> Sequence[Answer | NotAnswered]:
        """One task for all of them; cancelled with the call."""
        found: list[Answer | NotAnswered] = await self._tasks.run(
            "vision", model_id, answer_all, model_id, list(looks), memory=memory_of(model_id)
        )
        return found

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether a worker could take pictures to look at."""
        return await self._tasks.takes("vision")
