"""How a long-running command is stopped, and how little it says meanwhile. Needs neither Dask nor a web server."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

Say = Callable[[str], None]


def stop_on_signals(say: Say, promise: str) -> asyncio.Event:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once.

    `promise` says what is done before the end.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()
        say(f"stopping: {promise}; once more to stop now")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, first)
    return stop


def leave_on_signals(say: Say, promise: str, leave: Callable[[], None], now: Callable[[], None]) -> None:
    """Call `leave` at the first SIGINT or SIGTERM and `now` at the second; a third ends the process at once.

    `promise` says what is done before the end.
    """
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def first() -> None:
        for number in numbers:
            loop.add_signal_handler(number, second)
        say(f"leaving: {promise}; once more to stop now")
        leave()

    def second() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        say("stopping now: what runs is handed back")
        now()

    for number in numbers:
        loop.add_signal_handler(number, first)


def quiet() -> None:
    """Dask tells of every connection: warnings are enough for a terminal."""
    logging.getLogger("distributed").setLevel(logging.WARNING)
