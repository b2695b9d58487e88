"""`idlegrid up` in processes of its own, for benchmarks that look at a whole grid from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STOP = 60.0
"""Seconds that it may take to end in order."""


@contextmanager
def whole_grid(folder: Path, *options: str, **settings: str) -> Iterator[tuple[str, str]]:
    """The base URL of its API and the address of its scheduler, once both are told. What it keeps lies in `folder`.

    `settings` are variables of its environment. Raises RuntimeError with what it said when it ends before it serves.
    """
    command = [sys.executable, "-m", "idlegrid.api.cli", "up", "--port", "0", *options]
    ports = {"IDLEGRID_SCHEDULER_PORT": "0", "IDLEGRID_SCHEDULER_DASHBOARD_PORT": "0"}
    process = subprocess.Popen(
        command,
        env=os.environ | ports | {"XDG_DATA_HOME": str(folder / "data")} | settings,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "API " not in said:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the grid did not start:\n{said}")
            said += line
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
        url, scheduler = re.search(r"http://\S+(?=/v1)", said), re.search(r"tcp://[\d.:]+", said)
        if url is None or scheduler is None:
            raise RuntimeError(f"the grid did not say where it is:\n{said}")
        yield url[0], scheduler[0]
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP)
        process.kill()
