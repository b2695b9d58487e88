"""The job type `llm`: a conversation or a prompt in, a text out."""

from __future__ import annotations

import secrets
import uuid
from concurrent.futures import Future, wait
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..actors.llm.completion import Completion
from ..actors.llm.request import Request, Sampling
from ..grid.job_types import ALONE, Cancelled, RunContext
from .model_job import ModelJobType, ModelParams

MAX_MESSAGES = 2048
MAX_CHARACTERS = 1_000_000
"""In one message: more than any model reads."""
MAX_SEED = 2**63 - 1
POLL = 0.05
"""Seconds between two looks at whether to go on."""
_Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_CHARACTERS)]


class LlmParams(ModelParams):
    """Parameters of an llm job: `messages` or `prompt`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    prompt: _Text | None = None
    """A question; for a model that knows no conversations, a text to go on from."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Tokens to generate at most; the model's context may end the answer earlier."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.7
    """0: always the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.9
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Only so many of the likeliest tokens. None or 0: all."""
    stop: _Text | Annotated[list[_Text], Field(max_length=16)] | None = None
    """The answer ends before the first of these."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """The same seed gives the same answer. None: another one each time."""
    stream: bool = False
    """Whether tokens are told while they come; the result is the same."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give either messages or prompt")
        return self

    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k or 0,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=secrets.randbits(63) if self.seed is None else self.seed,
        )


class Usage(BaseModel):
    """How much was read and written."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]


class LlmResult(BaseModel):
    """Result of an llm job."""

    response: str
    finish_reason: Literal["stop", "length"]
    usage: Usage


class LlmJobType(ModelJobType):
    """See `grid.job_types.JobType`."""

    name = "llm"
    Params = LlmParams
    Result = LlmResult

    def run(self, params: LlmParams, context: RunContext = ALONE) -> LlmResult:
        """Generate in this process with its resident engine; with `stream`, `context.tokens` hears the text on the way.

        Raises Cancelled (the engine has given the request up), RequestRefused, GenerationFailed, EngineClosed.
        """
        from ..actors.llm.resident import encoded, llm_engine  # brings torch, which only the donor that computes has

        resident = llm_engine(self.model_of(params))
        messages = None if params.messages is None else [message.model_dump() for message in params.messages]
        prompt = encoded(resident.engine, messages, params.prompt)
        request = Request(id=uuid.uuid4().hex, prompt=prompt, sampling=params.sampling(), salt=context.salt)
        tell = context.tokens if params.stream else None
        done = _followed(resident.start(resident.answer(request, tell)), context)
        return LlmResult.model_validate(
            {
                "response": done.text,
                "finish_reason": done.finish_reason,
                "usage": {
                    "prompt_tokens": done.prompt_tokens,
                    "completion_tokens": done.completion_tokens,
                    "total_tokens": done.prompt_tokens + done.completion_tokens,
                },
            }
        )


def _followed(answer: Future[Completion], context: RunContext) -> Completion:
    """The answer, unless the attempt is to stop first: then the engine drops the request within a step."""
    while not wait([answer], POLL).done:
        if context.cancelled():
            answer.cancel()
            raise Cancelled
    return answer.result()


JOB_TYPE = LlmJobType()
