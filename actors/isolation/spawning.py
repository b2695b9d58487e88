"""Starts children: a fresh Python in a process group of its own, without this process's environment, files or GPU."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "TMPDIR")
"""Variables that a child gets. Tokens, passwords and addresses are in the others."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_START = "import sys; sys.path.extend(p for p in {path!r} if p not in sys.path); from {module} import main; main({fd})"


@dataclass(slots=True)
class Child:
    """A child and the line to it."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    """Ends when the child does, and the child ends when it does."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def kill(self) -> int:
        """End its whole process group at once; its exit code as `subprocess` has it."""
        with self._lock:
            if self.process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                with suppress(ProcessLookupError):
                    self.process.kill()
                self.process.wait()
            self.line.close()
        return int(self.process.returncode)


def start(module: str, variables: Mapping[str, str] | None = None) -> Child:
    """Start `module`'s ``main(fd)`` in a fresh Python; `fd` is the child's end of the line. Raises OSError.

    For a thread that outlives the child: the death of the thread that started it is the death of the parent to Linux.
    """
    ours, theirs = socket.socketpair()
    path = [entry for entry in sys.path if os.path.isabs(entry)]  # noqa: PTH117 - not the current folder
    program = _START.format(path=path, module=module, fd=theirs.fileno())
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | dict(variables or {})
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=(theirs.fileno(),),
            process_group=0,
            cwd="/",
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Child(process, ours)


class Starter:
    """Starts children from one thread that lives as long as this process, for threads that don't."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Future[Child], tuple[Any, ...]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self, module: str, variables: Mapping[str, str] | None = None) -> Child:
        """As `start`, from any thread."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="idlegrid-starter", daemon=True)
                self._thread.start()
        done: Future[Child] = Future()
        self._asked.put((done, (module, variables)))
        return done.result()

    def _serve(self) -> None:
        while True:
            done, asked = self._asked.get()
            try:
                done.set_result(start(*asked))
            except BaseException as error:  # noqa: BLE001 - who asked gets it
                done.set_exception(error)
