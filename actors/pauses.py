"""Pauses of a Python process that serves, kept short: those of the garbage collector, and threads' turns."""

from __future__ import annotations

import gc
import sys

THRESHOLDS = (5_000, 10, 10)
"""Of `gc.set_threshold`: what a few hundred open requests allocate is no reason to look through everything."""
TURN = 0.0005
"""Seconds that a thread which wants Python's lock lets another keep it. Python's own choice is ten times as long."""


def keep_pauses_short() -> None:
    """Call it once everything is imported and before models are loaded; again it freezes nothing more.

    The collector never looks again at what is there now: modules, routes, all that stays anyway. *Measured*: a full
    collection stops an HTTP service with 500 open requests for 0.2 to 0.3 s, and for 0.03 to 0.06 s without them, and
    seldom; a worker with a small model for 0.27 s.

    A thread gets its turn within `TURN`. *Measured* beside an engine that is always busy: at each of the places where a
    request goes from one thread to another, one in a hundred was 5 ms late, which is Python's turn.
    """
    sys.setswitchinterval(TURN)
    gc.set_threshold(*THRESHOLDS)
    if not gc.get_freeze_count():  # a model that came since must be collected when it goes
        gc.collect()
        gc.freeze()
