"""Chat and completions of a batch: each request in the background of the engines that serve online ones too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from ..http.chat import ChatRequest, chat_answer
from ..http.completions import CompletionRequest, completion_answer
from ..http.errors import from_validation
from ..http.llm_door import Answer, LlmDoor, whole_document
from ..http.llm_stream import Choices
from .endpoints import patiently
from .lines import Line, Outcome

B = TypeVar("B", bound=BaseModel)
Prepared = tuple[Answer, Choices]

REQUESTS_AT_ONCE = 64
"""Of all batches: that engines have, or wait for."""


class LlmLines:
    """`POST /v1/chat/completions` or `/v1/completions`. See Endpoint."""

    part_lines = 64
    parts_at_once = 4

    def __init__(
        self, prepare: Callable[[Mapping[str, Any], str], Awaitable[Prepared]], room: asyncio.Semaphore
    ) -> None:
        """`prepare` gets a request's body and its client; `room`: what all of them share."""
        self._prepare, self._room = prepare, room

    def weigh(self, body: Mapping[str, Any]) -> int:
        """See Endpoint."""
        return 1

    async def compute(self, lines: Sequence[Line]) -> Sequence[Outcome]:
        """See Endpoint."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(line)) for line in lines]
        return [task.result() for task in tasks]

    async def _one(self, line: Line) -> Outcome:
        async def compute() -> bytes:
            async with self._room:  # not while it waits: requests for a model that is away would take all the room
                answer, choices = await self._prepare(line.body, line.client_id)
                return to_json(await whole_document(answer, choices))

        return await patiently(compute)


def llm_endpoints(door: LlmDoor) -> dict[str, LlmLines]:
    """Both endpoints of language models, by their paths."""
    room = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def chat(body: Mapping[str, Any], client_id: str) -> Prepared:
        return await chat_answer(door, _valid(ChatRequest, body), client_id, background=True)

    async def complete(body: Mapping[str, Any], client_id: str) -> Prepared:
        return await completion_answer(door, _valid(CompletionRequest, body), client_id, background=True)

    return {"/v1/chat/completions": LlmLines(chat, room), "/v1/completions": LlmLines(complete, room)}


def _valid(kind: type[B], body: Mapping[str, Any]) -> B:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise from_validation({**first, "loc": ("body", *first["loc"])}, body) from error
