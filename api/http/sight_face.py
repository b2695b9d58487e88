"""What the HTTP service needs of whatever looks at pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...actors.vision.look import Answer, Look, NotAnswered
from .embedder import Readiness, ServedModel


class Viewer(Protocol):
    """Answers questions about pictures. Called from one event loop; calls may overlap."""

    async def models(self) -> Sequence[ServedModel]:
        """The models that can be asked for; the first is the default."""
        ...

    async def answer(self, model_id: str, looks: Sequence[Look]) -> Sequence[Answer | NotAnswered]:
        """An answer to each look, in order, or why there is none. Cancelling gives the work up. Raises Unavailable."""
        ...

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether at least one worker can take this model, or, without an id, any model."""
        ...
