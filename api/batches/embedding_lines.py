"""Embeddings of a batch: the inputs of many requests together, those of like length next to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationError

from ...grid.config.service import Api
from ..http.batch_driver import DeadlineExceeded
from ..http.batching import QueueFull
from ..http.embedder import BadInput, EmbedAnswer, Embedder, Input, Unavailable
from ..http.embeddings import EmbeddingRequest, check_against, parse_input, rendered, shortened
from ..http.errors import ApiError, from_batcher, from_validation
from ..http.models import Models
from .endpoints import FIRST_PAUSE, LONGEST_PAUSE, patiently
from .lines import Line, Outcome

TASK_INPUTS = 128
"""Inputs of one task: an online request waits for one such task at most."""
CHECKED_AT_ONCE = 32
"""Requests that are checked before others have their turn on the event loop."""


@dataclass(slots=True)
class _Asked:
    """A request that can be computed."""

    place: int
    body: EmbeddingRequest
    model: str
    inputs: Sequence[Input]
    vectors: dict[int, Any] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    failed: Outcome | None = None

    @property
    def answer(self) -> EmbedAnswer:
        order = range(len(self.inputs))
        return EmbedAnswer(np.stack([self.vectors[index] for index in order]), [self.tokens[index] for index in order])


class EmbeddingLines:
    """`POST /v1/embeddings`, many at a time. See Endpoint."""

    part_lines = 2048
    parts_at_once = 3

    def __init__(self, embedder: Embedder, models: Models, limits: Api, *, tasks_at_once: int = 16) -> None:
        """`tasks_at_once`: tasks that wait for workers or run, over all batches."""
        self._embedder, self._models, self._limits = embedder, models, limits
        self._room = asyncio.Semaphore(tasks_at_once)

    def weigh(self, body: Mapping[str, Any]) -> int:
        """See Endpoint."""
        value = body.get("input")
        return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1

    async def compute(self, lines: Sequence[Line]) -> Sequence[Outcome]:
        """See Endpoint."""
        outcomes: list[Outcome | None] = [None] * len(lines)
        asked: list[_Asked] = []
        for place, line in enumerate(lines):
            if place % CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)  # online requests are served in between
            try:
                asked.append(await self._asked(place, line))
            except ApiError as error:
                outcomes[place] = _outcome(error)
        async with asyncio.TaskGroup() as group:
            for model in {one.model for one in asked}:
                for inputs in _tasks([one for one in asked if one.model == model]):
                    group.create_task(self._embed(model, inputs))
        for one, outcome in zip(asked, await asyncio.to_thread(_rendered, asked), strict=True):
            outcomes[one.place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    async def _asked(self, place: int, line: Line) -> _Asked:
        try:
            body = EmbeddingRequest.model_validate(line.body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise from_validation({**first, "loc": ("body", *first["loc"])}, line.body) from error
        model = await self._models.served(body.model)
        inputs = parse_input(body.input, self._limits.max_inputs)
        check_against(model, inputs, body.dimensions)
        return _Asked(place, body, model.id, inputs)

    async def _embed(self, model: str, inputs: Sequence[tuple[_Asked, int]]) -> None:
        """One task. An input that is refused is left out; what fails otherwise is computed request by request: no one
        fails for another."""
        left, pause = list(inputs), FIRST_PAUSE
        while left:
            try:
                async with self._room:
                    answer = await self._embedder.embed(model, [one.inputs[at] for one, at in left], background=True)
            except BadInput as error:
                if error.index is None or not 0 <= error.index < len(left):
                    break
                refused, at = left[error.index]
                refused.failed = _outcome(from_batcher(BadInput(str(error), index=at)))
                left = [(one, place) for one, place in left if one is not refused]
                continue
            except (QueueFull, DeadlineExceeded, Unavailable):  # busy or away: still together, once it is not
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
                continue
            except Exception:  # noqa: BLE001 - whatever it is, each request finds out for itself
                break
            for row, (one, at) in enumerate(left):
                one.vectors[at], one.tokens[at] = answer.vectors[row], answer.tokens[row]
            return
        for asked in {one.place: one for one, _ in left}.values():
            await self._alone(model, asked)

    async def _alone(self, model: str, one: _Asked) -> None:
        if one.failed is not None or len(one.vectors) == len(one.inputs):
            return

        async def embed() -> bytes:
            async with self._room:
                answer = await self._embedder.embed(model, one.inputs, background=True)
            for at in range(len(one.inputs)):
                one.vectors[at], one.tokens[at] = answer.vectors[at], answer.tokens[at]
            return b""

        outcome = await patiently(embed)
        one.failed = None if outcome.ok else outcome


def _tasks(asked: Sequence[_Asked]) -> Sequence[Sequence[tuple[_Asked, int]]]:
    """All inputs, the longest first, in tasks."""
    inputs = [(one, at) for one in asked for at in range(len(one.inputs))]
    inputs.sort(key=lambda pair: -len(pair[0].inputs[pair[1]]))
    return [inputs[start : start + TASK_INPUTS] for start in range(0, len(inputs), TASK_INPUTS)]


def _rendered(asked: Sequence[_Asked]) -> list[Outcome]:
    return [_render(one) for one in asked]


def _render(one: _Asked) -> Outcome:
    if one.failed is not None:
        return one.failed
    answer = one.answer
    if not np.isfinite(answer.vectors).all():
        return _outcome(from_batcher(BadInput("the model gave a vector with NaN or infinity")))
    try:
        vectors = shortened(answer.vectors, one.body.dimensions)
    except ApiError as error:
        return _outcome(error)
    return Outcome(200, rendered(one.model, vectors, answer.tokens, one.body.encoding_format or "float"))


def _outcome(error: ApiError) -> Outcome:
    return Outcome(error.status, bytes(error.response().body))
