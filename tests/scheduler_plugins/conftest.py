"""Fixtures of this folder; `small_cluster.py` beside it has the small clusters."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
