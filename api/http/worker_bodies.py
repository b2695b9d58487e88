"""What workers say of their attempts, and what they are told."""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeVar

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from ...grid.jobs import JobStatus
from .problems import Problem, from_validation

M = TypeVar("M", bound=BaseModel)

MAX_TEXT = 100_000
"""Characters of text in one sign of life."""
NAME = r"^[A-Za-z0-9._:@/+-]{1,128}$"
"""Of workers, and of processes of theirs."""
WorkerId = Annotated[str, Path(max_length=128, pattern=NAME)]


class _Word(BaseModel):
    """What every word of an attempt begins with."""

    model_config = ConfigDict(extra="forbid")

    fence: int = Field(ge=1, le=2**31 - 1, description="Number of the claim.")
    incarnation: str = Field(pattern=NAME, description="Which process of the worker speaks.")


class ProgressBody(_Word):
    """A sign of life."""

    begin: bool = Field(False, description="Bind the attempt to this process: it computes from now on.")
    progress: dict[str, Any] | None = Field(None, description="How far the work is; a small object.")
    text: str | None = Field(None, max_length=MAX_TEXT, description="What was generated since the last time.")
    tokens: list[str] | None = Field(None, max_length=10_000, description="The same in pieces.")

    @property
    def said(self) -> str:
        """All the text in it."""
        return "".join([*(self.tokens or ()), self.text or ""])


class AttemptError(BaseModel):
    """Why an attempt gave no result."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    message: str = Field("", max_length=2000)
    retry: bool = Field(True, description="Another worker may do better.")
    death: bool = Field(False, description="The process that computed died of it.")


class CompleteBody(_Word):
    """How an attempt ended."""

    success: bool
    result: dict[str, Any] | None = None
    error: AttemptError | None = None
    processing_time: float = Field(0.0, ge=0, allow_inf_nan=False, description="Seconds.")
    usage: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.result is None, self.error is None) != (not self.success, self.success):
            raise ValueError("a success comes with a result, a failure with an error")
        return self


class LeaseDocument(BaseModel):
    """The attempt goes on."""

    lease_seconds: float = Field(description="Silent for so long, and the job goes to another worker.")
    cancel: bool = Field(description="Stop, and say so with the error code `cancelled`.")


class EndDocument(BaseModel):
    """The attempt is over."""

    status: JobStatus = Field(description="Of the job from now on.")


class AssignmentDocument(BaseModel):
    """A job for the worker that asked."""

    job_id: str
    fence: int
    type: str
    params: dict[str, Any]
    timeout_seconds: float
    lease_seconds: float = Field(description="Begin within this time, by `progress` with `begin`.")
    max_result_bytes: int = Field(description="A result that is larger is not taken: fail with `result_too_large`.")
    attempt_token: str = Field(description="For the header X-Attempt-Token of everything said about this attempt.")
    trace_id: str | None
    salt: str = Field(description="Cached prefixes are only for jobs with the same salt.")


def read(model: type[M], body: bytes) -> M:
    """A worker's words, checked. May take long: not for the event loop. Raises Problem 400 or 422.

    JSON in the strict sense: no NaN, no half of a surrogate pair.
    """
    try:
        said = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        raise Problem("invalid_json", "The body of the request is not valid JSON.") from None
    try:
        return model.model_validate(said)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)) from None


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` for a route that reads its body itself."""
    schema = model.model_json_schema()
    inlined = _inline(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inline(part: Any, definitions: dict[str, Any]) -> Any:
    """The schema with its definitions in the places that refer to them."""
    if isinstance(part, dict):
        if "$ref" in part:
            return _inline(definitions[part["$ref"].rpartition("/")[2]], definitions)
        return {name: _inline(value, definitions) for name, value in part.items()}
    return [_inline(value, definitions) for value in part] if isinstance(part, list) else part
