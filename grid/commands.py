"""Commands for a worker: said with every heartbeat's answer until a heartbeat shows that they were obeyed.

An answer may be lost, and a worker may be away for days: so nothing is struck off because it was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Order(StrEnum):
    """What a worker can be told."""

    DRAIN = "drain"
    """Finish what runs, take nothing new."""
    RESUME = "resume"
    RESTART = "restart"
    SHUTDOWN = "shutdown"


_OPPOSITE = {Order.DRAIN: Order.RESUME, Order.RESUME: Order.DRAIN}


@dataclass(frozen=True, slots=True)
class Command:
    """One order, to the process that the worker was when it was given."""

    order: Order
    incarnation: str | None


def added(commands: Iterable[Command], new: Command) -> tuple[Command, ...]:
    """The queue with a new command at its end; the same order and its opposite are not in it any more."""
    over = {new.order, _OPPOSITE.get(new.order)}
    return (*(command for command in commands if command.order not in over), new)


def undone(commands: Sequence[Command], status: str, incarnation: str) -> tuple[Command, ...]:
    """Those that a heartbeat with this status and incarnation doesn't show to be obeyed."""
    return tuple(command for command in commands if not _obeyed(command, status, incarnation))


def _obeyed(command: Command, status: str, incarnation: str) -> bool:
    match command.order:
        case Order.DRAIN:
            return status in ("draining", "offline")
        case Order.RESUME:
            return status != "draining"
        case Order.RESTART | Order.SHUTDOWN:
            return status == "offline" or incarnation != command.incarnation
