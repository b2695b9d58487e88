"""What the HTTP service needs of whatever hears recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...actors.whisper.speech import NotHeard, Transcript, Wish
from .embedder import Readiness, ServedModel

OPENAI_NAME = "whisper-1"
"""What OpenAI calls its model: here the default one."""


class Transcriber(Protocol):
    """Hears recordings. Called from one event loop; calls may overlap."""

    async def models(self) -> Sequence[ServedModel]:
        """The models that can be asked for; the first is the default."""
        ...

    async def transcribe(self, model_id: str, files: Sequence[bytes], wish: Wish) -> Sequence[Transcript | NotHeard]:
        """What is said in each sound file, in order.

        Cancelling the call gives the work up. The files of one call may come from several requests with the same wish.
        Raises WishRefused, Unavailable.
        """
        ...

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether at least one worker can take this model, or, without an id, any model."""
        ...
