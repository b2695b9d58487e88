"""The settings of a command: loaded once, with slips told on standard error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .output import tell

if TYPE_CHECKING:
    from ...grid.config import Settings


def settings(config: Path | None = None) -> Settings:
    """What is in force here. Raises ConfigError with every problem; warns of variables that look like a slip."""
    from ...grid.config import load_settings

    loaded = load_settings(config)
    for warning in loaded.warnings:
        tell(str(warning), label="warning:", style="yellow")
    return loaded.settings


def scheduler_address(named: str | None, values: Settings) -> str:
    """The scheduler that is named on the command line, else the configured one, else this machine's."""
    place = values.scheduler
    return named or place.address or f"{'tls' if place.tls else 'tcp'}://127.0.0.1:{place.port}"
