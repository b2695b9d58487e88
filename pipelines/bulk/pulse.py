"""Signs of life from inside a unit: how far a worker is with rows that take minutes each. Never needed, only shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

TOPIC = "idlegrid-bulk-pulse"
EVERY = 1.0
"""Seconds between two signs of one worker at least."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """Where one worker is."""

    rows: int
    """Done since the worker was last handed some."""
    step: int
    """Of what it computes now."""
    steps: int


def teller(clock: Callable[[], float] = time.monotonic) -> Callable[[Pulse], None]:
    """What a worker's task calls as often as it likes: now and then it is told to who watches."""
    from distributed import get_worker

    try:
        worker = get_worker()
        key = str(worker.get_current_task())
    except (ValueError, KeyError):
        return lambda pulse: None
    last = float("-inf")

    def tell(pulse: Pulse) -> None:
        nonlocal last
        if clock() - last >= EVERY:
            last = clock()
            with suppress(Exception):  # a worker that is leaving: its work is what counts
                worker.log_event(TOPIC, {"key": key, "at": [pulse.rows, pulse.step, pulse.steps]})

    return tell


@contextmanager
def heard(client: Any) -> Iterator[Mapping[str, Pulse]]:
    """The latest sign of each task of the grid, by its key, while the block lasts."""
    known: dict[str, Pulse] = {}

    def hear(event: tuple[float, Any]) -> None:
        with suppress(TypeError, ValueError, KeyError):  # workers are strangers
            said = event[1]
            rows, step, steps = (max(0, int(number)) for number in said["at"])
            known[str(said["key"])] = Pulse(rows, step, steps)

    client.subscribe_topic(TOPIC, hear)
    try:
        yield known
    finally:
        with suppress(Exception):  # the scheduler may be gone, and the subscription with it
            client.unsubscribe_topic(TOPIC)
