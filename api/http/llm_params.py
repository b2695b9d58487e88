"""What a request for generated text may ask for: OpenAI's parameters, vLLM's extras, and the refusal of all others."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from ...actors.llm.request import Sampling
from ...actors.llm.seeds import derived
from .bodies import Body, SelectiveBody
from .errors import ApiError

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_SEED = 2**63 - 1
ANY_OBJECT = '{"type":"object"}'
"""The schema behind `response_format: {"type": "json_object"}`."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "prompt_cache_retention": ("in_memory",),
    "prompt_cache_options": (),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "priority": (0,),
    "logits_processors": ([],),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "kv_transfer_params": (),
    "vllm_xargs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
"""Parameters of OpenAI's API and of vLLM that neither door supports → their values that ask for nothing."""
_TAKEN = Field(description="Taken, and of no influence on the answer.")
_Float = Annotated[StrictFloat, Field(allow_inf_nan=False)]


class StreamOptions(Body):
    """`stream_options`."""

    include_usage: StrictBool | None = None
    continuous_usage_stats: Annotated[StrictBool | None, Field(description="vLLM's: usage in every chunk.")] = None
    include_obfuscation: Annotated[Literal[False] | None, Field(description="There is none.")] = None


class JsonSchema(Body):
    """`response_format.json_schema`."""

    name: StrictStr
    description: StrictStr | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: Annotated[StrictBool | None, Field(description="The answer follows the schema in any case.")] = None


class ResponseFormat(Body):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and only with it")
        return self


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`: one of these."""

    json_: Annotated[dict[str, Any] | StrictStr | None, Field(alias="json")] = None
    regex: StrictStr | None = None
    choice: Annotated[list[StrictStr] | None, Field(min_length=1)] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(one is not None for one in (self.json_, self.regex, self.choice)) != 1:
            raise ValueError("exactly one of json, regex and choice is needed")
        return self


class GenerationBody(SelectiveBody):
    """What `chat/completions` and `completions` share. None is always the same as leaving a parameter out."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL

    model: Annotated[StrictStr, Field(description="Id or alias of a model that `GET /v1/models` lists.")]
    max_tokens: Annotated[StrictInt | None, Field(ge=1)] = None
    min_tokens: Annotated[StrictInt | None, Field(ge=0, description="vLLM's: no stop before so many tokens.")] = None
    temperature: Annotated[_Float | None, Field(ge=0, le=2, description="0: the likeliest token. Default 1.")] = None
    top_p: Annotated[_Float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[StrictInt | None, Field(ge=-1, description="vLLM's; 0 and -1: off.")] = None
    min_p: Annotated[_Float | None, Field(ge=0, le=1, description="vLLM's.")] = None
    presence_penalty: Annotated[_Float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[_Float | None, Field(ge=-2, le=2)] = None
    repetition_penalty: Annotated[_Float | None, Field(gt=0, description="vLLM's; 1: off.")] = None
    logit_bias: dict[str, Annotated[_Float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[StrictInt | None, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] = None
    stop: Annotated[StrictStr, Field(min_length=1)] | Annotated[
        list[Annotated[StrictStr, Field(min_length=1)]], Field(max_length=MAX_STOPS)
    ] | None = None  # fmt: skip
    stop_token_ids: Annotated[list[StrictInt] | None, Field(description="vLLM's.")] = None
    ignore_eos: Annotated[StrictBool | None, Field(description="vLLM's.")] = None
    response_format: ResponseFormat | None = None
    structured_outputs: Annotated[StructuredOutputs | None, Field(description="vLLM's.")] = None
    n: Annotated[StrictInt | None, Field(ge=1, le=MAX_CHOICES)] = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: Annotated[
        StrictStr | None, Field(description="vLLM's: your requests share cached prefixes only with the same salt.")
    ] = None
    user: Annotated[StrictStr | None, _TAKEN] = None
    safety_identifier: Annotated[StrictStr | None, _TAKEN] = None
    prompt_cache_key: Annotated[StrictStr | None, _TAKEN] = None
    metadata: Annotated[dict[str, str] | None, _TAKEN] = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    def wanted_logprobs(self) -> int | None:
        """Alternatives to each token; None: no log-probabilities at all."""
        raise NotImplementedError

    def sampling(self, max_tokens: int, vocab_size: int, *, logprobs: int | None) -> Sampling:
        """How tokens are chosen. Raises ApiError for ids that the model does not have and formats that conflict."""
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "it goes with stream=true only")
        if (self.min_tokens or 0) > max_tokens:
            raise invalid("min_tokens", f"{self.min_tokens} is more than max_tokens={max_tokens}")
        schema, regex = self.constraint()
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=_token_bias(self.logit_bias or {}, vocab_size),
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=_known_ids("stop_token_ids", self.stop_token_ids or (), vocab_size),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            json_schema=schema,
            regex=regex,
        )

    def constraint(self) -> tuple[str | None, str | None]:
        """JSON schema and regular expression that the text must follow."""
        asked, schema = self.structured_outputs, _schema_of(self.response_format)
        if asked is None:
            return schema, None
        if schema is not None:
            raise invalid("structured_outputs", "response_format asks for a form already")
        if asked.json_ is not None:
            return asked.json_ if isinstance(asked.json_, str) else json.dumps(asked.json_), None
        return None, asked.regex or "|".join(re.escape(one) for one in asked.choice or ())


def _schema_of(asked: ResponseFormat | None) -> str | None:
    if asked is None or asked.type == "text":
        return None
    if asked.json_schema is None or asked.json_schema.schema_ is None:
        return ANY_OBJECT
    return json.dumps(asked.json_schema.schema_)


def seed_of(seed: int, index: int) -> int:
    """The seed of a request's choice number `index`: the first one has the request's own."""
    return derived(seed, index) if index else seed


def tokens_left(prompt: int, wanted: int | None, context: int, *, param: str) -> int:
    """How many tokens may be generated after `prompt` tokens. Raises ApiError when the context can't hold them."""
    if prompt + (wanted or 1) > context:
        asked = f"{prompt} in the {param}, {wanted} in the completion" if wanted else f"{prompt} in the {param}"
        raise ApiError(
            400,
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{prompt + (wanted or 0)} tokens ({asked}). Please reduce the length of the {param} or completion.",
            param=param,
            code="context_length_exceeded",
        )
    return context - prompt if wanted is None else wanted


def as_bytes(text: str) -> list[int] | None:
    """UTF-8 of a token's text; None for a part of a character, which has no text of its own."""
    return None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())


def finite(logprob: float) -> float:
    """JSON has no infinity: what can't be chosen is as unlikely as OpenAI and vLLM say."""
    return max(logprob, -9999.0)


def invalid(param: str, what: str) -> ApiError:
    """400 for a value."""
    return ApiError(400, f"Invalid value for {param!r}: {what}.", param=param, code="invalid_value")


def _token_bias(bias: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    for name in bias:
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise invalid("logit_bias", f"its keys are token ids, not {name[:40]!r}")
    ids = _known_ids("logit_bias", [int(name) for name in bias], vocab_size)
    return dict(zip(ids, bias.values(), strict=True))


def _known_ids(param: str, ids: Any, vocab_size: int) -> tuple[int, ...]:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise invalid(param, f"it has the token id {token}, this model's ids end at {vocab_size - 1}")
    return tuple(ids)
