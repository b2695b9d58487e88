"""The job type `image_gen`: a text in, a picture of it out."""

from __future__ import annotations

import base64
import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from ..actors.diffusion.picture import SIDE, NotDrawn, Wish
from ..actors.media.png import check_png
from ..grid import catalogue
from ..grid.job_types import ALONE, RunContext
from .model_job import ModelJobType, ModelParams, file_of

MAX_PROMPT = 10_000
"""Characters; most models read some hundred tokens."""
MAX_SIDE = 4096
"""Pixels; what a model draws is less."""
MAX_STEPS = 200
MAX_SEED = 2**63 - 1
SEED_BITS = 32
"""Of a seed that nobody gave: short enough to be written down."""
_Text = Annotated[str, Field(max_length=MAX_PROMPT)]
_Side = Annotated[int, Field(ge=16, le=MAX_SIDE, multiple_of=8)]


class ImageGenParams(ModelParams):
    """Parameters of an image_gen job."""

    prompt: Annotated[_Text, Field(min_length=1)]
    negative_prompt: _Text | None = None
    """What should not be in it; for models that are guided."""
    width: _Side = SIDE
    """Pixels; a multiple of 8, of 16 for some models."""
    height: _Side = SIDE
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    """Of the denoiser; `num_inference_steps` is another name for it. None: as many as the model usually takes."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """The same seed gives the same picture. None: another one each time; the result says which."""

    @model_validator(mode="before")
    @classmethod
    def _diffusers_word(cls, data: Any) -> Any:
        """`num_inference_steps`, as diffusers calls it."""
        if not isinstance(data, dict) or "num_inference_steps" not in data:
            return data
        found = {name: value for name, value in data.items() if name != "num_inference_steps"}
        steps = data["num_inference_steps"]
        if found.get("steps") not in (None, steps):
            raise ValueError(f"num_inference_steps is another name for steps, and they differ: {steps!r}")
        return found | {"steps": steps}

    @model_validator(mode="after")
    def _within_the_models_limits(self) -> Self:
        """What is known of a model of the catalogue before anybody loads it."""
        listed = catalogue.find(catalogue.canonical(self.model, "image_gen"))
        rules = (listed.images if listed else None) or catalogue.ImageRules()
        if self.width * self.height > rules.max_pixels:
            raise ValueError(f"width × height: {self.width} × {self.height} is more than {rules.max_pixels:,} pixels")
        if (self.steps or 0) > rules.max_steps:
            raise ValueError(f"steps: {self.steps} is more than the {rules.max_steps} that this model takes")
        if self.negative_prompt and not rules.negative:
            raise ValueError("negative_prompt: this model is not guided away from anything; leave it out")
        return self

    def wish(self) -> Wish:
        """The picture that is wanted; with a seed drawn by lot where none was given."""
        names = ("prompt", "width", "height", "steps")
        seed = secrets.randbits(SEED_BITS) if self.seed is None else self.seed
        fields = {name: getattr(self, name) for name in names}
        return Wish(negative_prompt=self.negative_prompt or None, seed=seed, **fields)


class ImageGenResult(BaseModel):
    """Result of an image_gen job."""

    image_base64: str
    """A PNG file, RGB, in Base64."""
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    """That it was drawn with."""
    format: Literal["png"] = "png"


class ImageGenJobType(ModelJobType):
    """See `grid.job_types.JobType`."""

    name = "image_gen"
    packages = ("PIL", "diffusers")
    Params = ImageGenParams
    Result = ImageGenResult

    def run(self, params: ImageGenParams, context: RunContext = ALONE) -> ImageGenResult:
        """Draw in this process with its resident model; it stops between two steps.

        Raises Cancelled, ValueError for what this model can't draw, DrawingFailed, and what loading the model raises.
        """
        from ..actors.diffusion.resident import diffusion_model  # brings torch, which only the donor that draws has
        from ..actors.diffusion.tasks import Drawing, drawn
        from ..actors.media.image import encode_png

        resident = diffusion_model(self.model_of(params))
        context.check()
        wish = params.wish()
        [found] = resident.draw(
            [wish],
            check=context.check,
            told=lambda done, total: context.progress({"done": done, "total": total, "unit": "steps"}),
        )
        file = found if isinstance(found, NotDrawn) else Drawing(encode_png(found.pixels), *_size(wish), found.seed)
        picture = drawn(file)
        return ImageGenResult(
            image_base64=base64.b64encode(picture.data).decode(),
            width=picture.width,
            height=picture.height,
            seed=picture.seed,
            format="png",
        )

    def check(self, params: ImageGenParams, result: ImageGenResult) -> None:
        """See `grid.job_types.ChecksResults`."""
        if (result.width, result.height) != (params.width, params.height):
            wanted = f"{params.width} × {params.height}"
            raise ValueError(f"a picture of {result.width} × {result.height} pixels where {wanted} were asked for")
        if params.seed not in (None, result.seed):
            raise ValueError(f"the seed {result.seed} where {params.seed} was asked for")
        check_png(file_of(result.image_base64, "image_base64"), result.width, result.height)


def _size(wish: Wish) -> tuple[int, int]:
    return wish.width, wish.height


JOB_TYPE = ImageGenJobType()
