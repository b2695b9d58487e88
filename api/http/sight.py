"""`POST /v1/chat/completions` for models that see: conversations with pictures, answered by the job type `vision`.

The engines of language models read text. A model that sees runs as tasks: its answer comes whole, and a stream has it
in one piece.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from pydantic_core import to_json

from ...actors.vision.look import Answer, Look, NotAnswered, Turn, Wish
from ...grid.config.service import Api
from ..fetching import Fetched, FetchFailed, FetchRefused, inline_media
from ..fetching.inline import MediaRefused
from .batch_driver import DeadlineExceeded
from .bodies import UNSUPPORTED_PARAMETER
from .embeddings import unless_gone
from .errors import ApiError
from .llm_messages import Part, PictureAt, parse_parts
from .llm_params import invalid, seed_of
from .llm_stream import DONE
from .models import Models
from .sight_face import Viewer

if TYPE_CHECKING:
    from .chat import ChatRequest

MAX_TOKENS = 1024
"""Of an answer, where nobody says otherwise: as of the job type."""
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "min_tokens": (None, 0),
    "top_k": (None, 0, -1),
    "min_p": (None, 0.0),
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "logit_bias": (None, {}),
    "stop_token_ids": (None, []),
    "ignore_eos": (None, False),
    "structured_outputs": (None,),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
}
"""Parameters that only language models' engines have → values that ask for nothing."""


class Sight:
    """The door for models that see."""

    def __init__(self, viewer: Viewer, models: Models, limits: Api, fetcher: Fetched) -> None:
        """`fetcher`: who fetches pictures that are named by addresses."""
        self.models = models
        self._viewer, self._limits, self._fetcher = viewer, limits, fetcher

    async def takes(self, body: ChatRequest, others: Models) -> bool:
        """Whether the request is for a model that sees; one that `others` serve too is asked here about pictures."""
        if await self.models.find(body.model) is None:
            return False
        return await others.find(body.model) is None or _has_pictures(body.messages)

    async def answered(self, body: ChatRequest, request: Request) -> Response:
        """The response to a request, whole or as a stream. A client that goes away gives it up. Raises ApiError."""
        model = await self.models.served(body.model)
        wish = _wish(body)
        look = await self._look(body.messages, wish)
        await self.models.check_ready(model.id)
        looks = [replace(look, wish=replace(wish, seed=seed_of(wish.seed, index))) for index in range(body.choices)]
        answers = [_said(one) for one in await unless_gone(request, self._answers(model.id, looks))]
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model.id}
        if body.stream:
            return Response(_stream(head, answers, usage=body.include_usage), media_type="text/event-stream")
        return Response(to_json(_document(head, answers)), media_type="application/json")

    async def _answers(self, model_id: str, looks: Sequence[Look]) -> Sequence[Answer | NotAnswered]:
        within = self._limits.generation_timeout
        try:
            async with asyncio.timeout(within):
                return await self._viewer.answer(model_id, looks)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {within:g} s (setting api.generation_timeout)") from None

    async def _look(self, messages: Any, wish: Wish) -> Look:
        """The conversation, with the files of its pictures. Raises ApiError."""
        most = self._limits.max_inputs
        parse_parts(messages, most)  # nothing is fetched for a request that is wrong anyway
        try:
            inlined = await inline_media({"messages": messages}, self._fetcher)
        except FetchRefused as error:
            place = _as_here(error.place) if isinstance(error, MediaRefused) else "messages"
            raise ApiError(400, f"{place}: {error}", param=place, code="invalid_image_url") from None
        except FetchFailed as error:
            raise ApiError(
                400, f"A picture can't be fetched: {error}", param="messages", code="invalid_image_url"
            ) from None
        return await asyncio.to_thread(_opened, parse_parts(inlined["messages"], most), wish)


def _has_pictures(messages: Any) -> bool:
    """Whether there is a picture among what may be anything."""
    contents = [one.get("content") for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)


def _as_here(place: str) -> str:
    """``messages.0.content.1.image_url`` as the other errors write it."""
    return "".join(f"[{word}]" if word.isdecimal() else f".{word}" for word in place.split(".")).removeprefix(".")


def _opened(messages: Sequence[tuple[str, list[Part]]], wish: Wish) -> Look:
    """The files out of their data: URLs, which `inline_media` wrote."""
    turns = tuple(
        Turn(role, tuple(None if isinstance(part, PictureAt) else part for part in parts)) for role, parts in messages
    )
    urls = [part.url for _, parts in messages for part in parts if isinstance(part, PictureAt)]
    return Look(turns, tuple(base64.b64decode(url.partition(",")[2]) for url in urls), wish)


def _wish(body: ChatRequest) -> Wish:
    """How the answer is made. Raises ApiError for what only language models' engines can do."""
    for name, neutral in _UNSUPPORTED.items():
        if getattr(body, name) not in neutral:
            message = f"Unsupported parameter: {name!r} is not supported for models that see."
            raise ApiError(400, message, param=name, code=UNSUPPORTED_PARAMETER)
    if body.response_format is not None and body.response_format.type != "text":
        message = "Unsupported: models that see answer in text alone."
        raise ApiError(400, message, param="response_format", code=UNSUPPORTED_PARAMETER)
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options", "it goes with stream=true only")
    return Wish(
        max_tokens=body.wanted_tokens() or MAX_TOKENS,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=secrets.randbits(63) if body.seed is None else body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
    )


def _said(one: Answer | NotAnswered) -> Answer:
    if isinstance(one, NotAnswered):
        raise ApiError(400, f"This model can't answer that: {one.why}.", param="messages", code="invalid_value")
    return one


def _usage(answers: Sequence[Answer]) -> dict[str, int]:
    """As OpenAI counts: the prompt once."""
    prompt, said = answers[0].prompt_tokens, sum(one.completion_tokens for one in answers)
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def _document(head: dict[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": one.text, "refusal": None},
            "logprobs": None,
            "finish_reason": one.finish_reason,
        }
        for index, one in enumerate(answers)
    ]
    return head | {"object": "chat.completion", "choices": choices, "usage": _usage(answers)}


def _stream(head: dict[str, Any], answers: Sequence[Answer], *, usage: bool) -> bytes:
    """All of it as server-sent events."""
    head = head | {"object": "chat.completion.chunk"}
    last: dict[str, Any] = {"usage": None} if usage else {}
    events: list[dict[str, Any]] = []
    for index, one in enumerate(answers):
        for delta, reason in (({"role": "assistant", "content": one.text}, None), ({}, one.finish_reason)):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            events.append(head | {"choices": [choice]} | last)
    if usage:
        events.append(head | {"choices": [], "usage": _usage(answers)})
    return b"".join(b"data: " + to_json(event) + b"\n\n" for event in events) + DONE
