"""`idlegrid doctor`: what can keep this machine from working in a grid."""

from __future__ import annotations

import dataclasses

import typer
from rich.text import Text

from .options import ConfigFile
from .output import Json, print_json, print_table

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(config: ConfigFile = None, as_json: Json = False) -> None:
    """Check this machine for work in a grid.

    Python, versions, configuration, GPU, memory, disk, models, ports. Exits with 1 when
    something keeps it from working in a grid; notes are fine.
    """
    from ..doctor import Health, examine

    findings = list(examine(config))
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        columns = ("check", "", "found", "what to do")
        rows = ([f.check, Text(f.health, style=_STYLES[f.health]), f.found, f.advice] for f in findings)
        print_table(columns, rows, whole=("check", ""))
    if any(finding.health is Health.PROBLEM for finding in findings):
        raise typer.Exit(1)
