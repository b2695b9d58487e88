"""`engine_contract.py` and `job_type_contract.py` beside this have the contracts' tests.

The models that they run on are everybody's, and so is the service with its doors for jobs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "api" / "http"))
