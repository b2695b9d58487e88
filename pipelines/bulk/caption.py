"""Bulk vision: what is to be seen in every picture of a Parquet dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...actors.vision.look import Task
from ...grid import catalogue
from .errors import InputError
from .job import BulkJob, BulkReport, Listener
from .schema import check_file_column
from .target import Target
from .watch import Patience

if TYPE_CHECKING:
    from .caption_operator import CaptionOperator

UNIT_SECONDS = 60.0
"""A part's size: longer than for texts, since one answer may take seconds."""
_SAME_ON_ALL_WORKERS = ("revision", "dtype")


@dataclass(frozen=True, slots=True)
class CaptionSpec:
    """Which answers about pictures are wanted (an `OperatorSpec`)."""

    model: str
    """Folder, catalogue name or Hugging Face id."""
    task: Task = "image_caption"
    question: str | None = None
    """About each picture, for the task image_qa."""
    max_tokens: int = 1024
    """Of an answer."""
    dtype: str = "auto"
    """Of the weights. All workers use what the first one chose."""
    prefix: str = ""
    """Before the names of the result columns."""
    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For fsspec, where rows name paths or URLs. Never written anywhere."""
    column_option = "--prefix"

    def __post_init__(self) -> None:
        if (self.task == "image_qa") != (self.question is not None):
            raise InputError("the task image_qa needs a question, and no other takes one")

    @property
    def job_type(self) -> str:
        return "vision"

    @property
    def options(self) -> Mapping[str, Any]:
        names = ("task", "question", "max_tokens", "dtype")
        return {name: getattr(self, name) for name in names} | {"column_prefix": self.prefix}

    def pinned(self, facts: Mapping[str, Any]) -> CaptionSpec:
        return replace(self, dtype=facts["dtype"])

    def identity(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: facts[name] for name in _SAME_ON_ALL_WORKERS}

    def check_column(self, schema: Any, column: str) -> None:
        """Raise InputError for a column that holds no pictures."""
        check_file_column(schema, column, "pictures")

    def load(self) -> CaptionOperator:
        from ...actors.vision.resident import vision_model  # brings torch, which only a worker has
        from .caption_operator import CaptionOperator

        return CaptionOperator(self, vision_model(self.model, dtype=self.dtype))


def caption_parquet(
    client: Any,
    source: str | Path | Sequence[str | Path],
    target: str | Path | Target,
    *,
    image_column: str,
    task: Task | None = None,
    question: str | None = None,
    model: str | None = None,
    max_tokens: int = 1024,
    dtype: str = "auto",
    prefix: str = "",
    error_column: str = "error",
    on_progress: Listener | None = None,
    dry_run: bool = False,
    max_error_ratio: float | None = None,
    unit_seconds: float = UNIT_SECONDS,
    unit_rows: int | None = None,
    storage_options: dict[str, Any] | None = None,
    patience: Patience | None = None,
) -> BulkReport:
    """Say what is in every picture of Parquet files; write the same rows plus the answers and an error column.

    `image_column` holds files as bytes (or structs with `bytes`, as Hugging Face's `datasets` write them), or their
    paths or URLs for fsspec, which workers must see too. `task`: ``image_caption``, ``ocr`` or ``image_qa``; None: the
    last one where there is a `question`, else the first. The result columns are ``response``, ``finish_reason``,
    ``prompt_tokens`` and ``completion_tokens``, each behind `prefix`.

    Everything else is as in `embed_parquet`: order, resuming, errors, what is raised.
    """
    job = BulkJob(
        spec=CaptionSpec(
            model=catalogue.canonical(model, "vision"),
            task=task or ("image_qa" if question else "image_caption"),
            question=question,
            max_tokens=max_tokens,
            dtype=dtype,
            prefix=prefix,
            storage=storage_options or {},
        ),
        source=source,
        target=target,
        column=image_column,
        error_column=error_column,
        unit_seconds=unit_seconds,
        unit_rows=unit_rows,
        max_error_ratio=max_error_ratio,
        storage_options=storage_options,
        patience=patience or Patience(),
    )
    return job.run(client, on_progress, dry_run=dry_run)
