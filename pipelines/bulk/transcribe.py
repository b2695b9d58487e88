"""Bulk transcription: what is said in every recording of a Parquet dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...actors.whisper.speech import Task, Wish
from ...grid import catalogue
from .job import BulkReport
from .run import LONG_UNIT_SECONDS, RunOptions, Source, run_job
from .schema import check_file_column
from .specs import MediaSpec
from .target import Target

if TYPE_CHECKING:
    from .transcribe_operator import TranscribeOperator

TOGETHER = 8
"""Recordings that are heard together even on a CPU: a part has as many at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeSpec(MediaSpec):
    """Which transcripts are wanted (an `OperatorSpec`)."""

    same_on_all_workers = ("revision", "engine", "dtype")
    wanted = ("language", "task", "words", "prompt", "dtype")

    language: str | None = None
    """What is spoken in all of them. None: detected for each."""
    task: Task = "transcribe"
    words: bool = False
    """Whether the times of words are a column too."""
    prompt: str | None = None

    @property
    def job_type(self) -> str:
        return "whisper"

    @property
    def wish(self) -> Wish:
        """How recordings are heard."""
        return Wish(language=self.language, task=self.task, words=self.words, prompt=self.prompt)

    def check_column(self, schema: Any, column: str) -> None:
        """Raise InputError for a column that holds no recordings."""
        check_file_column(schema, column, "recordings")

    def load(self) -> TranscribeOperator:
        from ...actors.whisper.resident import whisper_model  # brings torch, which only a worker has
        from .transcribe_operator import TranscribeOperator

        return TranscribeOperator(self, whisper_model(self.model, dtype=self.dtype))


def transcribe_parquet(
    client: Any,
    source: Source,
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
    **run: Unpack[RunOptions],
) -> BulkReport:
    """Transcribe every recording of Parquet files; write the same rows plus the transcripts and an error column.

    `audio_column` holds files as bytes (or structs with `bytes`, as Hugging Face's `datasets` write them), or their
    paths or URLs for fsspec, which workers must see too. The result columns are ``text``, ``language``, ``duration``
    (seconds), ``segments`` (a list of start, end, text) and with `words` also ``words``, each behind `prefix`.
    Recordings are decoded while others are heard; those that are heard together are of like length.

    Everything else is as in `embed_parquet`: order, resuming, errors, what is raised.
    """
    spec = TranscribeSpec(
        model=catalogue.canonical(model, "whisper"),
        language=language,
        task=task,
        words=words,
        prompt=prompt,
        dtype=dtype,
        prefix=prefix,
        storage=run.get("storage_options") or {},
    )
    return run_job(
        client, spec, source, target, audio_column, run, unit_seconds=LONG_UNIT_SECONDS, smallest_rows=TOGETHER
    )
