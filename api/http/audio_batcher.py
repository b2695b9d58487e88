"""Recordings that arrive together are heard together: requests in, one call to the transcriber, an outcome for each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ...actors.whisper.speech import NotHeard, Transcript, Wish
from .audio_face import Transcriber
from .batch_driver import BatchDriver
from .batching import Batch, BatchLimits

SHORT_BYTES = 1_000_000
"""A larger file (30 s of wav, a minute of mp3) is heard alone: nobody waits for another's long recording."""


@dataclass(frozen=True, slots=True)
class _Group:
    """What can be heard in one call."""

    model_id: str
    wish: Wish
    alone: int | None
    """A number that nobody else has, for a large file."""


class AudioBatcher(BatchDriver[bytes, Transcript | NotHeard]):
    """Short recordings for the same model with the same wish share a call. Lives on one event loop."""

    def __init__(self, transcriber: Transcriber, limits: BatchLimits) -> None:
        super().__init__(limits)
        self._transcriber = transcriber
        self._numbers = itertools.count()

    async def transcribe(self, model_id: str, file: bytes, wish: Wish, *, within: float) -> Transcript | NotHeard:
        """What is said in one recording. Raises as `BatchDriver` says."""
        group = _Group(model_id, wish, next(self._numbers) if len(file) > SHORT_BYTES else None)
        [heard] = await self._outcomes(group, [file], [len(file)], within)
        return heard

    async def _run(self, batch: Batch) -> None:
        """One call; what it raises is what each of its requests gets: they asked for the same."""
        group = batch.group
        assert isinstance(group, _Group)
        try:
            await self._share_out(
                batch.parts, lambda files: self._transcriber.transcribe(group.model_id, files, group.wish)
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the outcome of the requests
            self._fail(batch.parts, error)
