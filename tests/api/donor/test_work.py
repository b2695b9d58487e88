"""The worker process of an agent: there while wanted, finished or given up when not, never two of them."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import psutil
import pytest

from idlegrid.api.donor.work import Want, Workplace
from idlegrid.api.supervision import Part

pytestmark = pytest.mark.slow
DEADLINE = 60.0
FOR_EVER = "import time; print('here', flush=True); time.sleep(600)"
FINISHES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print('finished', flush=True), sys.exit(0)))
print('here', flush=True); time.sleep(600)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"


class Place:
    """A workplace with what its processes said and what was handed back."""

    def __init__(self, code: str) -> None:
        self.said: list[str] = []
        self.given: list[str] = []
        self.pids: list[int] = []
        part = Part("worker", (sys.executable, "-c", code), must_start=False, tell=self.said.append, grace=600)
        self.work = Workplace(lambda: part, self._give)

    async def _give(self, why: str) -> None:
        self.given.append(why)

    async def here(self, times: int = 1) -> int:
        await until(lambda: self.said.count("here") >= times and self.work.pid)
        return self.work.pid or 0


@contextlib.asynccontextmanager
async def running(code: str):
    place = Place(code)
    task = asyncio.create_task(place.work.run())
    try:
        yield place
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)


async def vacant(place: Place) -> None:
    async with asyncio.timeout(DEADLINE):
        await place.work.vacant()


async def test_nothing_runs_before_it_is_wanted():
    async with running(FOR_EVER) as place:
        await asyncio.sleep(0)
        assert not place.work.occupied
        place.work.want(Want.WORK)
        await place.here()


async def test_what_is_to_finish_is_asked_and_not_killed():
    async with running(FINISHES) as place:
        place.work.want(Want.WORK)
        pid = await place.here()
        place.work.want(Want.FINISH)
        await vacant(place)
        await until(lambda: "finished" in place.said)
        assert not psutil.pid_exists(pid)
        assert place.given == []


async def test_what_is_to_stop_hands_back_and_is_gone_even_if_it_is_deaf():
    async with running(DEAF) as place:
        place.work.want(Want.WORK)
        pid = await place.here()
        place.work.want(Want.FINISH)  # which a deaf one does not hear
        place.work.want(Want.STOP, "paused by its owner")
        await vacant(place)
        assert place.given == ["paused by its owner"]
        assert not psutil.pid_exists(pid)


async def test_it_comes_back_after_a_pause_and_after_a_death():
    async with running(FOR_EVER) as place:
        place.work.want(Want.WORK)
        first = await place.here()
        place.work.want(Want.STOP)
        await vacant(place)
        place.work.want(Want.WORK)
        second = await place.here(2)
        psutil.Process(second).kill()
        third = await place.here(3)
        assert len({first, second, third}) == 3


async def test_a_restart_waits_for_what_runs_and_never_doubles():
    async with running(FINISHES) as place:
        place.work.want(Want.WORK)
        first = await place.here()
        place.work.restart()
        second = await place.here(2)
        assert place.said[:2] == ["here", "finished"]
        assert first != second
        assert not psutil.pid_exists(first)


async def test_work_again_while_it_still_finishes():
    async with running(FINISHES) as place:
        place.work.want(Want.WORK)
        await place.here()
        place.work.want(Want.FINISH)
        place.work.want(Want.WORK)
        assert place.work.occupied
        await place.here()


async def test_nothing_is_left_when_the_agent_is_cancelled():
    async with running(DEAF) as place:
        place.work.want(Want.WORK)
        pid = await place.here()
    await until(lambda: not psutil.pid_exists(pid))
