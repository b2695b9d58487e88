"""`POST /v1/completions`, as OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt, WithJsonSchema
from pydantic_core import to_json

from ...actors.llm.engine_face import EngineFacts
from ...actors.llm.request import Event, Finished, TokenLogprob
from .auth import principal
from .embeddings import parse_input
from .llm_door import Answer, LlmDoor, Prompts, Whole, answered
from .llm_params import MAX_CHOICES, NEUTRAL, GenerationBody, finite, invalid, tokens_left
from .llm_stream import Choices, Told

MAX_TOKENS = 16
"""Tokens to generate when none are asked for, as OpenAI's and vLLM's."""
MOST_LOGPROBS = 20
_PROMPT = {
    "description": "A text, a list of texts, the token ids of one prompt, or a list of those.",
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ],
}


class CompletionRequest(GenerationBody):
    """The body of `POST /v1/completions`."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **NEUTRAL,
        "suffix": ("",),
        "echo": (False,),
        "add_special_tokens": (True,),
    }

    prompt: Annotated[Any, WithJsonSchema(_PROMPT)]
    logprobs: Annotated[StrictInt | None, Field(ge=0, le=MOST_LOGPROBS)] = None
    best_of: Annotated[StrictInt | None, Field(ge=1, description="The same as n.")] = None

    def wanted_logprobs(self) -> int | None:
        """Alternatives to each token; None: no log-probabilities at all."""
        return self.logprobs


def completions_router(door: LlmDoor) -> APIRouter:
    """The route, bound to what answers it."""
    router = APIRouter(prefix="/v1", tags=["completions"])

    @router.post("/completions")
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """How a text goes on, whole or streamed."""
        answer, choices = await completion_answer(door, body, principal(request).client_id)
        return await answered(answer, choices, request, stream=bool(body.stream))

    return router


async def completion_answer(
    door: LlmDoor, body: CompletionRequest, client_id: str, *, background: bool = False
) -> tuple[CompletionAnswer, Choices]:
    """The answer to a request, and its choices, not begun yet. Raises ApiError."""
    if body.best_of not in (None, body.choices):
        raise invalid("best_of", "choices are not ranked here, so it must be the same as n")
    given = parse_input(body.prompt, MAX_CHOICES, param="prompt")
    if len(given) * body.choices > MAX_CHOICES:
        raise invalid("n", f"{len(given)} prompts with {body.choices} choices each, at most {MAX_CHOICES} in all")
    facts = await door.facts(body.model)
    tokens = [await _tokens(door, facts, one) for one in given]
    wanted = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    for one in tokens:
        tokens_left(len(one), wanted, facts.context, param="prompt")
    sampling = body.sampling(wanted, facts.vocab_size, logprobs=body.wanted_logprobs())
    prompts = Prompts(tokens, body.choices)
    answer = CompletionAnswer(door, facts, prompts, body)
    salt = door.salts.of(client_id, body.cache_salt)
    return answer, door.choices(answer.id, facts.model, prompts, sampling, salt, background=background)


async def _tokens(door: LlmDoor, facts: EngineFacts, prompt: str | list[int]) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return await door.encode(facts.model, prompt)
    if max(prompt) >= facts.vocab_size:
        raise invalid("prompt", f"it has the token id {max(prompt)}, this model's ids end at {facts.vocab_size - 1}")
    return tuple(prompt)


class CompletionAnswer(Answer):
    """Choices as `text_completion`; its chunks have the same shape."""

    prefix = "cmpl-"
    kind = chunk_kind = "text_completion"

    async def render(self, batch: list[Told]) -> bytes:
        return b"".join([await self._lines(index, event) for index, event in batch])

    async def _lines(self, index: int, event: Event) -> bytes:
        self.count(index, event)
        reason = event.reason.value if isinstance(event, Finished) else None
        logprobs = () if isinstance(event, Finished) else event.logprobs
        if not (event.text or logprobs or reason):
            return b""
        shown = await self._logprobs(index, logprobs) if logprobs else None
        said = (index, to_json(event.text), to_json(shown), to_json(reason))
        return self.chunk(b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}' % said)

    async def document(self, whole: Sequence[Whole]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "text": one.text,
                "logprobs": await self._logprobs(index, one.logprobs) if self.with_logprobs else None,
                "finish_reason": one.finish_reason,
            }
            for index, one in enumerate(whole)
        ]
        return self.head(self.kind) | {"choices": choices, "usage": self.usage.document()}

    async def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """As OpenAI shows them; offsets count from the beginning of the choice's text."""
        text = await self.door.texts(self.facts.model, tokens)
        shown = [text(one.token) for one in tokens]
        offsets = []
        for one in shown:
            offsets.append(self.offsets.get(index, 0))
            self.offsets[index] = offsets[-1] + len(one)
        return {
            "tokens": shown,
            "token_logprobs": [finite(one.logprob) for one in tokens],
            "top_logprobs": [{text(token): finite(value) for token, value in one.top} for one in tokens],
            "text_offset": offsets,
        }
