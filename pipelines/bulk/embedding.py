"""Bulk embedding: the first row operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pyarrow as pa

from ...grid import catalogue
from .job import BulkReport
from .operators import Results
from .run import RunOptions, Source, run_job
from .specs import ModelSpec
from .target import Target

if TYPE_CHECKING:
    from ...actors.embedding import EmbeddingModel

_TOKENIZE_CHARACTERS = 1_000_000
"""A tokenizer keeps ~100 bytes for each token of the *whole* text until the call returns: so not too much at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpec(ModelSpec):
    """Which vectors are wanted (an `OperatorSpec`)."""

    same_on_all_workers = ("revision", "dimension", "max_tokens", "dtype")

    normalize: bool = True
    """Scale each vector to length 1."""
    dimensions: int | None = None
    """Keep only the first values of each vector. None: all."""
    backend: str = "auto"
    """What runs the transformer: auto (each worker's fastest), torch or openvino."""
    column: str = "embedding"
    """Name of the result column."""

    @property
    def job_type(self) -> str:
        return "embedding"

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            "normalize": self.normalize,
            "dimensions": self.dimensions,
            "dtype": self.dtype,
            "backend": self.backend,
            "embedding_column": self.column,
        }

    def load(self) -> EmbeddingOperator:
        from ...actors.resident import embedding_model

        return EmbeddingOperator(self, embedding_model(self.model, dtype=self.dtype, backend=self.backend))


class EmbeddingOperator:
    """Texts → `fixed_size_list<float32>` (a `RowOperator`)."""

    def __init__(self, spec: EmbeddingSpec, model: EmbeddingModel) -> None:
        """Raises ValueError when `spec.dimensions` is more than the model has."""
        width = model.facts.dimension
        if spec.dimensions is not None and not 1 <= spec.dimensions <= width:
            raise ValueError(f"dimensions must lie in 1..{width} for {spec.model}, not {spec.dimensions}")
        self._spec, self._model = spec, model
        self._width = spec.dimensions or width
        self._kind = pa.list_(pa.field("element", pa.float32()), self._width)

    @property
    def fields(self) -> Sequence[Any]:
        return [pa.field(self._spec.column, self._kind)]

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self._model.facts.as_dict(), "normalized": self._spec.normalize, "output_dimension": self._width}

    def prepare(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [ids for some in _bounded(texts) for ids in self._model.tokenize(some)]

    def compute(self, prepared: list[list[int]]) -> Results:
        vectors = self._model.embed_tokens(prepared, normalize=self._spec.normalize, dimensions=self._spec.dimensions)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=self._kind)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        full = self._model.facts.max_tokens
        return Results(
            columns=[column],
            errors={int(row): "the model gave a vector with NaN or infinity" for row in bad},
            truncated=[index for index, ids in enumerate(prepared) if len(ids) >= full],
        )


def _bounded(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Runs of `texts` of at most `_TOKENIZE_CHARACTERS`, or one longer text."""
    start, size = 0, 0
    for index, text in enumerate(texts):
        if index > start and size + len(text) > _TOKENIZE_CHARACTERS:
            yield texts[start:index]
            start, size = index, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


def embed_parquet(
    client: Any,
    source: Source,
    target: str | Path | Target,
    *,
    column: str,
    model: str | None = None,
    normalize: bool = True,
    dimensions: int | None = None,
    dtype: str = "auto",
    backend: str = "auto",
    embedding_column: str = "embedding",
    **run: Unpack[RunOptions],
) -> BulkReport:
    """Embed the text `column` of Parquet files; write the same rows plus a vector and an error column into `target`.

    `client` is a `distributed.Client`; sources and target must be paths or fsspec URLs that its workers see too. The
    output holds every row once, in the order of the input (files sorted by name), in parts that any Parquet reader
    takes as one dataset. Whatever stops the job, the same call goes on where it stopped.

    `model` None is the catalogue's default. `dry_run` plans (and times the model on one worker) but writes nothing:
    see `BulkReport.plan`. `on_progress` hears of every finished unit and of everything that is waited for. `run`: these
    and all else that every job can be told, see `RunOptions`.

    Raises BulkError: InputError for what can't be read, TargetError for a folder that belongs to another job,
    JobIncomplete when units failed for good, GridUnavailable without scheduler or workers, TooManyErrors.
    """
    spec = EmbeddingSpec(
        model=catalogue.canonical(model, "embedding"),
        normalize=normalize,
        dimensions=dimensions,
        dtype=dtype,
        backend=backend,
        column=embedding_column,
    )
    return run_job(client, spec, source, target, column, run)
