"""Bulk embedding: the first row operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...grid import catalogue
from .job import UNIT_SECONDS, BulkJob, BulkReport, Listener
from .operators import Results
from .target import Target
from .watch import Patience

if TYPE_CHECKING:
    from ...actors.embedding import EmbeddingModel

_TOKENIZE_CHARACTERS = 1_000_000
"""A tokenizer keeps ~100 bytes for each token of the *whole* text until the call returns: so not too much at once."""
_SAME_ON_ALL_WORKERS = ("revision", "dimension", "max_tokens", "dtype")


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """Which vectors are wanted (an `OperatorSpec`)."""

    model: str
    """Folder, catalogue name or Hugging Face id."""
    normalize: bool = True
    """Scale each vector to length 1."""
    dimensions: int | None = None
    """Keep only the first values of each vector. None: all."""
    dtype: str = "auto"
    """Of the weights: auto, bfloat16 or float32. All workers use what the first one chose."""
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

    def pinned(self, facts: Mapping[str, Any]) -> EmbeddingSpec:
        return replace(self, dtype=facts["dtype"])

    def identity(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: facts[name] for name in _SAME_ON_ALL_WORKERS}

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
    source: str | Path | Sequence[str | Path],
    target: str | Path | Target,
    *,
    column: str,
    model: str | None = None,
    normalize: bool = True,
    dimensions: int | None = None,
    dtype: str = "auto",
    backend: str = "auto",
    embedding_column: str = "embedding",
    error_column: str = "error",
    on_progress: Listener | None = None,
    dry_run: bool = False,
    max_error_ratio: float | None = None,
    unit_seconds: float = UNIT_SECONDS,
    unit_rows: int | None = None,
    storage_options: dict[str, Any] | None = None,
    patience: Patience | None = None,
) -> BulkReport:
    """Embed the text `column` of Parquet files; write the same rows plus a vector and an error column into `target`.

    `client` is a `distributed.Client`; sources and target must be paths or fsspec URLs that its workers see too. The
    output holds every row once, in the order of the input (files sorted by name), in parts that any Parquet reader
    takes as one dataset. Whatever stops the job, the same call goes on where it stopped.

    `model` None is the catalogue's default. `dry_run` plans (and times the model on one worker) but writes nothing:
    see `BulkReport.plan`. `on_progress` hears of every finished unit and of everything that is waited for.

    Raises BulkError: InputError for what can't be read, TargetError for a folder that belongs to another job,
    JobIncomplete when units failed for good, GridUnavailable without scheduler or workers, TooManyErrors.
    """
    job = BulkJob(
        spec=EmbeddingSpec(
            model=catalogue.canonical(model, "embedding"),
            normalize=normalize,
            dimensions=dimensions,
            dtype=dtype,
            backend=backend,
            column=embedding_column,
        ),
        source=source,
        target=target,
        column=column,
        error_column=error_column,
        unit_seconds=unit_seconds,
        unit_rows=unit_rows,
        max_error_ratio=max_error_ratio,
        storage_options=storage_options,
        patience=patience or Patience(),
    )
    return job.run(client, on_progress, dry_run=dry_run)
