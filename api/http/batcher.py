"""Drives the batch queue: requests in, batches to the embedder, exactly one outcome for each request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .batch_driver import BatchDriver
from .batching import Batch, BatchLimits
from .embedder import BadInput, EmbedAnswer, Embedder, Input, Unavailable

log = logging.getLogger(__name__)

CHARS_PER_TOKEN = 4
"""What a token counts in the queue's size."""


class BadAnswer(Exception):
    """The embedder's answer does not fit what it was asked: a defect behind the door."""


@dataclass(slots=True)
class _Request:
    """A request whose client waits."""

    inputs: Sequence[Input]
    outcome: asyncio.Future[EmbedAnswer]
    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Index of an input → its vector (d,)."""
    tokens: dict[int, int] = field(default_factory=dict)

    def deliver(self, indices: Sequence[int], answer: EmbedAnswer) -> None:
        """Take the answer for some inputs; the last one completes the request."""
        for row, index in enumerate(indices):
            self.vectors[index], self.tokens[index] = answer.vectors[row], answer.tokens[row]
        if len(self.vectors) == len(self.inputs) and not self.outcome.done():
            order = range(len(self.inputs))
            vectors = np.stack([self.vectors[index] for index in order])
            self.outcome.set_result(EmbedAnswer(vectors, [self.tokens[index] for index in order]))

    def has(self, indices: Sequence[int]) -> bool:
        """Whether these inputs have their vectors."""
        return all(index in self.vectors for index in indices)

    def fail(self, error: BaseException) -> None:
        """End the request with an error, if it has not ended yet."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Batcher(BatchDriver[_Request]):
    """Computes requests together that arrive together. Lives on one event loop."""

    def __init__(self, embedder: Embedder, limits: BatchLimits, *, clock: Callable[[], float] | None = None) -> None:
        """See `BatchDriver`."""
        super().__init__(limits, clock=clock)
        self._embedder = embedder

    async def embed(self, model_id: str, inputs: Sequence[Input], *, within: float) -> EmbedAnswer:
        """Normalised vectors of the inputs, in their order.

        Raises QueueFull at once when there is no room, DeadlineExceeded after `within` seconds, what the embedder
        raises for these inputs, and Unavailable after `close`. Cancelling gives the inputs up that still wait, and
        batches in which nobody else has a part.
        """
        self._check_open()
        ticket = self._queue.offer(model_id, [_size(one) for one in inputs], self._now())
        request = _Request(inputs, asyncio.get_running_loop().create_future())
        await self._until_done(ticket, request, within)
        return request.outcome.result()

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
        """Embed the parts of the requests that are still open, and hand out what comes back."""
        open_parts = {ticket: part for ticket, part in parts.items() if ticket in self._requests}
        if not open_parts:
            return
        inputs = [self._requests[ticket].inputs[index] for ticket, part in open_parts.items() for index in part]
        answer = await self._embedder.embed(str(model_id), inputs)
        _check(answer, len(inputs))
        start = 0
        for ticket, part in open_parts.items():
            rows = slice(start, start + len(part))
            start = rows.stop
            if ticket in self._requests:
                self._requests[ticket].deliver(part, EmbedAnswer(answer.vectors[rows], answer.tokens[rows]))

    def _fail(self, parts: dict[int, list[int]], error: BaseException) -> None:
        for ticket in parts:
            if ticket in self._requests:
                self._requests[ticket].fail(error)


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
