"""How commands print: a table for people, or one JSON document for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
WIDE = 200
"""Columns of a table that goes to a file or a pipe, where no terminal says how many there are."""


def say(line: str) -> None:
    """One line on standard output, as it is."""
    _stdout().print(line, highlight=False, soft_wrap=True, markup=False)


def tell(line: str, *, label: str = "", style: str = "") -> None:
    """One line on standard error, as it is, behind a coloured label."""
    text = Text.assemble((f"{label} ", style), line) if label else Text(line)
    stderr().print(text, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """The console for all that is not the answer."""
    return Console(stderr=True)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(document, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, whole: Collection[str] = ()) -> None:
    """A table of texts as they are, or of Rich's `Text`; the columns `whole` are never broken into lines."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    _stdout().print(table)


def _stdout() -> Console:
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)
