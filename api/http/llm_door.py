"""What the doors for language models share: models, prompts, the choices of a request and what they used."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fastapi import Request as HttpRequest
from fastapi import Response
from pydantic_core import to_json

from ...actors.llm.engine_face import EngineFacts
from ...actors.llm.request import Event, Finished, Request, Sampling, TokenLogprob, Tokens
from ...grid.config.service import Api
from ...grid.tenants import Salts
from .embeddings import unless_gone
from .llm_errors import as_api_error
from .llm_face import ChatBackend, Message
from .llm_params import GenerationBody, seed_of
from .llm_stream import Choices, EventStream, Told, told
from .metrics import LlmMetrics
from .models import Models

GRACE = 5.0
"""Seconds that the engine has, beyond a request's timeout, to end it itself."""
TOKENS_KEPT = 200_000
"""Texts of single tokens that are remembered: a vocabulary or two."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is asked for: `n` choices for each prompt, numbered prompt by prompt."""

    tokens: Sequence[tuple[int, ...]]
    n: int

    def __len__(self) -> int:
        return len(self.tokens) * self.n

    def of(self, choice: int) -> tuple[int, ...]:
        """The prompt of a choice."""
        return self.tokens[choice // self.n]


@dataclass(slots=True)
class Usage:
    """Tokens of a request so far: a prompt counts once, however many choices it has."""

    prompt: int
    generated: dict[int, int] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    """Number of a prompt's first choice → tokens of the prompt that were in the prefix cache."""

    def add(self, index: int, event: Event, n: int) -> None:
        """Count an event of choice `index`."""
        if isinstance(event, Tokens):
            self.generated[index] = self.generated.get(index, 0) + len(event.ids)
        else:
            self.generated[index] = event.completion_tokens
            if index % n == 0:
                self.cached[index] = event.cached_tokens

    def document(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        completion = sum(self.generated.values())
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": completion,
            "total_tokens": self.prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached.values())},
        }


@dataclass(slots=True)
class Whole:
    """A choice that is not streamed: all that was said of it."""

    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, event: Event) -> None:
        """The next event of this choice."""
        self.parts.append(event.text)
        if isinstance(event, Finished):
            self.finish_reason = event.reason.value
        else:
            self.logprobs += event.logprobs

    @property
    def text(self) -> str:
        return "".join(self.parts)


class LlmDoor:
    """A backend as the routes use it: its errors are ApiErrors, and its work is measured."""

    def __init__(
        self, backend: ChatBackend, models: Models, limits: Api, metrics: LlmMetrics, salts: Salts | None = None
    ) -> None:
        """`salts`: of clients; None: those of a service without a secret."""
        self.salts = salts or Salts(shared=limits.share_prefixes)
        self.models, self.limits, self.metrics = models, limits, metrics
        self._backend = backend
        self._texts: dict[tuple[str, int], str] = {}

    async def facts(self, name: str) -> EngineFacts:
        """The model with this id or alias, if somebody serves it now. Raises ApiError; so do all methods."""
        model = await self.models.served(name)
        await self.models.check_ready(model.id)
        try:
            return replace(await self._backend.facts(model.id), model=model.id)
        except Exception as error:
            raise as_api_error(error) from error

    async def encode(self, model: str, text: str) -> tuple[int, ...]:
        try:
            return tuple(await self._backend.encode(model, text))
        except Exception as error:
            raise as_api_error(error) from error

    async def encode_chat(self, model: str, messages: Sequence[Message]) -> tuple[int, ...]:
        try:
            return tuple(await self._backend.encode_chat(model, messages))
        except Exception as error:
            failure = as_api_error(error)
            if failure.status == 400:
                failure.body["error"]["param"] = "messages"
            raise failure from error

    async def texts(self, model: str, tokens: Sequence[TokenLogprob]) -> Callable[[int], str]:
        """How tokens and their alternatives read."""
        wanted = {one.token for one in tokens} | {token for one in tokens for token, _ in one.top}
        missing = [token for token in wanted if (model, token) not in self._texts]
        if len(self._texts) + len(missing) > TOKENS_KEPT:
            self._texts.clear()
            missing = list(wanted)
        found = await asyncio.gather(*(self._backend.decode(model, [token]) for token in missing))
        self._texts.update({(model, token): text for token, text in zip(missing, found, strict=True)})
        return lambda token: self._texts[model, token]

    def choices(
        self,
        request_id: str,
        model: str,
        prompts: Prompts,
        sampling: Sampling,
        salt: str,
        *,
        background: bool = False,
    ) -> Choices:
        """The choices, not begun yet. `background`: they give way to others."""
        timeout, meter = self.limits.generation_timeout, self.metrics.started(model)
        streams: list[AsyncIterator[Event]] = [
            self._backend.generate(
                model,
                Request(
                    id=f"{request_id}-{index}",
                    prompt=prompts.of(index),
                    sampling=replace(sampling, seed=seed_of(sampling.seed, index)),
                    timeout=timeout,
                    salt=salt,
                    background=background,
                ),
                taken_by=partial(meter.taken_by, index),
            )
            for index in range(len(prompts))
        ]
        return Choices(streams, timeout + GRACE, meter)


class Answer:
    """How one door tells what its choices say. Made for one request."""

    prefix = ""
    """Of the answer's id."""
    chunk_kind = ""
    """The `object` of a stream's chunks."""

    def __init__(self, door: LlmDoor, facts: EngineFacts, prompts: Prompts, body: GenerationBody) -> None:
        self.door, self.facts, self.prompts = door, facts, prompts
        self.include_usage, self.continuous_usage = body.include_usage, body.continuous_usage
        self.with_logprobs = body.wanted_logprobs() is not None
        self.id = f"{self.prefix}{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.usage = Usage(sum(map(len, prompts.tokens)))
        self.offsets: dict[int, int] = {}
        """Number of a choice → where the text of its next token begins."""
        self._start = b"data: " + to_json(self.head(self.chunk_kind))[:-1] + b',"choices":['

    def head(self, kind: str) -> dict[str, Any]:
        """What every document of this answer begins with."""
        fingerprint = f"fp_{self.facts.revision}" if self.facts.revision else None
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.facts.model,
            "system_fingerprint": fingerprint,
        }

    def count(self, index: int, event: Event) -> None:
        self.usage.add(index, event, self.prompts.n)

    def chunk(self, choice: bytes) -> bytes:
        """An event of the stream with one choice. Only what differs from chunk to chunk is encoded for each.

        Its `usage` is absent unless usage was asked for, and then null until the end.
        """
        if not self.include_usage:
            return self._start + choice + b"]}\n\n"
        usage = to_json(self.usage.document()) if self.continuous_usage else b"null"
        return self._start + choice + b'],"usage":' + usage + b"}\n\n"

    def begin(self) -> bytes:
        """What a stream starts with."""
        return b""

    async def render(self, batch: list[Told]) -> bytes:
        """Events as server-sent events."""
        raise NotImplementedError

    def end(self) -> bytes:
        """What a stream ends with, before `[DONE]`: a chunk without choices, if usage was asked for."""
        if not self.include_usage:
            return b""
        return self._start + b'],"usage":' + to_json(self.usage.document()) + b"}\n\n"

    async def document(self, whole: Sequence[Whole]) -> dict[str, Any]:
        """The answer that is not streamed."""
        raise NotImplementedError


async def answered(answer: Answer, choices: Choices, request: HttpRequest, *, stream: bool) -> Response:
    """The response to a request. A client that goes away aborts its choices. Raises ApiError."""
    if not stream:
        document = await unless_gone(request, whole_document(answer, choices))
        return Response(to_json(document), media_type="application/json")
    body = told(choices, answer.begin, answer.render, answer.end)
    first = await unless_gone(request, anext(body))
    return EventStream(first, body)


async def whole_document(answer: Answer, choices: Choices) -> dict[str, Any]:
    """All choices, computed to their ends, as one document. Raises ApiError."""
    whole = [Whole() for _ in range(len(answer.prompts))]
    async with choices:
        async for batch in choices.batches():
            for index, event in batch:
                answer.count(index, event)
                whole[index].add(event)
    return await answer.document(whole)
