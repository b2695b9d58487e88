"""Drives the batch queue: requests in, batches to the embedder, exactly one outcome for each request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .batch_driver import BatchDriver
from .batching import Batch, BatchLimits
from .embedder import BadInput, EmbedAnswer, Embedder, Input, Unavailable

log = logging.getLogger(__name__)

Vector = tuple[NDArray[np.float32], int]
"""Of one input: (d,), and its tokens."""
CHARS_PER_TOKEN = 4
"""What a token counts in the queue's size."""


class BadAnswer(Exception):
    """The embedder's answer does not fit what it was asked: a defect behind the door."""


class Batcher(BatchDriver[Input, Vector]):
    """Computes requests together that arrive together. Lives on one event loop."""

    def __init__(self, embedder: Embedder, limits: BatchLimits, *, clock: Callable[[], float] | None = None) -> None:
        """See `BatchDriver`."""
        super().__init__(limits, clock=clock)
        self._embedder = embedder

    async def embed(self, model_id: str, inputs: Sequence[Input], *, within: float) -> EmbedAnswer:
        """Normalised vectors of the inputs, in their order.

        Raises as `BatchDriver` says: of the embedder's errors those for these inputs.
        """
        found = await self._outcomes(model_id, inputs, [_size(one) for one in inputs], within)
        return EmbedAnswer(np.stack([vector for vector, _ in found]), [tokens for _, tokens in found])

    async def _run(self, batch: Batch) -> None:
        """Compute one batch. When it fails, each request is tried by itself: nobody fails for another's input."""
        try:
            await self._compute(batch.group, batch.parts)
        except Unavailable as error:
            self._fail(batch.parts, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the outcome of the requests
            if len(batch.parts) == 1:
                self._fail(batch.parts, _in_its_request(error, batch.parts))
            else:
                log.warning("batch of %d requests failed (%s), each is tried by itself", len(batch.parts), type(error))
                await asyncio.gather(*(self._alone(batch.group, {key: part}) for key, part in batch.parts.items()))

    async def _alone(self, model_id: object, parts: dict[int, list[int]]) -> None:
        try:
            await self._compute(model_id, parts)
        except Exception as error:  # noqa: BLE001 - see _run
            self._fail(parts, _in_its_request(error, parts))

    async def _compute(self, model_id: object, parts: dict[int, list[int]]) -> None:
        """Embed what is still wanted of the parts, and hand out what comes back."""

        async def embed(inputs: list[Input]) -> list[Vector]:
            answer = await self._embedder.embed(str(model_id), inputs)
            _check(answer, len(inputs))
            return list(zip(answer.vectors, answer.tokens, strict=True))

        await self._share_out(parts, embed)


def _in_its_request(error: Exception, parts: dict[int, list[int]]) -> Exception:
    """`error` of a call for one request: the number of a bad input as its client counts."""
    (part,) = parts.values()
    if isinstance(error, BadInput) and error.index is not None:
        return BadInput(str(error), index=part[error.index])
    return error


def _size(one: Input) -> int:
    return len(one) if isinstance(one, str) else CHARS_PER_TOKEN * len(one)


def _check(answer: EmbedAnswer, inputs: int) -> None:
    if answer.vectors.ndim != 2 or len(answer.vectors) != inputs or len(answer.tokens) != inputs:
        raise BadAnswer(f"{inputs} inputs gave vectors of shape {answer.vectors.shape} and {len(answer.tokens)} counts")
    if not np.isfinite(answer.vectors).all():
        raise BadAnswer("the model gave values that are not finite")
