"""What all job types share that compute with a model: which one it is, what it needs, and files in Base64."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..grid import catalogue
from ..grid.jobs import Ask


class ModelParams(BaseModel):
    """Parameters of a job for a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Hugging Face id, short name of the catalogue or local folder. None: the catalogue's default."""


class ModelJobType:
    """The part of a `grid.job_types.JobType` that is the same whatever the model computes."""

    name: str

    def ask(self, params: ModelParams) -> Ask:
        """Always with a model: another one, such as a donor's own default, would answer otherwise."""
        model = self.model_of(params)
        listed = catalogue.find(model)
        return Ask(type=self.name, model=model, gpu_memory_gb=listed.gpu_memory_gb if listed else 0.0)

    def model_of(self, params: ModelParams) -> str:
        """The id of the model that serves these parameters: the catalogue's for a short name, else as written."""
        return catalogue.canonical(params.model, self.name)


def file_of(text: str | None, field: str) -> bytes:
    """The file that a field such as ``image_base64`` holds.

    Raises ValueError for bad Base64, and where there is an address instead: the service replaces those.
    """
    if text is None:
        address = field.replace("_base64", "_url")
        raise ValueError(f"a worker fetches nothing: hand the job to the HTTP service, which replaces {address}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{field} is no Base64: {error}") from None
