"""A painter and a viewer without models, for tests of the doors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from idlegrid.actors.diffusion.picture import NotDrawn, Wish
from idlegrid.actors.vision.look import Answer, Look, NotAnswered
from idlegrid.api.http.embedder import Readiness, ServedModel
from idlegrid.api.http.images_face import Drawn

BRUSH = ServedModel(id="tests/brush", aliases=("gpt-image-1",))
EYE = ServedModel(id="tests/eye", aliases=("eye",))


class Brush:
    """Its pictures are texts: what was wished for. A prompt ``bad…`` is refused, ``nan…`` fails.

    `gate` closed holds every call.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Wish]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Condition()
        self.given_up = asyncio.Event()
        self.ready_answer = Readiness(True)

    async def models(self) -> list[ServedModel]:
        return [BRUSH]

    async def ready(self, model_id: str | None = None) -> Readiness:
        return self.ready_answer

    async def draw(self, model_id: str, wishes: Sequence[Wish]) -> list[Drawn | NotDrawn]:
        self.calls.append((model_id, list(wishes)))
        async with self.called:
            self.called.notify_all()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        return [self.drawn(wish) for wish in wishes]

    @staticmethod
    def drawn(wish: Wish) -> Drawn | NotDrawn:
        if wish.prompt.startswith(("bad", "nan")):
            return NotDrawn("no such picture", refused=wish.prompt.startswith("bad"))
        return Drawn(f"{wish.prompt} {wish.width}x{wish.height} {wish.seed}".encode(), wish.seed)

    async def wait_for_calls(self, number: int) -> None:
        async with asyncio.timeout(60), self.called:
            await self.called.wait_for(lambda: len(self.calls) >= number)


class Eye:
    """It says how many pictures it was shown, of how many bytes. A text ``bad`` is refused."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Look]]] = []
        self.ready_answer = Readiness(True)

    async def models(self) -> list[ServedModel]:
        return [EYE]

    async def ready(self, model_id: str | None = None) -> Readiness:
        return self.ready_answer

    async def answer(self, model_id: str, looks: Sequence[Look]) -> list[Answer | NotAnswered]:
        self.calls.append((model_id, list(looks)))
        return [self.said(look) for look in looks]

    @staticmethod
    def said(look: Look) -> Answer | NotAnswered:
        if look.turns[-1].parts == ("bad",):
            return NotAnswered("the conversation is too long")
        return Answer(f"{[len(one) for one in look.pictures]} {look.wish.seed}", "stop", 7, 3)
