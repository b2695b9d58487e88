"""What the HTTP service needs of whatever computes the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Input = str | list[int]
"""One thing to embed: a text, or the token ids of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that can be asked for. What is not known before the model is loaded somewhere is None."""

    id: str
    aliases: tuple[str, ...] = ()
    """Other names that clients may use; case does not matter."""
    dimension: int | None = None
    """Length of a full vector."""
    max_tokens: int | None = None
    """Tokens that one input may have."""
    vocab_size: int | None = None
    """Token ids lie in 0 … vocab_size - 1."""
    created: int = 0
    """Unix seconds, for `GET /v1/models`."""
    owned_by: str = "idlegrid"


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """Vectors of a batch, and what they cost."""

    vectors: NDArray[np.float32]
    """(n, d), in the order of the inputs."""
    tokens: list[int]
    """Tokens of each input."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether work can be done now."""

    ok: bool
    reason: str = ""
    """Why not, for people; shown to clients."""


class EmbedError(Exception):
    """The work cannot be done. `str()` is shown to the client; any other exception is shown as an internal error."""


class BadInput(EmbedError):
    """An input cannot be embedded by this model: too long, or with a token id that the model does not know."""

    def __init__(self, what: str, *, index: int | None = None) -> None:
        """`what` is wrong, as a sentence without the input's number; `index`: which of the inputs of the call it is."""
        super().__init__(what)
        self.index = index


class Unavailable(EmbedError):
    """Nobody can do the work now."""

    def __init__(self, reason: str, *, retry_after: float = 5.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        """Seconds after which another try makes sense."""


class Embedder(Protocol):
    """Computes vectors. Called from one event loop; calls may overlap."""

    async def models(self) -> Sequence[ServedModel]:
        """The models that can be asked for; the first is the default."""
        ...

    async def embed(
        self, model_id: str, inputs: Sequence[Input], *, normalize: bool = True, background: bool = False
    ) -> EmbedAnswer:
        """Vectors of `inputs` by the model with this id (a `ServedModel.id`).

        `background`: the work gives way to all that is not. Cancelling the call gives the work up. Raises BadInput or
        Unavailable. The inputs of one call may come from several requests: when a call fails, each request is tried
        again by itself.
        """
        ...

    async def ready(self, model_id: str | None = None) -> Readiness:
        """Whether at least one worker can take this model, or, without an id, any model."""
        ...
