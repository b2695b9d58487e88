"""What the HTTP service needs of whatever draws pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...actors.diffusion.picture import NotDrawn, Wish
from .embedder import Readiness, ServedModel

OPENAI_NAME = "gpt-image-1"
"""What OpenAI calls its model: here the default one."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture as a file."""

    data: bytes
    """PNG, looked at already: it is one, and of the size that was wished for."""
    seed: int


class Painter(Protocol):
    """Draws pictures. Called from one event loop; calls may overlap."""

    async def models(self) -> Sequence[ServedModel]:
        """The models that can be asked for; the first is the default."""
        ...

    async def draw(self, model_id: str, wishes: Sequence[Wish]) -> Sequence[Drawn | NotDrawn]:
        """A picture for each wish, in order, or why there is none.

        Cancelling the call gives the work up. The wishes of one call may come from several requests. Raises
        Unavailable.
        """
        ...

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether at least one worker can take this model, or, without an id, any model."""
        ...
