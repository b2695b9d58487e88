"""Processes that are to be killed, forked from one that has imported everything: they start at once."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock


def forking(module: str, *folders: Path) -> ForkServerContext:
    """A context whose processes have `module` imported, which lies in one of `folders` as what it imports does.

    The server that forks them finds modules by PYTHONPATH alone: what it does not find it leaves out without a word.
    """
    context = multiprocessing.get_context("forkserver")
    forkserver._forkserver._stop()  # one of another test module has imported other things
    context.set_forkserver_preload([module])
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(map(str, folders))}):
        forkserver.ensure_running()
    return context
