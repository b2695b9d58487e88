"""All processes that one process has started, however deep: counted, weighed, ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil


def descendants(pid: int) -> list[psutil.Process]:
    """Those that live now. `pid` adopts orphans (`confinement.adopt_orphans`), so none is out of sight."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def weight(processes: list[psutil.Process], most: int) -> int:
    """Bytes of memory that they hold together. Shared pages count once, as soon as it matters."""
    total = sum(_held(one, lambda one: one.memory_info().rss) for one in processes)
    if total <= most or len(processes) < 2:
        return total
    return sum(
        _held(one, lambda one: getattr(one.memory_full_info(), "pss", one.memory_info().rss)) for one in processes
    )


def end(seconds: float = 5.0) -> int:
    """End all descendants of this very process, and reap them; how many are left after `seconds`.

    They are stopped first: one that runs could start another between our look and our blow.
    """
    deadline = time.monotonic() + seconds
    while left := descendants(os.getpid()):
        for how in (signal.SIGSTOP, signal.SIGKILL):
            for one in left:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    one.send_signal(how)
        reap()
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return len(left)


def reap() -> dict[int, int]:
    """Children that have ended, adopted ones among them: process id → status as `os.wait` has it."""
    ended: dict[int, int] = {}
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    return ended


def _held(one: psutil.Process, what: Callable[[psutil.Process], int]) -> int:
    try:
        return int(what(one))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
