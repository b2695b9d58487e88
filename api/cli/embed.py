"""`idlegrid embed`: vectors for a column of a Parquet dataset."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from .connect import Address, connected
from .output import Json, console, print_json
from .serve import Regions, Workers

if TYPE_CHECKING:
    from distributed import Client

    from ...pipelines.bulk import BulkReport
    from ...pipelines.bulk import Progress as Look

errors = Console(stderr=True)


def embed(
    source: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet file, folder, glob or fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder for the result; made if it is not there.")],
    column: Annotated[str, typer.Option("--column", "-c", help="The text column.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="See `idlegrid models`.", show_default="the catalogue's default")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Scale every vector to length 1.")] = True,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Keep only the first values of each vector.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    backend: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    embedding_column: Annotated[str, typer.Option(help="Name of the result column.")] = "embedding",
    error_column: Annotated[str, typer.Option(help="Name of the column that says why a row has none.")] = "error",
    max_error_ratio: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Stop when more rows than this have an error.", show_default="never"),
    ] = None,
    storage_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For fsspec, e.g. endpoint_url=…; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")] = False,
    scheduler: Address = None,
    workers: Workers = None,
    region: Regions = None,
    as_json: Json = False,
) -> None:
    """Embed a text column: the same rows out, in order, plus the vector and an error column.

    Without --scheduler a grid is started on this machine for as long as the job takes. Killed or stopped at any moment,
    the same command goes on where it was; nothing is lost or doubled.
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
        "storage_options": _pairs(storage_option),
        "dry_run": dry_run,
    }
    with _grid(scheduler, workers, region) as client, _progress_bar(quiet=as_json or dry_run) as listen:
        try:
            report = embed_parquet(client, source, target, on_progress=listen, **options)
        except KeyboardInterrupt:
            errors.print(
                f"\nstopped. What is in {target} is whole; run the same command again to go on.", soft_wrap=True
            )
            raise typer.Exit(130) from None
    if as_json:
        print_json(_document(report))
    else:
        _print_report(report)


def _pairs(words: list[str] | None) -> dict[str, Any] | None:
    if not words:
        return None
    for word in words:
        if "=" not in word:
            raise typer.BadParameter(f"{word!r} is not KEY=VALUE", param_hint="--storage-option")
    return dict(word.split("=", 1) for word in words)


@contextmanager
def _grid(scheduler: str | None, workers: int | None, regions: list[str] | None) -> Iterator[Client]:
    """The grid to work on: the one named here or in the configuration, else one of our own on this machine."""
    from .settings import settings

    values = settings()
    address = scheduler or values.scheduler.address
    if address is not None:
        with connected(address) as client:
            yield client
        return
    from ..grid import Grid

    with Grid(workers=workers, regions=regions, settings=values) as grid:
        errors.print(f"grid of this machine: {grid.dashboard_link}", highlight=False)
        yield grid.client


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Any]:
    """A listener for the job's progress that draws a bar on standard error; on a pipe it only tells notices."""
    if quiet or not sys.stderr.isatty():
        told: set[str] = set()

        def tell(look: Look) -> None:
            if look.notice and look.notice not in told and not quiet:
                told.add(look.notice)
                errors.print(look.notice, highlight=False, soft_wrap=True)

        yield tell
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} rows/s"),
        TextColumn("{task.fields[errors]} errors"),
        TextColumn("{task.fields[workers]} workers"),
        TextColumn("ETA {task.fields[eta]}"),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task("embedding", total=None, rate="-", errors=0, workers=0, eta="-")
        yield lambda look: _draw(bar, task, look)


def _draw(bar: Progress, task: TaskID, look: Look) -> None:
    eta = "-" if look.eta_seconds is None else f"{int(look.eta_seconds) // 60}:{int(look.eta_seconds) % 60:02}"
    rate = f"{look.rows_per_second:,.0f}"
    bar.update(
        task,
        total=look.rows_total,
        completed=look.rows,
        rate=rate,
        errors=look.errors,
        workers=look.workers,
        eta=eta,
    )
    if look.notice:
        bar.console.print(look.notice, highlight=False, soft_wrap=True)


def _document(report: BulkReport) -> dict[str, Any]:
    document = {field.name: getattr(report, field.name) for field in dataclasses.fields(report) if field.name != "plan"}
    return document | {"model": report.plan.model, "facts": dict(report.plan.facts), "files": list(report.plan.urls)}


def _print_report(report: BulkReport) -> None:
    plan = report.plan
    if report.dry_run:
        console.print(
            f"{plan.rows:,} rows of {len(plan.files)} files with {plan.model}: {len(plan.spans)} parts, about "
            f"{plan.seconds:,.0f} s on {plan.workers} workers ({plan.rows_per_second:,.0f} rows/s each)",
            highlight=False,
            soft_wrap=True,
        )
        console.print(plan.schema, highlight=False, markup=False)
        console.print(f"nothing was written; {report.reused_parts} of the parts exist already", highlight=False)
        return
    console.print(
        f"{report.rows:,} rows in {report.parts} parts ({report.reused_parts} were there already), "
        f"{report.errors:,} with an error, {report.truncated:,} longer than the model reads",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{report.seconds:,.1f} s, {report.rows_per_second:,.0f} rows/s → {report.target}",
        highlight=False,
        soft_wrap=True,
    )
