"""Runs a task of a job type in a process of its own, from the worker's side. Breaking a limit fails that job alone."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, cast

from ...grid.job_types import ALONE, Cancelled, RunContext
from ...grid.task_limits import Limit, LimitBroken, TaskLimits
from . import wire
from .cgroup import Cgroup, make
from .spawning import Child, start
from .warden import PARENT, Ending

HEAR_EVERY = 0.05
"""Seconds between two looks at whether to go on."""
GRACE = 2.0
"""Seconds that a warden has to end what is left, before it is killed itself."""
_LIMITS: Mapping[int, Limit] = {
    Ending.MEMORY: "memory",
    Ending.TIME: "time",
    Ending.OUTPUT: "output",
    Ending.PROCESSES: "processes",
}


class TaskDied(RuntimeError):
    """The task's process ended without a word: it crashed, or the machine is short of memory."""


class TaskFailed(RuntimeError):
    """The task raised what another worker may not; the message has its class."""


def run_isolated(
    name: str, params: Mapping[str, Any], context: RunContext = ALONE, limits: TaskLimits | None = None
) -> bytes:
    """The result of the job type `name` for `params`, as JSON. Blocks; when it returns, no process of the task is left.

    Raises LimitBroken, Cancelled, ValueError for parameters that nobody can use, TaskFailed and TaskDied. Works for job
    types that are installed (entry points): the process finds them by their name.
    """
    limits = limits or TaskLimits()
    group = make(limits.memory_bytes, limits.processes)
    child = start("idlegrid.actors.isolation.warden", {PARENT: str(os.getpid())} | _models())
    try:
        order = {
            "type": name,
            "limits": asdict(limits),
            "cgroup": str(group.path) if group is not None else None,
            "bounds_memory": group is not None and group.bounds_memory,
        }
        deadline = time.monotonic() + limits.wall_seconds + GRACE
        with suppress(wire.Broken):  # how it ended says why
            wire.send(child.line, order, json.dumps(dict(params)).encode(), deadline)
            result = _heard(child, context, limits, deadline)
            if result is not None:
                return result
        raise _verdict(_exit_code(child), limits)
    finally:
        _end(child, group)


def _heard(child: Child, context: RunContext, limits: TaskLimits, deadline: float) -> bytes | None:
    """Pass on what the task says until its result. Raises wire.Broken when it is gone, and what it failed with."""
    left = limits.output_bytes
    while True:
        if context.cancelled():
            raise Cancelled
        if time.monotonic() > deadline:
            raise LimitBroken("time", limits)
        if not select.select([child.line], [], [], HEAR_EVERY)[0]:
            continue
        try:
            head, body = wire.receive(child.line, left, deadline)
        except wire.TooMuch:
            raise LimitBroken("output", limits) from None
        left -= len(body) + 64
        if left < 0:
            raise LimitBroken("output", limits)
        if "result" in head:
            return bytes(body)
        if "failed" in head:
            raise _failure(head, limits)
        if "progress" in head:
            context.progress(json.loads(body))
        elif "tokens" in head:
            context.tokens(body.decode())


def _failure(head: Mapping[str, Any], limits: TaskLimits) -> Exception:
    message = str(head.get("message", ""))
    match head["failed"]:
        case "cancelled":
            return Cancelled()
        case "invalid":
            return ValueError(message)
        case "limit":
            known = {"memory", "processes", "files"} & {head.get("limit")}
            return LimitBroken(cast("Limit", known.pop()), limits) if known else TaskFailed(message)
        case _:
            return TaskFailed(message)


def _verdict(code: int, limits: TaskLimits) -> Exception:
    """What the warden's exit code says of a task that ended without a word."""
    if code in _LIMITS:
        return LimitBroken(_LIMITS[code], limits)
    if code > Ending.SIGNAL:
        number = code - Ending.SIGNAL
        if number == signal.SIGXCPU:
            return LimitBroken("time", limits)
        with suppress(ValueError):
            return TaskDied(f"its process was ended by {signal.Signals(number).name}")
    return TaskDied(f"its process ended without a result (code {code})")


def _exit_code(child: Child) -> int:
    try:
        return child.process.wait(GRACE + 5)
    except subprocess.TimeoutExpired:
        return Ending.FAILED


def _end(child: Child, group: Cgroup | None) -> None:
    """Nothing of the task is left after this."""
    child.line.close()
    if child.process.poll() is None:
        child.process.terminate()  # the warden ends its task, then itself
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(GRACE)
    if group is not None:
        group.kill()
    child.kill()
    if group is not None:
        for _ in range(100):
            if group.remove():
                return
            time.sleep(0.01)


def _models() -> dict[str, str]:
    """Where models lie on this machine; a token for them is not among it."""
    names = ("HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES")
    return {name: os.environ[name] for name in names if name in os.environ}
