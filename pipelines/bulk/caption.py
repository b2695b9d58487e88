"""Bulk vision: what is to be seen in every picture of a Parquet dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...actors.vision.look import Task
from ...grid import catalogue
from .errors import InputError
from .job import BulkReport
from .run import LONG_UNIT_SECONDS, RunOptions, Source, run_job
from .schema import check_file_column
from .specs import MediaSpec
from .target import Target

if TYPE_CHECKING:
    from .caption_operator import CaptionOperator


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionSpec(MediaSpec):
    """Which answers about pictures are wanted (an `OperatorSpec`)."""

    wanted = ("task", "question", "max_tokens", "dtype")

    task: Task = "image_caption"
    question: str | None = None
    """About each picture, for the task image_qa."""
    max_tokens: int = 1024
    """Of an answer."""

    def __post_init__(self) -> None:
        if (self.task == "image_qa") != (self.question is not None):
            raise InputError("the task image_qa needs a question, and no other takes one")

    @property
    def job_type(self) -> str:
        return "vision"

    def check_column(self, schema: Any, column: str) -> None:
        """Raise InputError for a column that holds no pictures."""
        check_file_column(schema, column, "pictures")

    def load(self) -> CaptionOperator:
        from ...actors.vision.resident import vision_model  # brings torch, which only a worker has
        from .caption_operator import CaptionOperator

        return CaptionOperator(self, vision_model(self.model, dtype=self.dtype))


def caption_parquet(
    client: Any,
    source: Source,
    target: str | Path | Target,
    *,
    image_column: str,
    task: Task | None = None,
    question: str | None = None,
    model: str | None = None,
    max_tokens: int = 1024,
    dtype: str = "auto",
    prefix: str = "",
    **run: Unpack[RunOptions],
) -> BulkReport:
    """Say what is in every picture of Parquet files; write the same rows plus the answers and an error column.

    `image_column` holds files as bytes (or structs with `bytes`, as Hugging Face's `datasets` write them), or their
    paths or URLs for fsspec, which workers must see too. `task`: ``image_caption``, ``ocr`` or ``image_qa``; None: the
    last one where there is a `question`, else the first. The result columns are ``response``, ``finish_reason``,
    ``prompt_tokens`` and ``completion_tokens``, each behind `prefix`.

    Everything else is as in `embed_parquet`: order, resuming, errors, what is raised.
    """
    spec = CaptionSpec(
        model=catalogue.canonical(model, "vision"),
        task=task or ("image_qa" if question else "image_caption"),
        question=question,
        max_tokens=max_tokens,
        dtype=dtype,
        prefix=prefix,
        storage=run.get("storage_options") or {},
    )
    return run_job(client, spec, source, target, image_column, run, unit_seconds=LONG_UNIT_SECONDS)
