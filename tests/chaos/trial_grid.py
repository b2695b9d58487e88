"""A place where the job type `trial` is installed, and a grid of processes in it: for whole modules of tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grid_processes import GridThread
from trial import install, look_again


@contextmanager
def trial_site(folder: Path, **variables: str) -> Iterator[None]:
    """This process and all that it starts have the job type `trial`, their data in `folder`, and these variables."""
    packages = str(install(folder / "site-packages"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(packages)
        for name, value in ({"PYTHONPATH": packages, "XDG_DATA_HOME": str(folder / "data")} | variables).items():
            patch.setenv(name, value)
        look_again()
        yield
    look_again()


@contextmanager
def trial_grid(folder: Path, *, workers: int = 1, **settings: str) -> Iterator[GridThread]:
    """A grid of processes at such a place, on ports that are free. `settings` without the prefix: JOBS_LEASE="2"."""
    usual = {
        "DATABASE_URL": f"sqlite:///{folder / 'grid.db'}",
        "API_PORT": "0",
        "API_WORKER_TOKEN": "a token of the tests",
        "SCHEDULER_PORT": "0",
        "SCHEDULER_DASHBOARD_PORT": "0",
    }
    with trial_site(folder, **{f"IDLEGRID_{name}": value for name, value in (usual | settings).items()}):
        thread = GridThread(workers)
        try:
            yield thread
        finally:
            thread.close()
