"""Real processes on a real PostgreSQL, to be killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trial_grid import trial_site

LONG = os.environ.get("CHAOS", "") == "long"
"""Whether `make chaos` runs this: as long as RELIABILITY's table says; else long enough to see every kind of fault."""


@pytest.fixture
def long() -> bool:
    return LONG


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """An empty data folder, and the job type `trial` for this process and all that it starts."""
    with trial_site(tmp_path):
        yield tmp_path
