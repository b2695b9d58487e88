"""`gpu-worker status`, `set`, `pause`, `resume`, `drain`, `logs`, `page`: the owner and the running agent."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .output import Json, print_json, say, tell
from .worker_options import HomeFolder, control_of, home_of, seconds_of

if TYPE_CHECKING:
    from pathlib import Path

    from ..donor.face import AgentStatus, LogLine

FOLLOW_EVERY = 0.3
"""Seconds between two looks for new lines."""


def status(home: HomeFolder = None, as_json: Json = False) -> None:
    """Show what this machine does for its grid, and why.

    State and its reason, the reliability score with its terms and how to raise it, jobs, limits. Exits with 1 when
    no agent runs.
    """
    from ..donor.control import NotRunning
    from .worker_screen import not_running, screen

    place = home_of(home)
    try:
        found, page = control_of(home).status()
    except NotRunning:
        lines, document = not_running(place)
        if as_json:
            print_json(document)
        else:
            for line in lines:
                say(line)
        raise typer.Exit(1) from None
    if as_json:
        print_json(dataclasses.asdict(found) | {"page": page})
        return
    for line in screen(found, page):
        say(line)


def set_(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Setting, with or without its section.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Its value; `none` where it may be empty.")],
    home: HomeFolder = None,
) -> None:
    """Change one setting, for good and at once.

    `gpu-worker set max_concurrent_jobs 2`. docs/configuration.md lists every key.
    """
    from ..donor.config_file import change, full_key
    from ..donor.control import NotRunning

    try:
        key = full_key(key)
        try:
            control_of(home).set(key, value)
        except NotRunning:
            change(home_of(home).config, key, value)
            say(f"{key} is set; in force when the agent starts")
            return
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="KEY VALUE") from None
    say(f"{key} is set and in force")


def pause(
    length: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help="30m, 1h, 2d; then it goes on by itself.", show_default="until `resume`"
        ),
    ] = None,
    home: HomeFolder = None,
) -> None:
    """Free the GPU now, and take no work.

    What runs is handed back and done elsewhere; it costs nothing of the score. Outlives a restart.
    """
    _told(control_of(home).pause(None if length is None else seconds_of(length)))


def resume(home: HomeFolder = None) -> None:
    """Take work again, after `pause` or `drain`."""
    _told(control_of(home).resume())


def drain(
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has left.")] = False, home: HomeFolder = None
) -> None:
    """Finish what runs, take nothing new, leave the grid; the agent then ends."""
    from ..donor.control import NotRunning

    control = control_of(home)
    _told(control.drain())
    while wait:
        time.sleep(FOLLOW_EVERY)
        try:
            control.status()
        except NotRunning:
            return


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, metavar="N", help="Lines to begin with.")] = 50,
    home: HomeFolder = None,
) -> None:
    """Show the agent's log."""
    from ..donor.control import NotRunning

    control, after, limit = control_of(home), 0, lines
    try:
        while True:
            for line in control.logs(after, limit):
                say(_line(line))
                after, limit = line.number, 10_000
            if not follow:
                return
            time.sleep(FOLLOW_EVERY)
    except NotRunning:
        if after:
            tell("the agent has ended")
            return
        _from_file(home_of(home).log, lines)


def page(home: HomeFolder = None) -> None:
    """Open the page of this machine in a browser."""
    import webbrowser

    _, url = control_of(home).status()
    if url is None:
        tell("this agent has no page", label="error:", style="bold red")
        raise typer.Exit(1)
    place = home_of(home).page_file
    if not webbrowser.open(place.as_uri()):  # not the URL: other users of this machine see a browser's words
        say(url)


def _from_file(path: Path, lines: int) -> None:
    if not path.is_file():
        tell("no agent ever ran here; `gpu-worker join URL TOKEN` begins", label="error:", style="bold red")
        raise typer.Exit(1)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]:
        say(line)
    tell("the agent does not run now")


def _told(status: AgentStatus) -> None:
    say(f"{status.state.value}: {status.reason}")


def _line(line: LogLine) -> str:
    return f"{line.at.astimezone():%Y-%m-%d %H:%M:%S} {line.level:<7} {line.text}"
