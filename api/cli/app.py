"""All commands, and the one place that turns an expected error into a clear line and an exit code."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from . import config, doctor, embed, models, serve, status, worker

app = typer.Typer(
    name="idlegrid",
    help="Idle GPUs all over the world, joined into one inference service on Dask.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
worker_app = typer.Typer(
    name="gpu-worker",
    help="Give this machine's idle time to a grid, under limits that you set.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"idlegrid {version('idlegrid')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("up")(serve.up)
app.command("scheduler")(serve.scheduler)
app.command("api")(serve.api)
app.command("embed")(embed.embed)
app.command("models")(models.models)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.add_typer(worker_app, name="worker")
app.add_typer(config.app, name="config")
worker_app.command("start")(worker.start)


@worker_app.callback()
def _worker_root() -> None:
    pass


def main() -> None:
    """Entry point of `idlegrid`."""
    _run(app)


def worker_main() -> None:
    """Entry point of `gpu-worker`."""
    _run(worker_app)


def _run(commands: typer.Typer) -> None:
    from ...actors.models import ModelNotFound
    from ...grid.config import ConfigError
    from ...pipelines.bulk import BulkError

    try:
        commands()
    except (BulkError, ConfigError, ModelNotFound, ConnectionError, TimeoutError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
