"""`idlegrid admin certificate`: a certificate for somebody who is to speak on the Dask network from another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import ConfigFile
from .output import Json, print_json, say, tell
from .settings import settings

ROLES = ("client", "worker", "scheduler", "api")


def certificate(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write it to.", show_default=False)],
    role: Annotated[str, typer.Option(metavar="ROLE", help=f"{', '.join(ROLES)}.")] = "client",
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose it is; a worker works under this name.", show_default="its role"),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="DAYS", help="Days until it expires.", show_default="90; a worker's 7"),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a certificate of the grid's own CA, for a notebook or a server on another machine.

    Run it where the CA is: on the machine of the HTTP service. A client's certificate may do everything on the grid.
    Donors need none of these: they get theirs when they join.
    """
    from datetime import UTC, datetime, timedelta

    from ...grid.certificate_files import Paper, open_authority
    from ...grid.peers import Role
    from ..tls import folder_of

    if role not in ROLES:
        raise typer.BadParameter(f"{role!r} is none of {', '.join(ROLES)}", param_hint="--role")
    life = None if days is None else timedelta(days=days)
    now = datetime.now(UTC)
    authority = open_authority(folder_of(settings(config)), now)
    try:
        made = authority.issue(Role(role), name or role, now, life)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--name") from None
    paper = Paper(out / f"{role}.pem")
    paper.save(made.certificate, made.key, made.authority)
    if as_json:
        told = {"certificate": str(paper.file), "authority": str(paper.authority)}
        print_json(told | {"role": role, "name": name or role, "expires_at": made.expires_at.isoformat()})
        return
    say(str(paper.file))
    say(str(paper.authority))
    tell(
        f"good until {made.expires_at:%Y-%m-%d}; keep the first secret. Where it is used: "
        f"IDLEGRID_SCHEDULER_TLS_FOLDER={out}"
    )
