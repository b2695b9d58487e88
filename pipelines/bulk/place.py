"""Where this code runs, for messages and provenance."""

from __future__ import annotations

from .errors import WorkerTrouble


def whoami() -> str:
    """The Dask worker that runs this, or the process."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return "this process"
    return f"worker {worker.name} ({worker.address})"


def unseen(path: object) -> WorkerTrouble:
    """This machine does not see a file that the driver saw."""
    return WorkerTrouble(
        f"{whoami()} does not see {path}: use folders that driver and workers share, or URLs that all of them can open"
    )
