"""All commands, and the one place that turns an expected error into a clear line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any

import typer

from ..parent import tie_to_parent
from . import (
    admin,
    caption,
    chat,
    config,
    deploy,
    deployments,
    doctor,
    embed,
    generate,
    jobs,
    models,
    run,
    serve,
    status,
    stream,
    transcribe,
    worker,
    worker_control,
    worker_doctor,
    worker_install,
    worker_setup,
)
from .output import tell

_LOOK: dict[str, Any] = {
    "no_args_is_help": True,
    "rich_markup_mode": None,  # its boxes cut option names off at 80 columns
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(
    name="idlegrid",
    help="Idle GPUs all over the world, joined into one inference service on Dask.",
    **_LOOK,
)
worker_app = typer.Typer(
    name="gpu-worker",
    help="Give this machine's idle time to a grid.\n\nUnder limits that you set: `load_control` of the configuration.",
    **_LOOK,
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
app.command("dispatcher")(serve.dispatcher)
app.command("api")(serve.api)
app.command("deploy")(deploy.deploy)
app.command("undeploy")(deploy.undeploy)
app.command("deployments")(deployments.deployments)
app.command("run")(run.run)
app.command("chat")(chat.chat)
app.command("embed")(embed.embed)
app.command("transcribe")(transcribe.transcribe)
app.command("caption")(caption.caption)
app.command("generate")(generate.generate)
app.command("stream")(stream.stream)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.add_typer(worker_app, name="worker")
app.add_typer(jobs.app, name="jobs")
app.add_typer(admin.app, name="admin")
app.add_typer(config.app, name="config")
app.add_typer(models.app, name="models")
worker_app.command("join")(worker.join)
worker_app.command("configure")(worker_setup.configure)
worker_app.command("start")(worker.start)
worker_app.command("status")(worker_control.status)
worker_app.command("set")(worker_control.set_)
worker_app.command("pause")(worker_control.pause)
worker_app.command("resume")(worker_control.resume)
worker_app.command("drain")(worker_control.drain)
worker_app.command("logs")(worker_control.logs)
worker_app.command("page")(worker_control.page)
worker_app.command("doctor")(worker_doctor.doctor)
worker_app.command("pull")(worker.pull)
worker_install.register(worker_app)


@worker_app.callback()
def _worker_root() -> None:
    pass


def main() -> None:
    """Entry point of `idlegrid`."""
    tie_to_parent()
    _run(_made(app))


def worker_main() -> None:
    """Entry point of `gpu-worker`."""
    tie_to_parent()
    _run(_made(worker_app))


def _run(commands: Callable[[], Any]) -> None:
    """Run one command. Exit codes: 0 done, 1 an expected error, 2 wrong usage, 130 Ctrl-C."""
    try:
        commands()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _expected(error):
            raise
        tell(str(error), label="error:", style="bold red")
        sys.exit(1)


@cache
def _made(commands: typer.Typer) -> Callable[[], Any]:
    """The commands with all that is known of their arguments: making that takes longer than most of them."""
    return typer.main.get_command(commands)


def _expected(error: Exception) -> bool:
    """Whether the message is all that a person needs. Imported only now: `--help` must not wait for pyarrow."""
    from ...actors.llm.completion import GenerationFailed
    from ...actors.llm.request import RequestRefused
    from ...actors.models import ModelNotFound
    from ...grid.catalogue import UnknownModel
    from ...grid.config import ConfigError
    from ...grid.regions import UnknownRegionError
    from ...pipelines.bulk import BulkError
    from ..client.errors import GridError
    from ..ports import CannotStart

    kinds = (BulkError, CannotStart, ConfigError, ConnectionError, GridError, ModelNotFound, TimeoutError)
    llm: tuple[type[Exception], ...] = (GenerationFailed, RequestRefused, *_errors_of_what_was_loaded())
    return isinstance(error, (*kinds, *llm, UnknownModel, UnknownRegionError))


_LAZY = (
    ("actors.llm.codec", "NoTokenizer"),
    ("actors.llm.families", "UnsupportedModel"),
    ("actors.llm.weights", "BadCheckpoint"),
    ("grid.certificate_files", "NoCertificate"),
    ("grid.store.errors", "StoreUnavailable"),
    ("pipelines.stream.errors", "StreamError"),
)


def _errors_of_what_was_loaded() -> tuple[type[Exception], ...]:
    """What an engine says of a model that it can't load, and the store of its database; none where it wasn't needed."""
    found = []
    for module, name in _LAZY:
        loaded = sys.modules.get(f"idlegrid.{module}")
        if loaded is not None:
            found.append(getattr(loaded, name))
    return tuple(found)
