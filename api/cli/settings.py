"""The settings of a command: loaded once, with slips told on standard error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from ...grid.config import Settings


def settings(config: Path | None = None) -> Settings:
    """What is in force here. Raises ConfigError with every problem; warns of variables that look like a slip."""
    from ...grid.config import load_settings

    loaded = load_settings(config)
    for warning in loaded.warnings:
        Console(stderr=True).print(f"[yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
    return loaded.settings
