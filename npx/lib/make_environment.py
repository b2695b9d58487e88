"""Makes the environment of `npx gpu-worker`: whole or not at all, one process at a time. Needs Python 3.11 alone.

What is half made has no `ready.json`, and is made anew. The lock is the system's: it is free as soon as nobody lives
who holds it, and pip holds it too, so that nobody builds beside the pip of a maker that was killed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = {"made_by": "npx gpu-worker"}


def main(environment: dict[str, str | None]) -> None:
    base, folder, ready = (Path(str(environment[name])) for name in ("base", "folder", "ready"))
    stamp = base / "gpu-worker.json"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (base / "lock").open("a+b") as lock:
        take(lock)
        if not stamp.exists() and any(not one.name.startswith((".gpu-worker.", "lock")) for one in base.iterdir()):
            sys.exit(f"gpu-worker: {base} holds other files; name another folder by GPU_WORKER_HOME")
        write_whole(stamp, STAMP)  # `gpu-worker uninstall` removes only what bears it
        if ready.exists() and Path(str(environment["python"])).exists():
            return  # somebody else made it meanwhile
        shutil.rmtree(folder, ignore_errors=True)
        system = ["--system-site-packages"] if os.environ.get("GPU_WORKER_SYSTEM_SITE") == "1" else []
        asked = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
        )
        command = pip_command(environment, os.environ, asked.stdout)
        for step in ([sys.executable, "-m", "venv", *system, str(folder)], command):
            code = subprocess.run(step, check=False, **inherited(lock)).returncode
            if code:
                shutil.rmtree(folder, ignore_errors=True)
                sys.exit(code)
        write_whole(ready, {"spec": command[-1], "python": sys.version.split()[0]})


def pip_command(environment: dict[str, str | None], variables: Mapping[str, str], configured: str = "") -> list[str]:
    """What installs idlegrid into the environment. `configured`: what ``pip config list`` says."""
    gpu = sys.platform == "linux" and shutil.which("nvidia-smi") is not None
    name = f"idlegrid[worker,audio,image{',gpu' if gpu else ''}]"
    usual = (
        f"{name} @ {Path(wheel).as_uri()}" if (wheel := environment["wheel"]) else f"{name}=={environment['version']}"
    )
    more = shlex.split(variables.get("GPU_WORKER_PIP_ARGS", ""))
    told = (*more, *(one for one in variables if one.startswith("PIP_")), configured)
    own_index = any(word in one.lower() for one in told for word in ("index", "find-links", "find_links"))
    where = [] if gpu or own_index else ["--extra-index-url", CPU_INDEX]  # torch without gigabytes of CUDA
    pip = [str(environment["python"]), "-m", "pip", "--disable-pip-version-check"]
    return [*pip, "install", *where, *more, environment["spec"] or usual]


def write_whole(path: Path, document: object) -> None:
    """All of it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(document), encoding="utf-8")
    draft.replace(path)


def take(lock: IO[bytes]) -> None:
    """Wait until nobody else holds it; say so once."""
    told = False
    while True:
        try:
            if os.name == "nt":
                import msvcrt

                lock.seek(0)
                msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not told:
                print("gpu-worker: another start is making the environment; waiting for it", file=sys.stderr)
                told = True
            time.sleep(0.2)
            continue
        return


def inherited(lock: IO[bytes]) -> dict[str, Any]:
    """How a child holds the lock too: on Windows it can't."""
    return {} if os.name == "nt" else {"pass_fds": (lock.fileno(),)}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
