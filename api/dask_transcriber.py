"""The HTTP service's ears: recordings that come together become one task on the grid."""

from __future__ import annotations

from collections.abc import Sequence

from ..actors.whisper.speech import NotHeard, Transcript, Wish
from ..actors.whisper.tasks import transcribe_all
from ..grid import catalogue
from .dask_tasks import DaskTasks, listed, memory_of
from .http.audio_face import OPENAI_NAME
from .http.embedder import Readiness, ServedModel


class DaskTranscriber:
    """Implements `api.http.audio_face.Transcriber` with somebody's way to the grid."""

    def __init__(self, tasks: DaskTasks, *, model: str | None = None) -> None:
        """`model`: the one to use where none is named, also one that the catalogue doesn't list."""
        self._tasks = tasks
        self._default = catalogue.canonical(model, "whisper")

    async def models(self) -> Sequence[ServedModel]:
        """The default one, which has OpenAI's name too, and the catalogue's others."""
        return listed("whisper", self._default, OPENAI_NAME)

    async def transcribe(self, model_id: str, files: Sequence[bytes], wish: Wish) -> Sequence[Transcript | NotHeard]:
        """One task for all of them; cancelled with the call."""
        found: list[Transcript | NotHeard] = await self._tasks.run(
            "whisper",
            model_id,
            transcribe_all,
            model_id,
            list(files),
            wish,
            memory=memory_of(model_id),
        )
        return found

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether a worker could take speech."""
        return await self._tasks.takes("whisper")
