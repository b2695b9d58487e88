"""`idlegrid caption`: what is to be seen in every picture of a Parquet dataset."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .embed import document, grid_for, pairs, print_report
from .options import Address, ConfigFile, DryRun, MaxErrorRatio, Model, Regions, StorageOptions, Workers
from .output import Json, print_json, tell
from .progress import shown
from .settings import settings


def caption(
    source: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet file, folder, glob or fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder for the result; made if it is not there.")],
    image_column: Annotated[
        str, typer.Option("--image-column", "-c", metavar="NAME", help="Column with files as bytes, or paths or URLs.")
    ],
    model: Model = None,
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="About each picture; without it a caption is written.")
    ] = None,
    ocr: Annotated[bool, typer.Option("--ocr", help="The text in each picture instead.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Of an answer, at most.")] = 1024,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="auto, float32, float16 or bfloat16.")] = "auto",
    prefix: Annotated[str, typer.Option(metavar="NAME", help="Before the names of the result columns.")] = "",
    error_column: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the column that says why a row has no answer.")
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
    """Say what is in every picture of a Parquet dataset.

    The same rows come out, in order, with the columns response, finish_reason, prompt_tokens, completion_tokens and
    error more.

    Without a scheduler, named here or configured, a grid is started on this machine for as long as the job takes.

    Killed or stopped at any moment, the same command goes on where it was; nothing is lost or doubled.
    """
    if ocr and question is not None:
        raise typer.BadParameter("--ocr reads the text in each picture and answers no --question: give one of them")
    from ...pipelines.bulk import caption_parquet

    options: dict[str, Any] = {
        "image_column": image_column,
        "model": model,
        "task": "ocr" if ocr else None,
        "question": question,
        "max_tokens": max_tokens,
        "dtype": dtype,
        "prefix": prefix,
        "error_column": error_column,
        "max_error_ratio": max_error_ratio,
        "storage_options": pairs(storage_option),
        "dry_run": dry_run,
    }
    with grid_for(scheduler, workers, region, settings(config)) as client:
        try:
            with shown("looking") as listen:
                report = caption_parquet(client, source, target, on_progress=listen, **options)
        except KeyboardInterrupt:
            tell(f"stopped. What is in {target} is whole; run the same command again to go on.")
            raise typer.Exit(130) from None
    if as_json:
        print_json(document(report))
    else:
        print_report(report)
