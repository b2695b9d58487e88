"""Recordings that arrive together are heard together: requests in, one call to the transcriber, an outcome for each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ...actors.whisper.speech import NotHeard, Transcript, Wish
from .audio_face import Transcriber
from .batch_driver import BatchDriver
from .batching import Batch, BatchLimits

SHORT_BYTES = 1_000_000
"""A larger file (30 s of wav, a minute of mp3) is heard alone: nobody waits for another's long recording."""


@dataclass(slots=True)
class _Waiting:
    """A request whose client waits."""

    file: bytes
    outcome: asyncio.Future[Transcript | NotHeard]

    def has(self, indices: Sequence[int]) -> bool:
        """Whether it has its transcript."""
        return self.outcome.done()

    def fail(self, error: BaseException) -> None:
        """End the request with an error, if it has not ended yet."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Group:
    """What can be heard in one call."""

    model_id: str
    wish: Wish
    alone: int | None
    """A number that nobody else has, for a large file."""


class AudioBatcher(BatchDriver[_Waiting]):
    """Short recordings for the same model with the same wish share a call. Lives on one event loop."""

    def __init__(self, transcriber: Transcriber, limits: BatchLimits) -> None:
        super().__init__(limits)
        self._transcriber = transcriber
        self._numbers = itertools.count()

    async def transcribe(self, model_id: str, file: bytes, wish: Wish, *, within: float) -> Transcript | NotHeard:
        """What is said in one recording.

        Raises QueueFull at once when there is no room, DeadlineExceeded after `within` seconds, what the transcriber
        raises, and Unavailable after `close`. Cancelling gives the recording up.
        """
        self._check_open()
        group = _Group(model_id, wish, next(self._numbers) if len(file) > SHORT_BYTES else None)
        ticket = self._queue.offer(group, [len(file)], self._now())
        request = _Waiting(file, asyncio.get_running_loop().create_future())
        await self._until_done(ticket, request, within)
        return request.outcome.result()

    async def _run(self, batch: Batch) -> None:
        """One call; what it raises is what each of its requests gets: they asked for the same."""
        waiting = [self._requests[ticket] for ticket in batch.parts if ticket in self._requests]
        try:
            heard = await self._hear(batch.group, [one.file for one in waiting])
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the outcome of the requests
            for one in waiting:
                one.fail(error)
            return
        for one, found in zip(waiting, heard, strict=True):
            if not one.outcome.done():
                one.outcome.set_result(found)

    async def _hear(self, group: Hashable, files: list[bytes]) -> list[Transcript | NotHeard]:
        assert isinstance(group, _Group)
        if not files:
            return []
        found = list(await self._transcriber.transcribe(group.model_id, files, group.wish))
        if len(found) != len(files):
            raise RuntimeError(f"{len(files)} recordings gave {len(found)} transcripts")
        return found
