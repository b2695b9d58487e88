"""`POST /v1/chat/completions`, as OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool, StrictInt, WithJsonSchema
from pydantic_core import to_json

from ...actors.llm.request import Event, Finished, TokenLogprob
from .auth import principal
from .llm_door import Answer, LlmDoor, Prompts, Whole, answered
from .llm_messages import parse_messages
from .llm_params import NEUTRAL, GenerationBody, as_bytes, finite, invalid, tokens_left
from .llm_stream import Choices, Told
from .sight import Sight

MOST_TOP_LOGPROBS = 20
_MESSAGES = {
    "description": "The conversation so far: objects with `role` and `content` (a text, or parts: `text`, and "
    "for models that see `image_url`).",
    "type": "array",
    "items": {"type": "object"},
}


class ChatRequest(GenerationBody):
    """The body of `POST /v1/chat/completions`."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **NEUTRAL,
        "tools": ([],),
        "tool_choice": ("none",),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none",),
        "audio": (),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "web_search_options": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "add_special_tokens": (False,),
        "include_reasoning": (True, False),
        "mm_processor_kwargs": (),
    }

    messages: Annotated[Any, WithJsonSchema(_MESSAGES)]
    max_completion_tokens: Annotated[StrictInt | None, Field(ge=1, description="The same as max_tokens.")] = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt | None, Field(ge=0, le=MOST_TOP_LOGPROBS)] = None

    def wanted_tokens(self) -> int | None:
        """Tokens to generate at most; None: as many as the model's context holds."""
        both = {one for one in (self.max_tokens, self.max_completion_tokens) if one is not None}
        if len(both) > 1:
            raise invalid("max_completion_tokens", "it is another name for max_tokens, and they differ")
        return both.pop() if both else None

    def wanted_logprobs(self) -> int | None:
        """Alternatives to each token; None: no log-probabilities at all."""
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "it goes with logprobs=true only")
        return (self.top_logprobs or 0) if self.logprobs else None


def chat_router(door: LlmDoor, sight: Sight | None = None) -> APIRouter:
    """The route, bound to what answers it: a model that sees has its own door."""
    router = APIRouter(prefix="/v1", tags=["chat"])

    @router.post("/chat/completions")
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        """The next message of a conversation, whole or streamed."""
        if sight is not None and await sight.takes(body, door.models):
            return await sight.answered(body, request)
        answer, choices = await chat_answer(door, body, principal(request).client_id)
        return await answered(answer, choices, request, stream=bool(body.stream))

    return router


async def chat_answer(
    door: LlmDoor, body: ChatRequest, client_id: str, *, background: bool = False
) -> tuple[ChatAnswer, Choices]:
    """The answer to a request, and its choices, not begun yet. Raises ApiError."""
    messages = parse_messages(body.messages, door.limits.max_inputs)
    wanted, logprobs = body.wanted_tokens(), body.wanted_logprobs()
    facts = await door.facts(body.model)
    prompt = await door.encode_chat(facts.model, messages)
    room = tokens_left(len(prompt), wanted, facts.context, param="messages")
    sampling = body.sampling(room, facts.vocab_size, logprobs=logprobs)
    prompts = Prompts([prompt], body.choices)
    answer = ChatAnswer(door, facts, prompts, body)
    salt = door.salts.of(client_id, body.cache_salt)
    return answer, door.choices(answer.id, facts.model, prompts, sampling, salt, background=background)


class ChatAnswer(Answer):
    """Choices as `chat.completion`, or as its chunks."""

    prefix = "chatcmpl-"
    chunk_kind = "chat.completion.chunk"

    def begin(self) -> bytes:
        delta = b'{"role":"assistant","content":"","refusal":null}'
        return b"".join(self._chunk(index, delta) for index in range(len(self.prompts)))

    async def render(self, batch: list[Told]) -> bytes:
        return b"".join([await self._lines(index, event) for index, event in batch])

    async def _lines(self, index: int, event: Event) -> bytes:
        self.count(index, event)
        lines = b""
        logprobs = () if isinstance(event, Finished) else event.logprobs
        if event.text or logprobs:
            shown = to_json(await self._logprobs(logprobs)) if logprobs else b"null"
            lines = self._chunk(index, b'{"content":' + to_json(event.text) + b"}", shown)
        if isinstance(event, Finished):
            lines += self._chunk(index, b"{}", reason=to_json(event.reason.value))
        return lines

    def _chunk(self, index: int, delta: bytes, logprobs: bytes = b"null", reason: bytes = b"null") -> bytes:
        return self.chunk(
            b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}' % (index, delta, logprobs, reason)
        )

    async def document(self, whole: Sequence[Whole]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "logprobs": await self._logprobs(one.logprobs) if self.with_logprobs else None,
                "finish_reason": one.finish_reason,
            }
            for index, one in enumerate(whole)
        ]
        return self.head("chat.completion") | {"choices": choices, "usage": self.usage.document()}

    async def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """As OpenAI shows them; a token that is only a part of a character has no bytes of its own."""
        text = await self.door.texts(self.facts.model, tokens)

        def entry(token: int, logprob: float) -> dict[str, Any]:
            return {"token": text(token), "logprob": finite(logprob), "bytes": as_bytes(text(token))}

        content = [
            entry(one.token, one.logprob) | {"top_logprobs": [entry(token, value) for token, value in one.top]}
            for one in tokens
        ]
        return {"content": content, "refusal": None}
