"""Fixtures of this folder; it borrows the light engine and the small clusters of its neighbours."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
for folder in (
    Path(__file__).parent,
    TESTS / "actors" / "serving",
    TESTS / "scheduler_plugins",
    TESTS / "api" / "http",
):
    sys.path.insert(0, str(folder))
