"""Options and values that several commands of a donor have."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..donor.control import Control
    from ..donor.state import Home

HomeFolder = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        file_okay=False,
        help="One folder for all files of this agent.",
        show_default="IDLEGRID_HOME, else the user's folders",
    ),
]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of this worker.", show_default="configured or generated")
]
RegionCode = Annotated[
    str | None, typer.Option("--region", "-r", metavar="CODE", help="Where it stands.", show_default="configured")
]
DrainTimeout = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Time that running work gets to finish.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take what is proposed.")]
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def home_of(folder: Path | None) -> Home:
    """The files of the agent that is meant, for this process and for those that it starts."""
    from ...pipelines.dispatch.spool import HOME
    from ..donor.state import Home

    if folder is not None:
        os.environ[HOME] = str(folder.expanduser().absolute())
    return Home.find(folder)


def control_of(folder: Path | None) -> Control:
    """The running agent that is meant."""
    from ..donor.control import Control

    return Control(home_of(folder).control_socket)


def seconds_of(length: str) -> float:
    """``90s``, ``30m``, ``1h``, ``1h30m``, ``2d`` in seconds. Raises typer.BadParameter."""
    parts = _LENGTH.findall(length.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != length.strip().lower():
        raise typer.BadParameter(f"{length!r} is no length of time: write 30m, 1h, 1h30m or 2d")
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if total <= 0:
        raise typer.BadParameter(f"{length!r} is no time at all")
    return total
