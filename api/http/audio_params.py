"""The form of `POST /v1/audio/…`, checked: what is asked for, and the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from ...actors.whisper.speech import Task, Wish
from ...grid.suggest import did_you_mean
from .audio_formats import Format
from .bodies import UNKNOWN_PARAMETER, UNSUPPORTED_PARAMETER
from .errors import ApiError

MIB = 2**20
MARGIN = 256 * 1024
"""Bytes of a request beside its file: the other fields, and what separates them."""
MAX_PROMPT = 4096
_LISTS = ("timestamp_granularities", "include")
_UNSUPPORTED: Mapping[str, frozenset[str]] = {
    "stream": frozenset({"", "false", "0"}),
    "chunking_strategy": frozenset({"", "auto"}),
    "include": frozenset(),
    "known_speaker_names": frozenset(),
    "known_speaker_references": frozenset(),
}
"""Parameters of the API that this service does not have → values that ask for nothing else than it does."""


class AudioForm(BaseModel):
    """The fields beside the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1, description="Id or alias of a model that `GET /v1/models` lists.")]
    language: Annotated[str | None, Field(max_length=40, description="What is spoken, e.g. `de`.")] = None
    prompt: Annotated[str | None, Field(max_length=MAX_PROMPT, description="How names are written.")] = None
    response_format: Annotated[Format, Field(description="What comes back.")] = "json"
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    timestamp_granularities: Annotated[
        tuple[Literal["word", "segment"], ...], Field(description="Only with `verbose_json`.")
    ] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Which times `verbose_json` tells."""
        return self.timestamp_granularities or ("segment",)

    def wish(self, task: Task) -> Wish:
        """How the recording is to be heard."""
        return Wish(
            language=self.language or None,
            task=task,
            words="word" in self.timestamp_granularities,
            prompt=self.prompt or None,
            temperature=self.temperature,
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a transcript."""

    form: AudioForm
    file: bytes


async def read_form(request: Request, task: Task, max_file: int) -> Asked:
    """The request's form. Raises ApiError: 400 for what is wrong with it, 413 for a file of more than `max_file`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        message = "The body must be a form with a file: send it with `Content-Type: multipart/form-data`."
        raise ApiError(400, message, code="invalid_content_type")
    async with request.form(max_files=1, max_fields=64, max_part_size=MARGIN) as fields:
        file = fields.get("file")
        if file is None:
            raise ApiError(400, "Missing required parameter: 'file'.", param="file", code="missing_required_parameter")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "'file' must be a file, not a text.", param="file", code="invalid_value")
        checked = checked_form(fields, task)
        if (file.size or 0) > max_file:
            message = f"Maximum content size limit ({max_file}) exceeded ({file.size} bytes read)"
            raise ApiError(413, message, param="file", code="request_too_large")
        return Asked(checked, await file.read())


def checked_form(fields: FormData, task: Task) -> AudioForm:
    """The fields beside the file. Raises ApiError for the first that is wrong, by its name."""
    given: dict[str, Any] = {}
    for name in dict.fromkeys(key for key in fields if key != "file"):
        plain = name.removesuffix("[]")
        values = [str(one) for one in fields.getlist(name)]
        if plain in _UNSUPPORTED:
            _refuse_unsupported(plain, values)
        elif plain in AudioForm.model_fields and not (task == "translate" and plain in ("language", *_LISTS)):
            given[plain] = tuple(values) if plain in _LISTS else values[-1]
        else:
            shown = name[:100].encode(errors="replace").decode()
            message = f"Unknown parameter: {shown!r}.{did_you_mean(plain, AudioForm.model_fields)}"
            raise ApiError(400, message, param=shown, code=UNKNOWN_PARAMETER)
    try:
        form = AudioForm.model_validate(given)
    except ValidationError as error:
        raise _invalid(error) from None
    if form.timestamp_granularities and form.response_format != "verbose_json":
        message = "'timestamp_granularities' needs the response_format 'verbose_json'."
        raise ApiError(400, message, param="timestamp_granularities", code="invalid_value")
    return form


def _refuse_unsupported(name: str, values: list[str]) -> None:
    if not {value.lower() for value in values} <= _UNSUPPORTED[name]:
        message = f"{name!r} is not supported here: the answer comes whole, as the other parameters say."
        raise ApiError(400, message, param=name, code=UNSUPPORTED_PARAMETER)


def _invalid(error: ValidationError) -> ApiError:
    detail = error.errors()[0]
    field = str(detail["loc"][0])
    if detail["type"] == "missing":
        return ApiError(400, f"Missing required parameter: {field!r}.", param=field, code="missing_required_parameter")
    return ApiError(400, f"Invalid value for {field!r}: {detail['msg']}.", param=field, code="invalid_value")


def form_schema(task: Task) -> dict[str, Any]:
    """The form for the OpenAPI document."""
    schema = AudioForm.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "wav, flac, mp3, ogg, m4a, mp4 or webm."}
    properties = {"file": file} | schema["properties"]
    if task == "translate":
        properties = {name: one for name, one in properties.items() if name not in ("language", *_LISTS)}
    content = {"type": "object", "required": ["file", "model"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": content}}}}
