"""Commands are said until they are obeyed."""

from __future__ import annotations

import pytest

from idlegrid.grid.commands import Command, Order, added, undone

DRAIN, RESUME = Command(Order.DRAIN, "i"), Command(Order.RESUME, "i")
RESTART, SHUTDOWN = Command(Order.RESTART, "i"), Command(Order.SHUTDOWN, "i")


@pytest.mark.parametrize(
    ("command", "status", "incarnation", "left"),
    [
        (DRAIN, "online", "i", True),
        (DRAIN, "busy", "j", True),
        (DRAIN, "draining", "i", False),
        (RESUME, "draining", "i", True),
        (RESUME, "paused", "i", False),
        (RESTART, "online", "i", True),
        (RESTART, "online", "j", False),
        (SHUTDOWN, "draining", "i", True),
        (SHUTDOWN, "online", "j", False),
    ],
)
def test_a_heartbeat_shows_what_was_obeyed(command: Command, status: str, incarnation: str, left: bool):
    assert undone([command], status, incarnation) == ((command,) if left else ())


def test_the_last_word_counts():
    assert added([DRAIN, RESTART], RESUME) == (RESTART, RESUME)
    assert added([RESUME], DRAIN) == (DRAIN,)
    assert added([RESTART], Command(Order.RESTART, "j")) == (Command(Order.RESTART, "j"),)
