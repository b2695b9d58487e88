"""The trainer is a folder of scripts, not a package: tests import them by their bare names, as they do each other."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training" / "tiny"))
