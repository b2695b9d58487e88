"""Where this code runs, for messages and provenance."""

from __future__ import annotations

from .errors import WorkerTrouble


def whoami() -> str:
    """The Dask worker that runs this, or the process."""
    name, address = _worker()
    return f"worker {name} ({address})" if address else "this process"


def trouble(message: str) -> WorkerTrouble:
    """What keeps this worker from its unit; `message` follows after its name."""
    return WorkerTrouble(f"{whoami()} {message}", _worker()[1])


def unseen(path: object) -> WorkerTrouble:
    """This machine does not see a file that the driver saw."""
    return trouble(f"does not see {path}: use folders that driver and workers share, or URLs that all of them can open")


def _worker() -> tuple[str, str]:
    """Name and address of the Dask worker whose task this is; empty when there is none."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return "", ""
    return str(worker.name), str(worker.address)
