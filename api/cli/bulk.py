"""What all commands for bulk jobs are: a column of a Parquet dataset in, the same rows with result columns out."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from .grids import grid_for
from .options import Address, ConfigFile, DryRun, MaxErrorRatio, Regions, StorageOptions, Workers, pairs
from .output import Json, print_json, say, tell
from .progress import clock, counted, pace, shown
from .settings import settings

if TYPE_CHECKING:
    from ...pipelines.bulk import BulkReport

P = ParamSpec("P")
PROMISE = """
Without a scheduler, named here or configured, a grid is started on this machine for as long as the job takes.

Killed or stopped at any moment, the same command goes on where it was; nothing is lost or doubled.
"""
"""The end of each command's help."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BulkCommand:
    """What every bulk command is told, whatever it computes. Its fields are options on each command line."""

    doing: str
    """What the job does, for its progress."""
    source: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet file, folder, glob or fsspec URL.")]
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder for the result; made if it is not there.")]
    error_column: str = "error"
    max_error_ratio: MaxErrorRatio = None
    storage_option: StorageOptions = None
    dry_run: DryRun = False
    scheduler: Address = None
    workers: Workers = None
    region: Regions = None
    config: ConfigFile = None
    as_json: Json = False

    def run(self, job: Callable[..., BulkReport], **wanted: Any) -> None:
        """Do the job, e.g. `embed_parquet`, with what is `wanted` of this one, and print its report."""
        told = {
            "error_column": self.error_column,
            "max_error_ratio": self.max_error_ratio,
            "storage_options": pairs(self.storage_option),
            "dry_run": self.dry_run,
        }
        with grid_for(self.scheduler, self.workers, self.region, settings(self.config)) as client:
            try:
                with shown(self.doing) as listen:
                    report = job(client, self.source, self.target, on_progress=listen, **told, **wanted)
            except KeyboardInterrupt:
                tell(f"stopped. What is in {self.target} is whole; run the same command again to go on.")
                raise typer.Exit(130) from None
        if self.as_json:
            print_json(document(report))
        else:
            print_report(report)


def bulk_command(
    doing: str, *, result: str
) -> Callable[[Callable[Concatenate[BulkCommand, P], None]], Callable[..., None]]:
    """Make a command of a function that has a `BulkCommand` as its first parameter, and its own options as the others.

    On the command line the arguments come first, then the function's own options, then those that all share.
    `doing`: for the progress, e.g. ``drawing``. `result`: what a row may lack, e.g. ``picture``.
    """

    def made(function: Callable[Concatenate[BulkCommand, P], None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            told = {name: given.pop(name) for name in shared}
            run(BulkCommand(doing=doing, **told), **given)

        run: Callable[..., None] = function  # called with what the signature below lets through
        shared = {one.name: one for one in _shared_parameters(result)}
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        ordered = [
            *(one for one in shared.values() if one.default is Parameter.empty),
            *(one.replace(kind=Parameter.KEYWORD_ONLY) for one in own),
            *(one for one in shared.values() if one.default is not Parameter.empty),
        ]
        command.__name__, command.__qualname__, command.__module__ = function.__name__, function.__name__, __name__
        command.__doc__ = inspect.cleandoc(function.__doc__ or "") + "\n" + PROMISE
        command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {}
        return command

    return made


def _shared_parameters(result: str) -> list[Parameter]:
    """The fields of a `BulkCommand` as parameters of a command."""
    why = typer.Option(metavar="NAME", help=f"Name of the column that says why a row has no {result}.")
    hints = get_type_hints(BulkCommand, include_extras=True) | {"error_column": Annotated[str, why]}
    return [
        Parameter(
            one.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if one.default is dataclasses.MISSING else one.default,
            annotation=hints[one.name],
        )
        for one in dataclasses.fields(BulkCommand)
        if one.name != "doing"
    ]


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
            f"({pace(plan.rows_per_second)} each)"
        )
        say(plan.schema)
        say(f"nothing was written; {report.reused_parts} of the parts exist already")
        return
    say(
        f"{counted(report.rows, 'row')} in {counted(report.parts, 'part')} ({report.reused_parts} were there already), "
        f"{report.errors:,} with an error, {report.truncated:,} longer than the model reads"
    )
    say(f"{clock(report.seconds)}, {pace(report.rows_per_second)} → {report.target}")
