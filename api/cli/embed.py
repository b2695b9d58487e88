"""`idlegrid embed`: vectors for a column of a Parquet dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Address, ConfigFile, DryRun, MaxErrorRatio, Model, Regions, StorageOptions, Workers
from .output import Json, print_json, say, tell
from .progress import clock, counted, shown
from .settings import settings

if TYPE_CHECKING:
    from distributed import Client

    from ...grid.config import Settings
    from ...pipelines.bulk import BulkReport


def embed(
    source: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet file, folder, glob or fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder for the result; made if it is not there.")],
    column: Annotated[str, typer.Option("--column", "-c", metavar="NAME", help="The text column.")],
    model: Model = None,
    normalize: Annotated[bool, typer.Option(help="Scale every vector to length 1.")] = True,
    dimensions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep only the first N values of each vector.")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="auto, bfloat16 or float32.")] = "auto",
    backend: Annotated[str, typer.Option(metavar="NAME", help="auto, torch or openvino.")] = "auto",
    embedding_column: Annotated[str, typer.Option(metavar="NAME", help="Name of the result column.")] = "embedding",
    error_column: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the column that says why a row has no result.")
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
    """Embed a text column of a Parquet dataset.

    The same rows come out, in order, with the vector and an error column more.

    Without a scheduler, named here or configured, a grid is started on this machine for as long as the job takes.

    Killed or stopped at any moment, the same command goes on where it was; nothing is lost or doubled.
    """
    from ...pipelines.bulk import embed_parquet

    options: dict[str, Any] = {
        "column": column,
        "model": model,
        "normalize": normalize,
        "dimensions": dimensions,
        "dtype": dtype,
        "backend": backend,
        "embedding_column": embedding_column,
        "error_column": error_column,
        "max_error_ratio": max_error_ratio,
        "storage_options": pairs(storage_option),
        "dry_run": dry_run,
    }
    with grid_for(scheduler, workers, region, settings(config)) as client:
        try:
            with shown() as listen:
                report = embed_parquet(client, source, target, on_progress=listen, **options)
        except KeyboardInterrupt:
            tell(f"stopped. What is in {target} is whole; run the same command again to go on.")
            raise typer.Exit(130) from None
    if as_json:
        print_json(document(report))
    else:
        print_report(report)


def pairs(words: list[str] | None, option: str = "--storage-option") -> dict[str, Any] | None:
    """The values of an option that takes KEY=VALUE."""
    if not words:
        return None
    for word in words:
        if "=" not in word:
            raise typer.BadParameter(f"{word!r} is not KEY=VALUE", param_hint=option)
    return dict(word.split("=", 1) for word in words)


@contextmanager
def grid_for(
    scheduler: str | None, workers: int | None, regions: list[str] | None, values: Settings
) -> Iterator[Client]:
    """The grid to work on: the one named here or in the configuration, else one of our own on this machine."""
    address = scheduler or values.scheduler.address
    if address is not None:
        if workers is not None or regions is not None:
            raise typer.BadParameter(
                f"--workers and --region shape a grid that is started here; this job runs on {address}"
            )
        from ..links import connect

        with connect(address) as client:
            yield client
        return
    from ..grid import Grid

    with Grid(workers=workers, regions=regions, settings=values) as grid:
        tell(f"grid of this machine: {grid.dashboard_link}")
        yield grid.client


def document(report: BulkReport) -> dict[str, Any]:
    """A report for programs."""
    document = {field.name: getattr(report, field.name) for field in dataclasses.fields(report) if field.name != "plan"}
    return document | {"model": report.plan.model, "facts": dict(report.plan.facts), "files": list(report.plan.urls)}


def print_report(report: BulkReport) -> None:
    """A report for people."""
    plan = report.plan
    if report.dry_run:
        say(
            f"{plan.rows:,} rows of {counted(len(plan.files), 'file')} with {plan.model}: "
            f"{counted(len(plan.spans), 'part')}, about {clock(plan.seconds)} on {counted(plan.workers, 'worker')} "
            f"({plan.rows_per_second:,.0f} rows/s each)"
        )
        say(plan.schema)
        say(f"nothing was written; {report.reused_parts} of the parts exist already")
        return
    say(
        f"{counted(report.rows, 'row')} in {counted(report.parts, 'part')} ({report.reused_parts} were there already), "
        f"{report.errors:,} with an error, {report.truncated:,} longer than the model reads"
    )
    say(f"{clock(report.seconds)}, {report.rows_per_second:,.0f} rows/s → {report.target}")
