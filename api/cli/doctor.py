"""`idlegrid doctor`: what can keep this machine from working in a grid."""

from __future__ import annotations

import dataclasses

import typer

from .config import ConfigFile
from .output import Json, print_json, print_table

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(config: ConfigFile = None, as_json: Json = False) -> None:
    """Check this machine: Python, versions, configuration, GPU, memory, disk, models, ports. Exits 1 on a problem."""
    from ..doctor import Health, examine

    findings = list(examine(config))
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print_table(
            "",
            ["check", "", "found", "what to do"],
            ([f.check, f"[{_STYLES[f.health]}]{f.health}[/]", f.found, f.advice] for f in findings),
        )
    if any(finding.health is Health.PROBLEM for finding in findings):
        raise typer.Exit(1)
