"""Keeps the processes of a grid on one machine running: each is started again, whatever its exit code.

*Measured*: a Dask worker whose scheduler was killed exits with code 0, or does not exit at all while a task runs; so
neither an exit code nor its absence says anything. What is certain is the process group: before a part is started
again, all that is left of it is killed, so that no two of them ever share a device.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from .parent import VARIABLE
from .ports import CannotStart

logger = logging.getLogger(__name__)

RESTART_FIRST, RESTART_MOST = 0.1, 5.0
"""Seconds before a part is started again: doubled each time that it did not last."""
LASTED = 10.0
"""Seconds after which a part that ends had started well."""
MEMORY_LIMIT = 0.95
"""Share of its memory limit at which a part is killed: it would take the machine with it."""
LOOK_EVERY = 1.0
LONGEST_LINE = 8192
LAST_WORDS = 1.0
"""Seconds for what a process said before it was killed."""
_EXPECTED = (1, 2)
"""Exit codes of a command that said why it can't work."""


@dataclass(frozen=True, slots=True)
class Part:
    """One process to keep running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's own."""
    grace: float = 10.0
    """Seconds that it has to end after SIGTERM."""
    memory_limit: int | None = None
    """Bytes of resident memory. None: not watched."""
    quiet: bool = True
    """Its standard output is thrown away."""
    tell: Callable[[str], None] | None = None
    """Takes all that it says, line by line, in place of this process's own output."""
    must_start: bool = True
    """When it ends at its first start with a word why, `run` raises CannotStart instead of trying again."""


class Supervised:
    """One part. `run` it; it is started, watched, started again, and in the end stopped."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.starts = 0
        """How often it was started."""
        self.settled = False
        """Set by who saw it at work: from then on it is started again whatever it says."""
        self._process: asyncio.subprocess.Process | None = None
        self._group: int | None = None
        """Process group of which something may be left."""
        self._reading: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """Of the process that runs; None between two of them."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def run(self, stop: asyncio.Event) -> None:
        """Keep it running until `stop`, then end it with SIGTERM and patience. Raises CannotStart.

        Cancelled, it kills the process and all that this one started, at once.
        """
        pause = RESTART_FIRST
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                began = time.monotonic()
                process = await self._start()
                ended = asyncio.create_task(self._watched(process))
                try:
                    await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
                    if not ended.done():
                        await self._end(process)
                    code = await ended
                finally:
                    ended.cancel()
                self._kill()
                if stop.is_set():
                    return
                lasted = time.monotonic() - began >= LASTED
                self._judge(code)
                pause = RESTART_FIRST if lasted else min(2 * pause, RESTART_MOST)
                await asyncio.wait([stopping], timeout=pause)
        finally:
            stopping.cancel()
            self._kill()
            await self._reaped()

    async def _reaped(self) -> None:
        """Wait for the process that was killed, and for its last words."""
        if self._process is not None:
            await self._process.wait()
        if self._reading:
            _, mute = await asyncio.wait(self._reading, timeout=LAST_WORDS)
            for task in mute:  # somebody who is not of its group holds the pipe
                task.cancel()

    def _kill(self) -> None:
        """Kill all that is left of the process, once: its number may be another's later."""
        group, self._group = self._group, None
        if group is not None:
            kill_group(group)

    def _judge(self, code: int) -> None:
        if self.part.must_start and self.starts == 1 and not self.settled and code in _EXPECTED:
            raise CannotStart(f"the {self.part.name} can't start; why stands above")
        logger.info("the %s ended with code %s: starting it again", self.part.name, code)

    async def _start(self) -> asyncio.subprocess.Process:
        self.starts += 1
        output = asyncio.subprocess.DEVNULL if self.part.quiet else None
        process = self._process = await asyncio.create_subprocess_exec(
            *self.part.command,
            env=os.environ | self.part.environment | {VARIABLE: str(os.getpid())},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output if self.part.tell is None else asyncio.subprocess.PIPE,
            stderr=None if self.part.tell is None else asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to pass on, and what it leaves behind can be killed as a group
        )
        self._group = process.pid
        if process.stdout is not None and self.part.tell is not None:
            reading = asyncio.create_task(_told(process.stdout, self.part.tell))
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)
        return process

    async def _watched(self, process: asyncio.subprocess.Process) -> int:
        """Its exit code, once it ended."""
        if self.part.memory_limit is None:
            return await process.wait()
        most = MEMORY_LIMIT * self.part.memory_limit
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(process.wait()), LOOK_EVERY)
            if (held := resident_memory(process.pid)) > most:
                logger.warning("the %s holds %.1f GB of memory and is killed", self.part.name, held / 1e9)
                kill_group(process.pid)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), self.part.grace)
            return
        logger.warning("the %s did not end within %g s and is killed", self.part.name, self.part.grace)
        kill_group(process.pid)


async def _told(stream: asyncio.StreamReader, tell: Callable[[str], None]) -> None:
    """Pass on what a process says until it has said its last; a line that does not end is cut."""
    rest = b""
    while chunk := await stream.read(LONGEST_LINE):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) >= LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            tell(line.decode(errors="replace").rstrip())
    if rest:
        tell(rest.decode(errors="replace").rstrip())


def resident_memory(pid: int) -> int:
    """Bytes of memory that a process holds; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def kill_group(pid: int) -> None:
    """Kill all that is left of a part that was started in a session of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def run_all(parts: list[Supervised], stop: asyncio.Event) -> None:
    """Keep all of them running until `stop`. The first that can't start ends the others; raises its CannotStart."""
    runs: list[asyncio.Task[Any]] = [asyncio.create_task(part.run(stop)) for part in parts]
    try:
        await asyncio.gather(*runs)
    except BaseException:
        stop.set()
        await asyncio.gather(*runs, return_exceptions=True)
        raise
