"""What a child does to itself before it touches anything that a stranger made: rights given up, limits taken on.

Each step works on Linux. Elsewhere, and where the system forbids one, it is left out: the wall clock and the cap on
output, which the parent keeps, hold everywhere.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

NOBODY = 65534
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def end_with(parent: int, signum: int = signal.SIGKILL) -> None:
    """Get `signum` when `parent` ends, which must have started this process. Call it after the last change of user."""
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it ended before we said that we mind
        os._exit(1)


def no_new_privileges() -> None:
    """Nothing that this process starts gets more rights than it has, whatever bits the file carries."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own: none gets out of sight by starting anew."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def without_network() -> bool:
    """Leave the machine's network for an empty one. False: it is forbidden here. Needs a process of one thread."""
    if sys.platform != "linux":
        return False
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    return bool(ctypes.CDLL(None, use_errno=True).unshare(flags) == 0)


def as_nobody() -> None:
    """Root becomes ``nobody``; anybody else stays. What is not imported by now may be out of reach."""
    if os.geteuid() == 0:
        with suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)


def limit(which: int, soft: int, hard: int | None = None) -> None:
    """Set a limit of `resource`, or as near to it as the present one allows. `hard` None: as `soft`."""
    most = resource.getrlimit(which)[1]
    hard = soft if hard is None else hard
    if most != resource.RLIM_INFINITY:
        hard = min(hard, most) if hard != resource.RLIM_INFINITY else most
    with suppress(OSError, ValueError):
        resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def no_core_dumps() -> None:
    """A dump would hold what a client sent."""
    limit(resource.RLIMIT_CORE, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
