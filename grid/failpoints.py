"""Named points in a protocol at which a test can have this process killed, as a power cut would."""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "IDLEGRID_FAILPOINT"
_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """SIGKILL this process if `IDLEGRID_FAILPOINT` is `name`, or `name:n` and this is the n-th passage (from 1)."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    wanted_name, _, passage = wanted.partition(":")
    if wanted_name != name:
        return
    _passages[name] += 1
    if _passages[name] == int(passage or 1):
        os.kill(os.getpid(), signal.SIGKILL)
