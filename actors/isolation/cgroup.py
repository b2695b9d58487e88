"""A control group for one task (cgroup v2), where we may make one: the kernel counts, and ends all at once."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A group that a task joins before it does anything."""

    path: Path
    bounds_memory: bool
    """False: the kernel lends us no memory controller here, and somebody must look at the task."""

    def join(self) -> None:
        """Put this process in. What it starts is in too, and can't leave."""
        (self.path / "cgroup.procs").write_text("0")

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended a process of it for its memory."""
        with suppress(OSError):
            lines = (self.path / "memory.events").read_text().split("\n")
            return any(line.startswith("oom_kill ") and not line.endswith(" 0") for line in lines)
        return False

    def kill(self) -> None:
        """End every process of it, whoever its parent is now."""
        with suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> bool:
        """Whether it is gone: only an empty one can be removed."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def make(memory_bytes: int, processes: int, root: Path = Path("/proc/self")) -> Cgroup | None:
    """A new group within our own or beside it, the first that bounds memory. None: there is none for us."""
    found: Cgroup | None = None
    for parent in _parents(root):
        with suppress(OSError):  # our own has processes, and lends controllers to nobody
            (parent / "cgroup.subtree_control").write_text("+memory +pids")
        path = parent / f"idlegrid-task-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            path.mkdir()
        except OSError:
            continue
        made = Cgroup(path, _bound(path, "memory.max", memory_bytes))
        _bound(path, "memory.swap.max", 0)
        _bound(path, "pids.max", processes)
        if made.bounds_memory or (found is None and (path / "cgroup.kill").exists()):
            if found is not None:
                found.remove()
            found = made
            if made.bounds_memory:
                return made
        else:
            made.remove()
    return found


def _bound(path: Path, name: str, value: int) -> bool:
    if not (path / name).exists():  # a file that the kernel doesn't have can't be made
        return False
    try:
        (path / name).write_text(str(value))
    except OSError:
        return False
    return True


def _parents(root: Path) -> list[Path]:
    """Our own group, and the one around it: systemd's `DelegateSubgroup` leaves that one to us."""
    try:
        own = next(line[3:] for line in (root / "cgroup").read_text().splitlines() if line.startswith("0::"))
        mounts = [line.split() for line in (root / "mountinfo").read_text().splitlines()]
    except (OSError, StopIteration):
        return []
    for words in mounts:
        if words[words.index("-") + 1] == "cgroup2":
            path = Path(words[4]) / own.lstrip("/")
            return [path] if own == "/" else [path, path.parent]
    return []
