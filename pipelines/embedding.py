"""The job type `embedding`: texts in, vectors out."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat

from ..grid.job_types import ALONE, RunContext
from .model_job import ModelJobType, ModelParams

MAX_TEXTS = 2048
"""Texts in one job, as in OpenAI's API; more is a bulk job."""
MAX_DIMENSIONS = 65536
SLICE = 128
"""Texts that are embedded between two looks at whether to go on."""


class EmbeddingParams(ModelParams):
    """Parameters of an embedding job."""

    texts: Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]
    """What to embed. Texts longer than the model's window are truncated."""
    normalize: bool = True
    """Scale each vector to length 1."""
    dimensions: Annotated[int, Field(ge=1, le=MAX_DIMENSIONS)] | None = None
    """Keep only so many leading values of each vector. None: all."""


class Usage(BaseModel):
    """How much was read."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    """Tokens after truncation, special tokens included."""
    total_tokens: Annotated[int, Field(ge=0)]


class EmbeddingResult(BaseModel):
    """Result of an embedding job."""

    embeddings: list[list[FiniteFloat]]
    """One vector a text, in the order of the texts."""
    dimensions: Annotated[int, Field(ge=1)]
    """Length of each vector."""
    usage: Usage


class EmbeddingJobType(ModelJobType):
    """See `grid.job_types.JobType`."""

    name = "embedding"
    Params = EmbeddingParams
    Result = EmbeddingResult

    def run(self, params: EmbeddingParams, context: RunContext = ALONE) -> EmbeddingResult:
        """Embed in this process with its resident model. Raises Cancelled, and what `actors.embedding` raises."""
        from ..actors.resident import embedding_model  # brings torch, which only the donor that computes has

        resident = embedding_model(self.model_of(params))
        tokens = resident.tokenize(params.texts)
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))  # like lengths share a slice
        embeddings: list[list[float]] = [[]] * len(tokens)
        for start in range(0, len(order), SLICE):
            context.check()
            slice_ = order[start : start + SLICE]
            vectors = resident.embed_tokens(
                [tokens[index] for index in slice_], normalize=params.normalize, dimensions=params.dimensions
            )
            for index, vector in zip(slice_, vectors.tolist(), strict=True):
                embeddings[index] = vector
            context.progress({"done": start + len(slice_), "total": len(order)})
        read = sum(map(len, tokens))
        return EmbeddingResult(
            embeddings=embeddings,
            dimensions=len(embeddings[0]),
            usage=Usage(prompt_tokens=read, total_tokens=read),
        )

    def check(self, params: EmbeddingParams, result: EmbeddingResult) -> None:
        """See `grid.job_types.ChecksResults`."""
        if len(result.embeddings) != len(params.texts):
            raise ValueError(f"{len(result.embeddings)} vectors for {len(params.texts)} texts")
        if params.dimensions not in (None, result.dimensions):
            raise ValueError(f"{result.dimensions} dimensions where {params.dimensions} were asked for")
        if wrong := {len(vector) for vector in result.embeddings} - {result.dimensions}:
            raise ValueError(f"a vector of length {wrong.pop()} among those of {result.dimensions} dimensions")


JOB_TYPE = EmbeddingJobType()
