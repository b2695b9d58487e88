"""`POST /v1/images/generations`, as OpenAI's."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt, StrictStr, ValidationError
from pydantic_core import to_json

from ...actors.diffusion.picture import SIDE, NotDrawn, Wish
from ...grid.config.service import Api
from ...pipelines.image_gen import MAX_SEED, SEED_BITS, ImageGenParams
from .batch_driver import DeadlineExceeded
from .bodies import UNSUPPORTED_PARAMETER, SelectiveBody
from .embeddings import unless_gone
from .errors import SERVER, ApiError
from .image_batcher import ImageBatcher
from .images_face import Drawn
from .models import Models

MAX_IMAGES = 10
"""In one request, as OpenAI's."""
_SIZE = re.compile(r"([0-9]{2,5})x([0-9]{2,5})")
_FIELDS = {"width": "size", "height": "size"}
"""Field of the job type → parameter of the API, where they differ."""


class ImageRequest(SelectiveBody):
    """The body of `POST /v1/images/generations`."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": ("auto", "opaque"),
        "moderation": ("auto", "low"),
        "output_compression": (100,),
        "output_format": ("png",),
        "partial_images": (0,),
        "quality": ("auto", "standard"),
        "stream": (False,),
        "style": (),
    }

    prompt: Annotated[StrictStr, Field(min_length=1, description="What is to be drawn.")]
    model: Annotated[
        StrictStr | None,
        Field(description="Id or alias of one that `GET /v1/models` lists. None: the default one."),
    ] = None
    n: Annotated[StrictInt | None, Field(ge=1, le=MAX_IMAGES)] = None
    size: Annotated[StrictStr | None, Field(description="`WIDTHxHEIGHT` in pixels, or `auto`: 1024x1024.")] = None
    response_format: Annotated[StrictStr | None, Field(description="`b64_json`: pictures come in the answer.")] = None
    negative_prompt: Annotated[StrictStr | None, Field(description="What should not be in the picture.")] = None
    steps: Annotated[StrictInt | None, Field(description="Of the denoiser. None: the model's own.")] = None
    seed: Annotated[
        StrictInt | None, Field(description="The same seed gives the same picture; the next one has the next seed.")
    ] = None
    user: Annotated[StrictStr | None, Field(description="Taken and not used.")] = None

    def wishes(self, model_id: str) -> list[Wish]:
        """The pictures that are wanted: each has a seed of its own, counted from the first. Raises ApiError."""
        if self.response_format not in (None, "b64_json"):
            raise _url_refused(self.response_format)
        width, height = _sides(self.size)
        try:
            params = ImageGenParams(
                model=model_id,
                prompt=self.prompt,
                negative_prompt=self.negative_prompt,
                width=width,
                height=height,
                steps=self.steps,
                seed=secrets.randbits(SEED_BITS) if self.seed is None else self.seed,
            )
        except ValidationError as error:
            raise _invalid(error) from None
        first = params.wish()
        return [replace(first, seed=(first.seed + number) % (MAX_SEED + 1)) for number in range(self.n or 1)]


def images_router(models: Models, batcher: ImageBatcher, limits: Api) -> APIRouter:
    """The route, bound to what answers it."""
    router = APIRouter(prefix="/v1/images", tags=["images"])

    @router.post("/generations")
    async def generate(body: ImageRequest, request: Request) -> Response:
        """Pictures of a text."""
        model = (await models.all())[0] if body.model is None else await models.served(body.model)
        wishes = body.wishes(model.id)
        await models.check_ready(model.id)
        drawing = batcher.draw(model.id, wishes, within=limits.generation_timeout)
        try:
            found = [_drawn(one) for one in await unless_gone(request, drawing)]
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{error} ({_too_much(wishes)})") from None
        # some megabytes take long to encode, so not on the loop that serves everybody
        content = await asyncio.to_thread(_document, found, wishes[0])
        return Response(content, media_type="application/json")

    return router


def _too_much(wishes: Sequence[Wish]) -> str:
    """What to change in a request that took too long: without a GPU the default size takes minutes."""
    size = f"{wishes[0].width}x{wishes[0].height}"
    return f"api.generation_timeout; {len(wishes)} of {size}: ask for a smaller `size`, fewer `steps` or a smaller `n`"


def _drawn(one: Drawn | NotDrawn) -> Drawn:
    if isinstance(one, Drawn):
        return one
    if one.refused:
        raise ApiError(400, f"This model can't do that: {one.why}.", code="invalid_value")
    raise ApiError(500, f"The picture could not be drawn: {one.why}.", type=SERVER, code="image_failed")


def _document(found: Sequence[Drawn], wish: Wish) -> bytes:
    data = [{"b64_json": base64.b64encode(one.data).decode(), "seed": one.seed} for one in found]
    return to_json(
        {
            "created": int(time.time()),
            "background": "opaque",
            "output_format": "png",
            "size": f"{wish.width}x{wish.height}",
            "data": data,
        }
    )


def _sides(size: str | None) -> tuple[int, int]:
    if size in (None, "auto"):
        return SIDE, SIDE
    sides = _SIZE.fullmatch(str(size))
    if sides is None:
        raise ApiError(
            400, "Invalid value for 'size': it is `auto`, or such as `1024x768`.", param="size", code="invalid_value"
        )
    return int(sides[1]), int(sides[2])


def _url_refused(wanted: str) -> ApiError:
    if wanted != "url":
        message = "Invalid value for 'response_format': it must be 'b64_json'."
        return ApiError(400, message, param="response_format", code="invalid_value")
    message = (
        "Unsupported: pictures are not kept here, so there is no URL of one. Ask for response_format='b64_json': they "
        "come in the answer."
    )
    return ApiError(400, message, param="response_format", code=UNSUPPORTED_PARAMETER)


def _invalid(error: ValidationError) -> ApiError:
    detail = error.errors()[0]
    message = str(detail["msg"]).removeprefix("Value error, ")
    named = str(detail["loc"][0]) if detail["loc"] else message.split(":")[0].split(" ")[0]
    param = _FIELDS.get(named, named)
    return ApiError(400, f"Invalid value for {param!r}: {message}.", param=param, code="invalid_value")
