"""Real processes on a real PostgreSQL, to be killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trial import install, look_again

LONG = os.environ.get("CHAOS", "") == "long"
"""Whether `make chaos` runs this: as long as RELIABILITY's table says; else long enough to see every kind of fault."""


@pytest.fixture
def long() -> bool:
    return LONG


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty data folder, and the job type `trial` for this process and all that it starts."""
    packages = install(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    look_again()
    yield tmp_path
    look_again()
