"""Processes that are to be killed, forked from one that has imported everything: they start at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock


@contextmanager
def forking(module: str, *folders: Path) -> Iterator[ForkServerContext]:
    """A context whose processes have `module` imported, which lies in one of `folders` as what it imports does.

    The server that forks them finds modules by PYTHONPATH alone: what it does not find it leaves out without a word.
    There is one server for all tests of a process: afterwards the next one imports what it was to import before.
    """
    context = multiprocessing.get_context("forkserver")
    server = forkserver._forkserver
    before = list(server._preload_modules)
    server._stop()  # one of another test module has imported other things
    context.set_forkserver_preload([module])
    try:
        with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(map(str, folders))}):
            forkserver.ensure_running()
        yield context
    finally:
        server._stop()
        context.set_forkserver_preload(before)
