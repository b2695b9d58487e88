"""What bulk commands have in common, without a grid."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import typer

from idlegrid.api.cli import bulk
from idlegrid.api.cli.caption import caption
from idlegrid.api.cli.chat import chat
from idlegrid.api.cli.embed import embed
from idlegrid.api.cli.generate import generate
from idlegrid.api.cli.options import pairs
from idlegrid.api.cli.transcribe import transcribe

SHARED = [one.name for one in fields(bulk.BulkCommand) if one.name not in ("doing", "source", "target")]


@pytest.mark.parametrize("command", [embed, chat, caption, generate, transcribe])
def test_a_command_begins_and_ends_as_all_do(command):
    names = list(inspect.signature(command).parameters)
    assert names[:2] == ["source", "target"]
    assert names[-len(SHARED) :] == SHARED
    assert command.__doc__.endswith(bulk.PROMISE)


def test_a_command_gets_its_own_options_and_runs_the_rest():
    seen = []

    @bulk.bulk_command("counting", result="count")
    def count(command: bulk.BulkCommand, column: str, most: int = 3) -> None:
        """Count."""
        seen.append((command, column, most))

    rest = {one.name: one.default for one in fields(bulk.BulkCommand) if one.name in SHARED}
    count(source=["in"], target="out", column="text", most=5, **rest | {"dry_run": True})
    command, column, most = seen[0]
    assert (command.doing, command.source, command.target, command.dry_run) == ("counting", ["in"], "out", True)
    assert (column, most) == ("text", 5)
    why = inspect.signature(count).parameters["error_column"].annotation.__metadata__[0]
    assert why.help == "Name of the column that says why a row has no count."


def test_pairs():
    assert pairs(None) is None
    assert pairs(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(typer.BadParameter, match="'secret' is not KEY=VALUE"):
        pairs(["secret"])
