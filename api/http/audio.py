"""`POST /v1/audio/transcriptions` and `POST /v1/audio/translations`, as OpenAI's."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from ...actors.whisper.languages import NAMES
from ...actors.whisper.speech import NotHeard, Task, Transcript, WishRefused
from ...grid.config.service import Api
from .audio_batcher import AudioBatcher
from .audio_formats import MEDIA_TYPES, srt, usage, verbose, vtt
from .audio_params import MIB, Asked, form_schema, read_form
from .embeddings import unless_gone
from .errors import ApiError
from .models import Models

PATH = "/v1/audio/"


def audio_router(models: Models, batcher: AudioBatcher, limits: Api) -> APIRouter:
    """The routes, bound to what answers them."""
    router = APIRouter(prefix="/v1/audio", tags=["audio"])

    async def answer(request: Request, task: Task) -> Response:
        asked = await read_form(request, task, int(limits.max_audio_mb * MIB))
        model = await models.served(asked.form.model)
        await models.check_ready(model.id)
        hearing = batcher.transcribe(model.id, asked.file, asked.form.wish(task), within=limits.generation_timeout)
        try:
            found = await unless_gone(request, hearing)
        except WishRefused as error:
            raise ApiError(400, f"This model can't do that: {error}.", code="invalid_value") from None
        if isinstance(found, NotHeard):
            raise ApiError(400, f"Invalid file: {found.why}.", param="file", code="invalid_value")
        return rendered(found, asked, task)

    @router.post("/transcriptions", openapi_extra=form_schema("transcribe"))
    async def transcribe(request: Request) -> Response:
        """What is said in a recording."""
        return await answer(request, "transcribe")

    @router.post("/translations", openapi_extra=form_schema("translate"))
    async def translate(request: Request) -> Response:
        """What is said in a recording, in English."""
        return await answer(request, "translate")

    return router


def rendered(found: Transcript, asked: Asked, task: Task) -> Response:
    """The answer in the form that was asked for."""
    form = asked.form
    content: str | bytes
    match form.response_format:
        case "text":
            content = found.text + "\n"
        case "srt":
            content = srt(found)
        case "vtt":
            content = vtt(found)
        case "verbose_json":
            language = NAMES.get(found.language, found.language)
            content = to_json(verbose(found, form.wish(task), language, form.parts))
        case _:
            content = to_json({"text": found.text, "usage": usage(found)})
    return Response(content, headers={"content-type": MEDIA_TYPES[form.response_format]})
