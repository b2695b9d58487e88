import asyncio
import threading

import pytest

from idlegrid.actors.shards.loop_thread import LoopThread


def test_what_runs_on_it_ends_with_it():
    thread, ended, started = LoopThread("test"), threading.Event(), threading.Event()

    async def long():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def name():
        return threading.current_thread().name

    assert thread.run(name()).result(60) == "test"
    thread.run(long())
    assert started.wait(60)
    thread.stop()
    thread.stop()
    thread.join(60)
    assert ended.is_set()
    thread.stop()
    with pytest.raises(RuntimeError):
        thread.run(name())


def test_it_can_be_stopped_from_within():
    """As when Dask drops an actor on whatever thread."""
    thread = LoopThread("test")

    async def stop():
        thread.stop()

    thread.run(stop())
    thread.join(60)
    assert thread.loop.is_closed()
