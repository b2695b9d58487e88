"""`idlegrid doctor`: what can keep this machine from working in a grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from .options import ConfigFile
from .output import Json, print_json, print_table

if TYPE_CHECKING:
    from ..doctor import Finding

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(config: ConfigFile = None, as_json: Json = False) -> None:
    """Check this machine for work in a grid.

    Python, versions, configuration, GPU, memory, disk, models, ports. Exits with 1 when
    something keeps it from working in a grid; notes are fine.
    """
    from ..doctor import examine

    if show(list(examine(config)), as_json=as_json):
        raise typer.Exit(1)


def show(findings: Sequence[Finding], *, as_json: bool) -> bool:
    """Print findings; whether one of them is a problem."""
    from ..doctor import Health

    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        columns = ("check", "", "found", "what to do")
        rows = ([f.check, Text(f.health, style=_STYLES[f.health]), f.found, f.advice] for f in findings)
        print_table(columns, rows, whole=("check", ""))
    return any(finding.health is Health.PROBLEM for finding in findings)
