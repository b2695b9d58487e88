"""A grid of real processes with one worker of its own, and donors beside it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "chaos"))  # its grid of processes
