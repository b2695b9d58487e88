"""`idlegrid transcribe`: what is said in every recording of a Parquet dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from .bulk import BulkCommand, bulk_command
from .options import MediaDtype, Model, Prefix


@bulk_command("listening", result="transcript")
def transcribe(
    command: BulkCommand,
    audio_column: Annotated[
        str, typer.Option("--audio-column", "-c", metavar="NAME", help="Column with files as bytes, or paths or URLs.")
    ],
    model: Model = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="What is spoken, e.g. de.", show_default="detected for each")
    ] = None,
    translate: Annotated[bool, typer.Option("--translate", help="Into English.")] = False,
    words: Annotated[bool, typer.Option("--words", help="A column with the time of each word, too.")] = False,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="How names and terms are written.")] = None,
    dtype: MediaDtype = "auto",
    prefix: Prefix = "",
) -> None:
    """Transcribe every recording of a Parquet dataset.

    The same rows come out, in order, with the columns text, language, duration, segments and error more.
    """
    from ...pipelines.bulk import transcribe_parquet

    command.run(
        transcribe_parquet,
        audio_column=audio_column,
        model=model,
        language=language,
        task="translate" if translate else "transcribe",
        words=words,
        prompt=prompt,
        dtype=dtype,
        prefix=prefix,
    )
