"""The commands as a page of Markdown: what `--help` says, at a fixed width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from .app import app

WIDTH = 100
"""Columns of the help texts."""


def all_commands() -> Iterator[tuple[str, Any]]:
    """(words, command): the root with no words, then each group before its commands, e.g. ``worker start``."""
    yield from _below("", get_command(app))


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _below(f"{words} {name}".strip(), child)


def reference() -> str:
    """Every command with its help, in code blocks under a heading each."""
    return "\n".join(_section(words, command) for words, command in all_commands())


def _section(words: str, command: Any) -> str:
    name = f"idlegrid {words}".strip()
    settings = command.context_settings | {"terminal_width": WIDTH, "max_content_width": WIDTH}
    context = command.context_class(command, info_name=name, **settings)
    lines = [line.rstrip() for line in command.get_help(context).splitlines()]
    return "\n".join([f"## `{name}`", "", "```", *lines, "```", ""])
