"""`idlegrid config`: what is set, and where each value came from."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import ConfigFile
from .output import Json, print_json, print_table

app = typer.Typer(help="Show the configuration.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    pass


@app.command()
def show(
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value came from.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print every setting as it is in force here: environment, then .env, then config.yaml, then defaults."""
    from ...grid.config import load_settings

    rows = [row for row in load_settings(config).rows() if not changed or row.origin != "default"]
    if as_json:
        print_json([{"key": row.key, "value": row.value, "origin": row.origin} for row in rows])
        return
    columns = ["key", "value", *(["origin"] if origin else [])]
    print_table(columns, ([row.key, row.value, *([row.origin] if origin else [])] for row in rows), whole=("key",))
