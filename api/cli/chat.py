"""`idlegrid chat`: an answer to every row of a Parquet dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .embed import document, grid_for, pairs, print_report
from .options import Address, ConfigFile, DryRun, MaxErrorRatio, Model, Regions, StorageOptions, Workers
from .output import Json, print_json, tell
from .progress import shown
from .settings import settings


def chat(
    source: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet file, folder, glob or fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder for the result; made if it is not there.")],
    prompt_column: Annotated[
        str | None, typer.Option("--prompt-column", "-c", metavar="NAME", help="Column with a question in each row.")
    ] = None,
    messages_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Instead: column with conversations, as JSON or lists of role and content."),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message before each row's own.")] = None,
    model: Model = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of an answer at most.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0: always the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest tokens that have this share.")] = 0.9,
    top_k: Annotated[int, typer.Option(min=0, metavar="N", help="Choose among so many tokens; 0: all.")] = 0,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Each row's own seed follows from it: again the same answers.")
    ] = 0,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Ends an answer; repeatable.")] = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Answers are JSON of this schema.")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[str, typer.Option(metavar="NAME", help="torch or transformers.")] = "torch",
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
    """Ask a model about every row of a Parquet dataset.

    The same rows come out, in order, with the columns response, finish_reason, prompt_tokens, completion_tokens,
    cached_tokens and error more.

    Without a scheduler, named here or configured, a grid is started on this machine for as long as the job takes.

    Killed or stopped at any moment, the same command goes on where it was; nothing is lost or doubled.
    """
    if (prompt_column is None) == (messages_column is None):
        raise typer.BadParameter("name the column to answer: either --prompt-column or --messages-column")
    from ...pipelines.bulk import chat_parquet

    options: dict[str, Any] = {
        "prompt_column": prompt_column,
        "messages_column": messages_column,
        "system": system,
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop": stop or (),
        "json_schema": None if json_schema is None else json_schema.read_text(encoding="utf-8"),
        "dtype": dtype,
        "engine": engine,
        "prefix": prefix,
        "error_column": error_column,
        "max_error_ratio": max_error_ratio,
        "storage_options": pairs(storage_option),
        "dry_run": dry_run,
    }
    with grid_for(scheduler, workers, region, settings(config)) as client:
        try:
            with shown("answering") as listen:
                report = chat_parquet(client, source, target, on_progress=listen, **options)
        except KeyboardInterrupt:
            tell(f"stopped. What is in {target} is whole; run the same command again to go on.")
            raise typer.Exit(130) from None
    if as_json:
        print_json(document(report))
    else:
        print_report(report)
