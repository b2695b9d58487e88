"""`idlegrid deployments`: which language models a grid serves, and which worker holds which blocks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..strip import LEGEND, SPEEDS, strip_lines
from .options import ApiKey, ConfigFile, Url
from .output import Json, print_json, say, tell
from .service import service

if TYPE_CHECKING:
    from ..client import GridClient

LOOK_EVERY = 0.5
"""Seconds between two looks of `--watch`."""
PLAIN = 80
"""Columns where no terminal says how many there are."""


def deployments(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again whenever it changes, until Ctrl-C.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show the deployed models, and who holds which blocks.

    Rows are workers, columns are blocks.
    """
    with service(url, api_key, config) as grid:
        if as_json:
            print_json(grid.deployments())
        elif not watch:
            for line in lines(grid.deployments(), _width()):
                say(line)
        elif sys.stdout.isatty():
            _live(grid)
        else:
            for page in _pages(grid, PLAIN):
                say(f"{datetime.now(UTC):%H:%M:%S} UTC")
                for line in page:
                    say(line)


def lines(told: Mapping[str, Any], width: int) -> Iterator[str]:
    """What the service tells, as lines."""
    if not told["deployments"]:
        yield "nothing is deployed; `idlegrid deploy MODEL` does it"
        return
    serving = told["serving"]
    if serving is None or not serving["alive"]:
        yield "nobody serves them now: no `idlegrid api` runs on this database, or it was lost a moment ago"
    for one in told["deployments"]:
        yield _head(one)
        if one["why"]:
            yield f"  {one['why']}"
        yield from strip_lines(one, width)
    if any(one["coverage"] for one in told["deployments"]):
        yield ""
        yield LEGEND
    if any(held.get("layer_ms") is not None for one in told["deployments"] for held in one["coverage"]):
        yield SPEEDS


def _head(one: Mapping[str, Any]) -> str:
    split = ""
    if one["layers"] is not None:
        split = " in " + ",".join(f"{first}-{stop - 1}" for first, stop in one["layers"])
    elif one["stages"] is not None:
        split = f" in {one['stages'] or 'as many as it takes'} stages"
    replicas = f"{one['ready']} of {one['replicas']} replicas serve"
    place = f", {one['region']}" if one["region"] else ""
    return f"{one['model']}  {one['state']}: {replicas}{split}{place}, version {one['version']}"


def _pages(grid: GridClient, width: int) -> Iterator[list[str]]:
    """What is to be shown, whenever it is something else."""
    from ..client import Unavailable

    shown: list[str] = []
    while True:
        try:
            page = list(lines(grid.deployments(), width))
        except Unavailable as error:  # it is started again in a moment
            tell(str(error), label="warning:", style="yellow")
            continue
        if page != shown:
            shown = page
            yield page
        time.sleep(LOOK_EVERY)


def _live(grid: GridClient) -> None:
    with Live(console=Console(), auto_refresh=False, vertical_overflow="visible") as live:
        for page in _pages(grid, _width()):
            live.update(Text("\n".join(page), no_wrap=True, overflow="ellipsis"), refresh=True)


def _width() -> int:
    return min(120, Console().width) if sys.stdout.isatty() else PLAIN
