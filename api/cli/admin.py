"""`idlegrid admin`: API keys, on the grid's database itself: the first key must be there before a service runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .admin_certificate import certificate
from .admin_workers import enroll, workers
from .options import ConfigFile
from .output import Json, print_json, print_table, say, tell
from .settings import settings
from .store import opened

if TYPE_CHECKING:
    from ...grid.store import ApiKey

app = typer.Typer(help="Operate a grid.", no_args_is_help=True)
keys = typer.Typer(
    help="API keys.\n\nThese commands work on the database itself (database.url); no service need run.",
    no_args_is_help=True,
)
app.add_typer(keys, name="keys")
app.command()(enroll)
app.command()(certificate)
app.add_typer(workers, name="workers")
SCOPES = ("jobs", "admin", "nodes")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for, in a few words.", show_default=False)],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="SCOPE", help=f"{', '.join(SCOPES)}; repeatable.", show_default="jobs"),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Whose jobs it sees and makes.", show_default="a client of its own"),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Requests a minute.", show_default="jobs.requests_per_minute"),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.001, metavar="DAYS", help="Days until it expires.", show_default="never")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown this once: only its hash is kept."""
    scopes = scope or ["jobs"]
    if wrong := sorted(set(scopes) - set(SCOPES)):
        raise typer.BadParameter(
            f"no such scope: {', '.join(wrong)}; there are {', '.join(SCOPES)}", param_hint="--scope"
        )
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with opened(settings(config)) as store:
        key, secret = store.keys.create(name, scopes, client, rate, expires)
    if as_json:
        print_json(_document(key) | {"key": secret})
        return
    say(secret)
    tell(f"key {key.prefix} ({key.name}) of client {key.client_id}; this is the only time that it is shown")


@keys.command()
def ls(config: ConfigFile = None, as_json: Json = False) -> None:
    """List the API keys, newest first, revoked ones too."""
    with opened(settings(config)) as store:
        found = store.keys.list()
    if as_json:
        print_json([_document(key) for key in found])
        return
    now = datetime.now(UTC)
    columns = ("key", "name", "state", "scopes", "client", "rate", "last used")
    rows = (
        [
            key.prefix,
            key.name,
            _state(key, now),
            ", ".join(sorted(key.scopes)),
            key.client_id,
            key.requests_per_minute or "",
            "never" if key.last_used_at is None else f"{key.last_used_at:%Y-%m-%d %H:%M} UTC",
        ]
        for key in found
    )
    print_table(columns, rows, whole=("key", "state"))


@keys.command()
def revoke(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="Its eight characters in the list, or its id.", show_default=False)
    ],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Close an API key for good. Services that know it refuse it within a second."""
    with opened(settings(config)) as store:
        revoked = store.keys.revoke(key)
    if as_json:
        print_json({"key": key, "revoked": revoked})
    elif revoked:
        say(f"key {key} is revoked")
    else:
        tell(
            f"there is no key {key!r} that could be revoked; `idlegrid admin keys ls` lists them",
            label="error:",
            style="bold red",
        )
    if not revoked:
        raise typer.Exit(1)


def _state(key: ApiKey, now: datetime) -> Text:
    if key.revoked_at is not None:
        return Text("revoked", style="dim")
    if key.expires_at is not None and key.expires_at <= now:
        return Text("expired", style="dim")
    return Text("open", style="green")


def _document(key: ApiKey) -> dict[str, Any]:
    names = ("id", "name", "prefix", "client_id", "requests_per_minute")
    instants = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    told = {name: None if at is None else at.isoformat() for name, at in instants.items()}
    return {name: getattr(key, name) for name in names} | {"scopes": sorted(key.scopes)} | told
