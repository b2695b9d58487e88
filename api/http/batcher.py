"""Drives the batch queue: requests in, batches to the embedder, exactly one outcome for each request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .batching import Batch, BatchLimits, BatchQueue
from .embedder import BadInput, EmbedAnswer, Embedder, Input, Unavailable

log = logging.getLogger(__name__)

CHARS_PER_TOKEN = 4
"""What a token counts in the queue's size."""


class DeadlineExceeded(Exception):
    """The request was not answered in its time."""


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


class Batcher:
    """Computes requests together that arrive together. Lives on one event loop."""

    def __init__(self, embedder: Embedder, limits: BatchLimits, *, clock: Callable[[], float] | None = None) -> None:
        """`clock` gives seconds; the event loop's own unless a test gives another."""
        self._embedder = embedder
        self._queue = BatchQueue(limits)
        self._clock = clock
        self._requests: dict[int, _Request] = {}
        self._running: dict[int, tuple[Batch, asyncio.Task[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Inputs that wait for a batch."""
        return self._queue.items

    async def embed(self, model_id: str, inputs: Sequence[Input], *, within: float) -> EmbedAnswer:
        """Normalised vectors of the inputs, in their order.

        Raises QueueFull at once when there is no room, DeadlineExceeded after `within` seconds, what the embedder
        raises for these inputs, and Unavailable after `close`. Cancelling gives the inputs up that still wait, and
        batches in which nobody else has a part.
        """
        if self._closed:
            raise Unavailable("the service is shutting down")
        ticket = self._queue.offer(model_id, [_size(one) for one in inputs], self._now())
        request = _Request(inputs, asyncio.get_running_loop().create_future())
        self._requests[ticket] = request
        self._pump()
        try:
            async with asyncio.timeout(within):
                return await request.outcome
        except TimeoutError:
            if request.outcome.done() and not request.outcome.cancelled():
                return request.outcome.result()  # both happened in one turn of the loop: the answer counts
            raise DeadlineExceeded(f"no answer within {within:g} s") from None
        finally:
            self._forget(ticket)

    async def close(self) -> None:
        """End every request that is open with Unavailable, and every batch. Later ones are refused."""
        self._closed = True
        for request in self._requests.values():
            request.fail(Unavailable("the service is shutting down"))
        for ticket in list(self._requests):
            self._queue.withdraw(ticket)
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._set_timer(None)

    def _forget(self, ticket: int) -> None:
        """The client has its outcome or went away: nothing of its request is computed any more."""
        request = self._requests.pop(ticket)
        if request.outcome.done() and not request.outcome.cancelled():
            request.outcome.exception()  # seen, even if the client left in the same moment
        self._queue.withdraw(ticket)
        for batch, task in self._running.values():
            if ticket in batch.parts and not any(other in self._requests for other in batch.parts):
                task.cancel()
        self._pump()

    def _pump(self) -> None:
        """Send out every batch that is due, and come back when the next one will be."""
        while not self._closed and (batch := self._queue.take(self._now())) is not None:
            task = asyncio.create_task(self._run(batch), name=f"batch-{batch.number}")
            self._running[batch.number] = (batch, task)
            task.add_done_callback(partial(self._over, batch, self._now()))
        self._set_timer(None if self._closed else self._queue.look_again_at())

    def _over(self, batch: Batch, since: float, _: asyncio.Task[None]) -> None:
        """A batch ended. Whoever still waits for a part of it never gets one: the computation was cancelled."""
        for ticket, part in batch.parts.items():
            request = self._requests.get(ticket)
            if request is not None and not request.has(part):
                request.fail(Unavailable("the computation was cancelled"))
        del self._running[batch.number]
        self._queue.done(batch, self._now() - since)
        self._pump()

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._now()), self._pump)

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

    def _now(self) -> float:
        return (self._clock or asyncio.get_running_loop().time)()


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
