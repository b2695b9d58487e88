"""A service over a real store, and the job type `trial`, for the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "scheduler_plugins"))  # its small clusters

from service import Service
from trial import install, look_again

from idlegrid.grid.store import Store, open_store
from idlegrid.pipelines.dispatch import runner


@pytest.fixture(scope="session")
def _trial_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site-packages"))


@pytest.fixture
def trial(_trial_package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The job type `trial` is installed."""
    monkeypatch.syspath_prepend(str(_trial_package))
    look_again()
    yield
    look_again()


@pytest.fixture(autouse=True)
def _quick_ears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancellations are heard at once."""
    monkeypatch.setattr(runner, "HEAR_EVERY", 0.2)


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    with open_store(sqlite_url, timeout=30.0) as store:
        yield store


@pytest.fixture
def service(store: Store, trial: None) -> Iterator[Service]:
    service = Service(store, lease=30.0)
    yield service
    service.end()


@pytest.fixture
def hasty(store: Store, trial: None) -> Iterator[Service]:
    """Leases of 2 s: for tests in which one ends."""
    service = Service(store, lease=2.0)
    yield service
    service.end()
