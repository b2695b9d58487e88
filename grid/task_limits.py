"""How much one task of an isolated job type may take. Breaking a limit fails that job alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 1 << 30
Limit = Literal["memory", "time", "output", "processes", "files"]


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """Limits of one task. The defaults are the contract's."""

    memory_bytes: int = 32 * GIB
    """Of main memory, of all its processes together."""
    wall_seconds: float = 300.0
    """From its start, the start of its process included."""
    output_bytes: int = 100_000_000
    """Of its result, its progress and its tokens; and the same again of what it prints."""
    processes: int = 64
    """At the same time; threads count where the system counts them."""
    files: int = 1024
    """Open at the same time in each process, sockets among them."""
    file_bytes: int = 32 * GIB
    """Size of a file that it writes."""

    def told(self, limit: Limit) -> str:
        """What a job that broke this limit is told."""
        return {
            "memory": f"it took more than {self.memory_bytes / GIB:,.2f} GiB of memory",
            "time": f"it took longer than {self.wall_seconds:g} s",
            "output": f"it gave out more than {self.output_bytes:,} bytes",
            "processes": f"it started more than {self.processes} processes",
            "files": f"it opened more than {self.files} files and sockets",
        }[limit]


class LimitBroken(Exception):
    """A task broke a limit and was ended. Elsewhere it would do the same: it is not tried again."""

    def __init__(self, limit: Limit, limits: TaskLimits) -> None:
        super().__init__(limits.told(limit))
        self.code = f"{limit}_limit"
        """The job's `error_code`."""
