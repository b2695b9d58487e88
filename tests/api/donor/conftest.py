"""A donor's folders; a grid of real processes with one worker of its own, and donors beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from idlegrid.api.donor.state import Home

sys.path.insert(0, str(Path(__file__).parents[2] / "chaos"))  # its grid of processes


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user's folders, all of them under one, and a home in them."""
    for kind in ("CONFIG", "STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind.lower()))
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    return Home.find()
