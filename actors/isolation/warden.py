"""The process around one task: starts it, looks after it, and ends with nothing of it left.

It runs no code of the task's: a fork of it does. It adopts whatever the task leaves behind, so that nothing gets away
by starting anew, and it hears when the worker ends.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

from ...grid.task_limits import TaskLimits
from . import confinement, tree, wire
from .cgroup import Cgroup

PARENT = "IDLEGRID_WARDEN_OF"
"""Variable with the process id of the worker."""
LOOK_EVERY = 0.05
"""Seconds between two looks at the task."""
LOOK_SHARE = 5
"""A look may take a fifth of the time: on a machine with many processes it is dear, and then it is rarer."""
MOST_ORDER = 1 << 31


class Ending(IntEnum):
    """Exit codes of the warden: what it ended the task for. Below: the task's own."""

    DONE = 0
    FAILED = 1
    MEMORY = 71
    TIME = 72
    OUTPUT = 73
    PROCESSES = 74
    ORPHANED = 75
    SIGNAL = 128
    """And the number of the signal."""


def main(fd: int) -> None:
    """Take one order, have it done, exit with its `Ending`."""
    confinement.end_with(int(os.environ[PARENT]), signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(Ending.ORPHANED))
    confinement.adopt_orphans()
    confinement.no_new_privileges()
    confinement.no_core_dumps()
    with socket.socket(fileno=fd) as line:
        order, params = wire.receive(line, MOST_ORDER)
        limits = TaskLimits(**order["limits"])
        group = Cgroup(Path(order["cgroup"]), order["bounds_memory"]) if order["cgroup"] else None
        printed, theirs = os.pipe()
        task = os.fork()
        if task == 0:
            _become_task(line, order["type"], bytes(params), theirs, limits, group)
        signal.signal(signal.SIGTERM, lambda *_: _orphaned(group))
        os.close(theirs)
        line.close()
        os._exit(_look_after(task, printed, limits, group))


def _become_task(
    line: socket.socket, name: str, params: bytes, printed: int, limits: TaskLimits, group: Cgroup | None
) -> None:
    """In the fork: take on the limits, do the work, exit."""
    code = Ending.FAILED
    try:
        confinement.end_with(os.getppid())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        for out in (1, 2):
            os.dup2(printed, out)
        if group is not None:
            with suppress(OSError):
                group.join()
        for which, most in (
            (resource.RLIMIT_NOFILE, limits.files),
            (resource.RLIMIT_FSIZE, limits.file_bytes),
            (resource.RLIMIT_CPU, int(limits.wall_seconds * (os.cpu_count() or 1)) + 1),
        ):
            confinement.limit(which, most)
        if os.geteuid() != 0:  # root is not counted; the warden counts
            confinement.limit(resource.RLIMIT_NPROC, _threads_of_user() + limits.processes)
        from .task_process import do  # what it imports is the task's

        do(line, name, params)
        code = Ending.DONE
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def _look_after(task: int, printed: int, limits: TaskLimits, group: Cgroup | None) -> int:
    """Until the task has ended or broken a limit; then end all that is left of it. Gives the exit code."""
    deadline, left = time.monotonic() + limits.wall_seconds, limits.output_bytes
    os.set_blocking(printed, False)
    ending, pause = None, 0.0
    while ending is None:
        if select.select([printed], [], [], pause)[0]:
            left -= _drain(printed, left)
        looked = time.monotonic()
        ending = _ended(task)
        if group is not None and ending is not None and group.out_of_memory():
            ending = Ending.MEMORY
        if ending is None:
            ending = _broken(limits, group, left, deadline)
        pause = max(LOOK_EVERY, LOOK_SHARE * (time.monotonic() - looked))
    _end_all(group)
    return ending


def _broken(limits: TaskLimits, group: Cgroup | None, left: int, deadline: float) -> int | None:
    if left < 0:
        return Ending.OUTPUT
    if time.monotonic() > deadline:
        return Ending.TIME
    family = tree.descendants(os.getpid())
    if len(family) > limits.processes:
        return Ending.PROCESSES
    if group is not None and group.out_of_memory():
        return Ending.MEMORY
    return Ending.MEMORY if tree.weight(family, limits.memory_bytes) > limits.memory_bytes else None


def _drain(printed: int, left: int) -> int:
    """Bytes that were read and thrown away; a little more than `left` at most."""
    count = 0
    with suppress(BlockingIOError):
        while count <= left and (got := len(os.read(printed, 1 << 20))):
            count += got
        if count == 0:
            time.sleep(LOOK_EVERY)  # it has closed its output, and works on
    return count


def _ended(task: int) -> int | None:
    """How the task ended; None: it lives."""
    status = tree.reap().get(task)
    if status is None:
        return None
    code = os.waitstatus_to_exitcode(status)
    return Ending.SIGNAL - code if code < 0 else (Ending.DONE if code == 0 else Ending.FAILED)


def _end_all(group: Cgroup | None) -> None:
    if group is not None:
        group.kill()
    tree.end()
    if group is not None:
        group.remove()


def _orphaned(group: Cgroup | None) -> None:
    """The worker has ended, or wants the task ended."""
    _end_all(group)
    os._exit(Ending.ORPHANED)


def _threads_of_user() -> int:
    import psutil

    me, total = os.getuid(), 0
    for one in psutil.process_iter(["uids", "num_threads"]):
        uids = one.info["uids"]
        if uids is not None and uids.real == me:
            total += one.info["num_threads"] or 1
    return total
