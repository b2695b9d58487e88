"""`idlegrid generate`: a picture for every row of a Parquet dataset."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .embed import document, grid_for, pairs, print_report
from .options import Address, ConfigFile, DryRun, MaxErrorRatio, Model, Regions, StorageOptions, Workers
from .output import Json, print_json, tell
from .progress import shown
from .settings import settings


def generate(
    source: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet file, folder, glob or fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder for the result; made if it is not there.")],
    prompt_column: Annotated[
        str, typer.Option("--prompt-column", "-c", metavar="NAME", help="Column with what is to be drawn.")
    ],
    model: Model = None,
    negative_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What should be in none of the pictures.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Width and height in pixels.")] = "1024x1024",
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of the denoiser.", show_default="the model's own")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Each row's own seed follows from it: again the same pictures.")
    ] = 0,
    files: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where pictures go as files; without it they are bytes in the column."),
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="auto, float32, float16 or bfloat16.")] = "auto",
    prefix: Annotated[str, typer.Option(metavar="NAME", help="Before the names of the result columns.")] = "",
    error_column: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the column that says why a row has no picture.")
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
    """Draw a picture for every row of a Parquet dataset.

    The same rows come out, in order, with the columns image (PNG), seed and error more.

    Without a scheduler, named here or configured, a grid is started on this machine for as long as the job takes.

    Killed or stopped at any moment, the same command goes on where it was; nothing is lost or doubled.
    """
    from ...pipelines.bulk import generate_parquet

    width, height = _sides(size)
    options: dict[str, Any] = {
        "prompt_column": prompt_column,
        "model": model,
        "negative_prompt": negative_prompt,
        "width": width,
        "height": height,
        "steps": steps,
        "seed": seed,
        "files": files,
        "dtype": dtype,
        "prefix": prefix,
        "error_column": error_column,
        "max_error_ratio": max_error_ratio,
        "storage_options": pairs(storage_option),
        "dry_run": dry_run,
    }
    with grid_for(scheduler, workers, region, settings(config)) as client:
        try:
            with shown("drawing") as listen:
                report = generate_parquet(client, source, target, on_progress=listen, **options)
        except KeyboardInterrupt:
            tell(f"stopped. What is in {target} is whole; run the same command again to go on.")
            raise typer.Exit(130) from None
    if as_json:
        print_json(document(report))
    else:
        print_report(report)


def _sides(size: str) -> tuple[int, int]:
    """Width and height. Raises BadParameter."""
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{size!r} is no size such as 1024x768", param_hint="--size")
    return int(width), int(height)
