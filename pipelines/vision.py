"""The job type `vision`: a picture and what is wanted of it in, a text out."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from ..actors.vision.look import Look, Task, Wish, about
from ..grid.job_types import ALONE, RunContext
from .model_job import ModelJobType, ModelParams, file_of

MAX_BASE64 = 64 * 1024 * 1024
"""Characters: 48 MiB of picture. A service takes less in one request (`api.max_body_mb`)."""
MAX_QUESTION = 100_000
"""Characters."""
MAX_TOKENS = 32_768


class VisionParams(ModelParams):
    """Parameters of a vision job: `image_base64` or `image_url`."""

    image_base64: Annotated[str, Field(min_length=1, max_length=MAX_BASE64)] | None = None
    """A picture (PNG, JPEG, WebP, GIF, BMP), its bytes in Base64."""
    image_url: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Where the service fetches it, over http or https; workers never do."""
    task: Task
    """`image_qa`: the answer to `question`; `image_caption`: what is to be seen; `ocr`: the text in the picture."""
    question: Annotated[str, Field(min_length=1, max_length=MAX_QUESTION)] | None = None
    """For `image_qa` alone."""
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 1024
    """Of the answer at most; the model's context may end it earlier."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.image_base64 is None) == (self.image_url is None):
            raise ValueError("give either image_base64 or image_url")
        if (self.task == "image_qa") != (self.question is not None):
            raise ValueError("question: the task image_qa needs one, and no other takes one")
        return self

    def look(self) -> Look:
        """What the model is shown and asked. Raises ValueError for bad Base64, and for an address."""
        return about(content(self), self.task, self.question, Wish(max_tokens=self.max_tokens))


class VisionUsage(BaseModel):
    """How much was read and written."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    """Those that stand for the picture included."""
    completion_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]


class VisionResult(BaseModel):
    """Result of a vision job."""

    response: str
    task: Task
    usage: VisionUsage


class VisionJobType(ModelJobType):
    """See `grid.job_types.JobType`."""

    name = "vision"
    packages = ("PIL",)
    Params = VisionParams
    Result = VisionResult

    def run(self, params: VisionParams, context: RunContext = ALONE) -> VisionResult:
        """Answer in this process with its resident model; it stops within a token.

        Raises Cancelled, ValueError for what is no picture or can't be asked, and what loading the model raises.
        """
        from ..actors.media.image import decode_image
        from ..actors.vision.resident import vision_model  # brings torch, which only the donor that computes has
        from ..actors.vision.tasks import answered

        look = params.look()
        pixels = [decode_image(picture) for picture in look.pictures]
        context.check()
        resident = vision_model(self.model_of(params))
        [found] = resident.answer(
            [look],
            [pixels],
            check=context.check,
            told=lambda done, total: context.progress({"done": done, "total": total, "unit": "tokens"}),
        )
        said = answered(found)
        return VisionResult(
            response=said.text,
            task=params.task,
            usage=VisionUsage(
                prompt_tokens=said.prompt_tokens,
                completion_tokens=said.completion_tokens,
                total_tokens=said.prompt_tokens + said.completion_tokens,
            ),
        )

    def check(self, params: VisionParams, result: VisionResult) -> None:
        """See `grid.job_types.ChecksResults`."""
        if result.task != params.task:
            raise ValueError(f"an answer to the task {result.task} where {params.task} was asked for")
        used = result.usage
        if used.completion_tokens > params.max_tokens:
            raise ValueError(f"{used.completion_tokens} tokens where at most {params.max_tokens} were asked for")
        if used.total_tokens != used.prompt_tokens + used.completion_tokens:
            raise ValueError(f"{used.total_tokens} tokens in all are not the sum of the others")


def content(params: VisionParams) -> bytes:
    """The picture as a file. Raises ValueError for bad Base64, and for an address: the service replaces those."""
    return file_of(params.image_base64, "image_base64")


JOB_TYPE = VisionJobType()
