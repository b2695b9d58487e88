"""`idlegrid transcribe`: what is said in every recording of a Parquet dataset."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .embed import document, grid_for, pairs, print_report
from .options import Address, ConfigFile, DryRun, MaxErrorRatio, Model, Regions, StorageOptions, Workers
from .output import Json, print_json, tell
from .progress import shown
from .settings import settings


def transcribe(
    source: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet file, folder, glob or fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder for the result; made if it is not there.")],
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
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="auto, float32, float16 or bfloat16.")] = "auto",
    prefix: Annotated[str, typer.Option(metavar="NAME", help="Before the names of the result columns.")] = "",
    error_column: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the column that says why a row has no transcript.")
    ] = "error",
    max_error_ratio: MaxErrorRatio = None,
    storage_option: StorageOptions = None,
    dry_run: DryRun = False,
    scheduler: Address = None,
    workers: Workers = None,
    region: Regions = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Transcribe every recording of a Parquet dataset.

    The same rows come out, in order, with the columns text, language, duration, segments and error more.

    Without a scheduler, named here or configured, a grid is started on this machine for as long as the job takes.

    Killed or stopped at any moment, the same command goes on where it was; nothing is lost or doubled.
    """
    from ...pipelines.bulk import transcribe_parquet

    options: dict[str, Any] = {
        "audio_column": audio_column,
        "model": model,
        "language": language,
        "task": "translate" if translate else "transcribe",
        "words": words,
        "prompt": prompt,
        "dtype": dtype,
        "prefix": prefix,
        "error_column": error_column,
        "max_error_ratio": max_error_ratio,
        "storage_options": pairs(storage_option),
        "dry_run": dry_run,
    }
    with grid_for(scheduler, workers, region, settings(config)) as client:
        try:
            with shown("listening") as listen:
                report = transcribe_parquet(client, source, target, on_progress=listen, **options)
        except KeyboardInterrupt:
            tell(f"stopped. What is in {target} is whole; run the same command again to go on.")
            raise typer.Exit(130) from None
    if as_json:
        print_json(document(report))
    else:
        print_report(report)
