"""A transcriber without a model, for tests of the doors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from idlegrid.actors.whisper.speech import NotHeard, Segment, Transcript, Wish, WishRefused, Word
from idlegrid.api.http.embedder import Readiness, ServedModel

EAR = ServedModel(id="tests/ear", aliases=("whisper-1",))


class Ears:
    """It hears the bytes of a file as text. A file that begins with ``bad`` is no recording.

    `gate` closed holds every call; `language` ``xx`` is refused.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[bytes], Wish]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Condition()
        self.given_up = asyncio.Event()
        self.ready_answer = Readiness(True)

    async def models(self) -> list[ServedModel]:
        return [EAR]

    async def ready(self, model_id: str | None = None) -> Readiness:
        return self.ready_answer

    async def transcribe(self, model_id: str, files: Sequence[bytes], wish: Wish) -> list[Transcript | NotHeard]:
        self.calls.append((model_id, list(files), wish))
        async with self.called:
            self.called.notify_all()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        if wish.language == "xx":
            raise WishRefused("language 'xx' is not one that this model knows: en")
        return [self.heard(one, wish) for one in files]

    @staticmethod
    def heard(file: bytes, wish: Wish) -> Transcript | NotHeard:
        if file.startswith(b"bad"):
            return NotHeard("the file is no sound of a known format")
        text = file[:40].decode()
        words = (Word(0.0, 1.0, text),) if wish.words else None
        return Transcript(text, wish.language or "de", 2.5, (Segment(0.0, 2.5, text, (7,)),), words)

    async def wait_for_calls(self, number: int) -> None:
        async with asyncio.timeout(60), self.called:
            await self.called.wait_for(lambda: len(self.calls) >= number)
