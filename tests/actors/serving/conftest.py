"""Fixtures of this folder; `chain_engine.py` beside it has a light engine."""

import sys
from pathlib import Path

from self_signed import certificate  # noqa: F401 - a fixture

sys.path.insert(0, str(Path(__file__).parent))
