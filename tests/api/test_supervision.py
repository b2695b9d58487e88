"""Supervised processes: started again whatever they say, ended as a group, never two of them at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from idlegrid.api.parent import VARIABLE
from idlegrid.api.ports import CannotStart, Reserved, obstacle
from idlegrid.api.supervision import Part, Supervised, run_all

pytestmark = pytest.mark.slow
DEADLINE = 60.0


def part(code, *words, **options):
    return Part("sleeper", (sys.executable, "-c", code, *map(str, words)), **options)


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not (found := condition()):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)
    return found


@contextlib.asynccontextmanager
async def supervised(one):
    stop = asyncio.Event()
    running = asyncio.create_task(one.run(stop))
    try:
        yield running
    finally:
        stop.set()
        with contextlib.suppress(CannotStart):
            await asyncio.wait_for(running, DEADLINE)


SLEEP = "import time; time.sleep(600)"


@pytest.mark.parametrize("code", [0, 3, -signal.SIGKILL])
async def test_what_ends_is_started_again_whatever_its_exit_code(code):
    end = f"import os; os.kill(os.getpid(), {-code})" if code < 0 else f"raise SystemExit({code})"
    one = Supervised(part(end))
    async with supervised(one):
        await until(lambda: one.starts >= 3)


async def test_a_part_that_says_at_first_why_it_can_t_work_is_not_tried_again():
    one = Supervised(part("raise SystemExit(1)"))
    with pytest.raises(CannotStart, match="the sleeper can't start; why stands above"):
        await one.run(asyncio.Event())
    assert one.starts == 1


async def test_the_first_that_can_t_start_ends_the_others():
    well, sick, stop = Supervised(part(SLEEP)), Supervised(part("raise SystemExit(2)")), asyncio.Event()
    with pytest.raises(CannotStart):
        await run_all([well, sick], stop)
    assert well.pid is None


async def test_one_that_worked_once_is_started_again_even_if_it_says_why():
    one = Supervised(part("raise SystemExit(1)"))
    one.settled = True
    async with supervised(one):
        await until(lambda: one.starts >= 2)


async def test_nothing_of_it_is_left_when_the_next_one_starts(tmp_path):
    """Its own children hold the device too."""
    note = tmp_path / "child"
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(sys.argv[1], 'a').write(f'{child.pid}\\n')\n"
        "time.sleep(600)"
    )
    one = Supervised(part(code, note))
    async with supervised(one):
        await until(lambda: note.exists() and note.read_text().endswith("\n"))
        child = psutil.Process(int(note.read_text()))
        os.kill(one.pid, signal.SIGKILL)
        await until(lambda: one.starts >= 2)
        assert psutil.wait_procs([child], timeout=DEADLINE)[1] == []


async def test_it_is_told_to_end_and_then_made_to():
    gentle = Supervised(part("import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); print(1); signal.pause()"))
    async with supervised(gentle):
        await until(lambda: gentle.pid)
        await asyncio.sleep(0.5)
    deaf = Supervised(part("import signal; signal.signal(15, signal.SIG_IGN); signal.pause()", grace=0.3))
    async with supervised(deaf):
        await until(lambda: deaf.pid)
        process = psutil.Process(deaf.pid)
    assert psutil.wait_procs([process], timeout=DEADLINE)[1] == []


async def test_one_that_takes_more_memory_than_it_may_is_killed():
    one = Supervised(part("held = bytearray(300_000_000); import time; time.sleep(600)", memory_limit=150_000_000))
    async with supervised(one):
        await until(lambda: one.starts >= 2)


def test_what_was_started_dies_with_its_parent():
    """SIGKILL, so that the parent can do nothing about it."""
    child = "from idlegrid.api.parent import tie_to_parent; tie_to_parent(); print('tied', flush=True); " + SLEEP
    code = (
        f"import os, subprocess, sys; os.environ[{VARIABLE!r}] = str(os.getpid())\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline(); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        grandchild = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait(DEADLINE)
        deadline = time.monotonic() + DEADLINE
        while grandchild.is_running() and grandchild.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_one_whose_parent_is_gone_already_ends_at_once():
    code = "from idlegrid.api.parent import tie_to_parent; tie_to_parent(); print('lives')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {VARIABLE: "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "") or os.getppid() == 1


def test_a_reserved_port_is_kept_while_what_listens_there_is_started_again():
    place = Reserved("127.0.0.1", 0, "--port")
    with contextlib.closing(place):
        for _ in range(2):
            assert obstacle("127.0.0.1", place.port) is None
            with socket.create_server(("127.0.0.1", place.port)) as server:
                with socket.create_connection(server.getsockname()), server.accept()[0]:
                    pass
                with pytest.raises(CannotStart, match="is taken"):
                    Reserved("127.0.0.1", place.port, "--port")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", place.port))
