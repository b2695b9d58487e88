"""`engine_contract.py` beside this has the contract's tests; the model that they run on is everybody's."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
