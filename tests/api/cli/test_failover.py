"""scripts/failover: the whole grid, as a person would see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "failover"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_client_of_a_killed_worker_receives_the_same_text():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed in mid-stream" in done.stdout
    assert "tokens by local-0" in done.stdout
    assert "tokens by local-1" in done.stdout
