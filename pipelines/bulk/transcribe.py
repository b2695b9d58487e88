"""Bulk transcription: what is said in every recording of a Parquet dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...actors.whisper.speech import Task, Wish
from ...grid import catalogue
from .job import BulkJob, BulkReport, Listener
from .schema import check_file_column
from .target import Target
from .watch import Patience

if TYPE_CHECKING:
    from .transcribe_operator import TranscribeOperator

UNIT_SECONDS = 60.0
"""A part's size: longer than for texts, since one recording may take many seconds."""
TOGETHER = 8
"""Recordings that are heard together even on a CPU: a part has as many at least."""
_SAME_ON_ALL_WORKERS = ("revision", "engine", "dtype")


@dataclass(frozen=True, slots=True)
class TranscribeSpec:
    """Which transcripts are wanted (an `OperatorSpec`)."""

    model: str
    """Folder, catalogue name or Hugging Face id."""
    language: str | None = None
    """What is spoken in all of them. None: detected for each."""
    task: Task = "transcribe"
    words: bool = False
    """Whether the times of words are a column too."""
    prompt: str | None = None
    dtype: str = "auto"
    """Of the weights. All workers use what the first one chose."""
    prefix: str = ""
    """Before the names of the result columns."""
    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For fsspec, where rows name paths or URLs. Never written anywhere."""
    column_option = "--prefix"

    @property
    def job_type(self) -> str:
        return "whisper"

    @property
    def wish(self) -> Wish:
        """How recordings are heard."""
        return Wish(language=self.language, task=self.task, words=self.words, prompt=self.prompt)

    @property
    def options(self) -> Mapping[str, Any]:
        names = ("language", "task", "words", "prompt", "dtype")
        return {name: getattr(self, name) for name in names} | {"column_prefix": self.prefix}

    def pinned(self, facts: Mapping[str, Any]) -> TranscribeSpec:
        return replace(self, dtype=facts["dtype"])

    def identity(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: facts[name] for name in _SAME_ON_ALL_WORKERS}

    def check_column(self, schema: Any, column: str) -> None:
        """Raise InputError for a column that holds no recordings."""
        check_file_column(schema, column, "recordings")

    def load(self) -> TranscribeOperator:
        from ...actors.whisper.resident import whisper_model  # brings torch, which only a worker has
        from .transcribe_operator import TranscribeOperator

        return TranscribeOperator(self, whisper_model(self.model, dtype=self.dtype))


def transcribe_parquet(
    client: Any,
    source: str | Path | Sequence[str | Path],
    target: str | Path | Target,
    *,
    audio_column: str,
    model: str | None = None,
    language: str | None = None,
    task: Task = "transcribe",
    words: bool = False,
    prompt: str | None = None,
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
    """Transcribe every recording of Parquet files; write the same rows plus the transcripts and an error column.

    `audio_column` holds files as bytes (or structs with `bytes`, as Hugging Face's `datasets` write them), or their
    paths or URLs for fsspec, which workers must see too. The result columns are ``text``, ``language``, ``duration``
    (seconds), ``segments`` (a list of start, end, text) and with `words` also ``words``, each behind `prefix`.
    Recordings are decoded while others are heard; those that are heard together are of like length.

    Everything else is as in `embed_parquet`: order, resuming, errors, what is raised.
    """
    job = BulkJob(
        spec=TranscribeSpec(
            model=catalogue.canonical(model, "whisper"),
            language=language,
            task=task,
            words=words,
            prompt=prompt,
            dtype=dtype,
            prefix=prefix,
            storage=storage_options or {},
        ),
        source=source,
        target=target,
        column=audio_column,
        error_column=error_column,
        unit_seconds=unit_seconds,
        unit_rows=unit_rows,
        smallest_rows=TOGETHER,
        max_error_ratio=max_error_ratio,
        storage_options=storage_options,
        patience=patience or Patience(),
    )
    return job.run(client, on_progress, dry_run=dry_run)
