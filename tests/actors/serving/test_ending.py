"""A worker that ends while it serves: nothing is begun that can't be any more, and nothing is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROCESS = """
import atexit
atexit.register(lambda: host.join(0.3))  # registered first, runs last: a thread that says something then is heard
import asyncio, sys, threading
from chain_engine import ChainEngine
from idlegrid.actors.serving.actor import HostThread
from idlegrid.actors.serving.host import Host
from idlegrid.actors.serving.status import HostState

class Threaded(ChainEngine):
    async def close(self):
        await asyncio.to_thread(int)  # as engines wait for the thread that computes

class Owner:
    pass

loaded, owner = threading.Event(), Owner()
host = HostThread(Host(Threaded, changed=lambda state: loaded.set() if state is HostState.READY else None), "127.0.0.1")
loaded.wait(60)
host.ends_with(owner)
if sys.argv[1] == "dropped":
    del owner
    host.join(60)
    assert not host._thread.is_alive()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dropped", "exit"])
def test_a_host_ends_with_its_owner_and_says_nothing_when_its_process_ends(how):
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    asked = [sys.executable, "-c", PROCESS, how]
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=120, env=paths)
    assert (ended.returncode, ended.stderr) == (0, "")
