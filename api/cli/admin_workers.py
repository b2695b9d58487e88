"""`idlegrid admin enroll` and `idlegrid admin workers`: who is let in, on the grid's database itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .options import ConfigFile
from .output import Json, print_json, print_table, say, tell
from .settings import settings
from .store import opened
from .worker_options import seconds_of

if TYPE_CHECKING:
    from ...grid.store import By, DonorRecord, Store

workers = typer.Typer(
    help="Workers.\n\nThese commands work on the database itself (database.url); no service need run.",
    no_args_is_help=True,
)
WorkerName = Annotated[
    str, typer.Argument(metavar="WORKER", help="Its id, or the beginning of one.", show_default=False)
]
_STATES = {"online": "green", "busy": "green", "paused": "yellow", "draining": "yellow"}


def enroll(
    valid: Annotated[str, typer.Option(metavar="TIME", help="How long, as in 90m, 24h or 7d.")] = "24h",
    owner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose machine it is.", show_default="nobody's in particular")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Address at which the donor reaches this grid.", show_default="api.public_urls"
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Let one machine in, once: prints the line for its owner.

    The token in it is good for one machine and is shown this once; only its hash is kept.
    """
    values, seconds = settings(config), seconds_of(valid)
    with opened(values) as store:
        made, token = store.enrolments.create(seconds, owner, _operator())
    join = f"gpu-worker join {(url or values.api.urls_for_workers[0]).rstrip('/')} {token}"
    if as_json:
        expires = made.expires_at.isoformat()
        print_json({"prefix": made.prefix, "owner": owner, "expires_at": expires, "token": token, "join": join})
        return
    say(join)
    tell(f"good for one machine until {made.expires_at:%Y-%m-%d %H:%M} UTC; this is the only time that it is shown")


@workers.command()
def ls(config: ConfigFile = None, as_json: Json = False) -> None:
    """List the workers that the database knows."""
    with opened(settings(config)) as store:
        found = store.donors.list()
    if as_json:
        print_json([_document(donor) for donor in found])
        return
    columns = ("worker", "name", "state", "region", "gpu", "score", "owner", "last heard of", "told")
    print_table(columns, (_line(donor) for donor in found), whole=("worker", "state"))


@workers.command()
def block(worker: WorkerName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Let nothing of a worker in any more, until it is unblocked. What it runs goes to others at once."""
    _decide(worker, "blocked", lambda store, id_, by: store.block(id_, by), config, as_json)


@workers.command()
def unblock(worker: WorkerName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Let a blocked worker in again."""
    _decide(worker, "let in again", lambda store, id_, by: store.donors.unblock(id_, by), config, as_json)


@workers.command()
def unlock(worker: WorkerName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Forget the failed authentications for a worker, which lock out where they came from for 15 minutes."""
    _decide(worker, "unlocked", lambda store, id_, by: store.donors.unlock(id_, by), config, as_json)


@workers.command()
def drain(worker: WorkerName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Tell a worker to finish what runs and to take nothing new. It hears it with its next heartbeat."""
    _order(worker, "drain", config, as_json)


@workers.command()
def resume(worker: WorkerName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Tell a worker to take work again."""
    _order(worker, "resume", config, as_json)


@workers.command()
def restart(worker: WorkerName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Tell a worker to start its worker process again, once what runs is finished."""
    _order(worker, "restart", config, as_json)


@workers.command()
def shutdown(worker: WorkerName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Tell a worker to finish what runs, to leave the grid and to end."""
    _order(worker, "shutdown", config, as_json)


def _order(worker: str, order: str, config: ConfigFile, as_json: bool) -> None:
    from ...grid.commands import Order

    told = f"told to {'shut down' if order == 'shutdown' else order}"
    _decide(worker, told, lambda store, id_, by: store.donors.command(id_, Order(order), by), config, as_json)


def _decide(worker: str, done: str, act: Callable[[Store, str, By], bool], config: ConfigFile, as_json: bool) -> None:
    with opened(settings(config)) as store:
        found = [donor.worker.facts.id for donor in store.donors.list() if donor.worker.facts.id.startswith(worker)]
        if len(found) != 1 and worker not in found:
            say_which = f"{len(found)} workers have ids that begin" if found else "no worker has an id that begins"
            tell(
                f"{say_which} with {worker!r}; `idlegrid admin workers ls` lists them", label="error:", style="bold red"
            )
            raise typer.Exit(1)
        id_ = worker if worker in found else found[0]
        act(store, id_, _operator())
        donor = store.donors.get(id_)
    assert donor is not None
    if as_json:
        print_json(_document(donor))
    else:
        say(f"worker {id_} ({donor.worker.facts.name}) is {done}")


def _operator() -> By:
    from ...grid.store import By

    return By("command line")


def _line(donor: DonorRecord) -> list[object]:
    facts, heard = donor.worker.facts, donor.worker.last_heartbeat
    state = "blocked" if donor.blocked_at is not None else facts.status
    return [
        facts.id,
        facts.name,
        Text(state, style="red" if donor.blocked_at is not None else _STATES.get(state, "dim")),
        facts.region or "",
        f"{facts.gpu_model or 'none'} {facts.gpu_memory_gb:g} GB" if facts.gpu_memory_gb else facts.gpu_model or "none",
        "" if donor.reliability is None else f"{donor.reliability['total']:.2f}",
        donor.owner or "",
        "never" if heard is None else f"{heard:%Y-%m-%d %H:%M:%S} UTC",
        ", ".join(command.order.value for command in donor.commands),
    ]


def _document(donor: DonorRecord) -> dict[str, Any]:
    facts, heard = donor.worker.facts, donor.worker.last_heartbeat
    return {
        "id": facts.id,
        "name": facts.name,
        "status": facts.status,
        "blocked": donor.blocked_at is not None,
        "registered": donor.registered,
        "region": facts.region,
        "gpu_model": facts.gpu_model,
        "gpu_memory_gb": facts.gpu_memory_gb,
        "gpu_count": donor.gpu_count,
        "supported_types": sorted(facts.supported_types),
        "owner": donor.owner,
        "config_version": donor.config.version,
        "reliability": donor.reliability,
        "commands": [command.order.value for command in donor.commands],
        "total_jobs": donor.worker.total_jobs,
        "last_heartbeat": None if heard is None else heard.isoformat(),
    }
