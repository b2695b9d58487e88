"""A process that was started by another part of the grid ends when that one does, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Final

VARIABLE: Final = "IDLEGRID_PARENT"
"""Process id of the parent, in the environment of what it starts."""
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 1.0


def tie_to_parent() -> None:
    """End with the parent that `VARIABLE` names, if there is one: at once on Linux, within a second elsewhere.

    A worker without its agent would go on filling the GPU, and nobody would ever stop it.
    """
    said = os.environ.get(VARIABLE, "")
    if not said.isdigit():
        return
    parent = int(said)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), name="idlegrid-parent", daemon=True).start()
    if os.getppid() != parent:  # it died before we said that we mind
        os._exit(1)


def supervised() -> bool:
    """Whether somebody starts this process again when it ends."""
    return VARIABLE in os.environ


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os._exit(1)
