"""The command line's way to the running agent: the whole face over a socket of its owner's alone."""

from __future__ import annotations

import asyncio
import stat

import pytest
from agent_face import FaceInMemory, some_status

from idlegrid.api.donor.control import Control, NotRunning, control_app, listening

pytestmark = pytest.mark.slow


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.sock"


async def test_every_word_arrives(path):
    face, control = FaceInMemory(), Control(path)
    async with listening(path, control_app(face, lambda: "http://127.0.0.1:1/")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        told, page = await asyncio.to_thread(control.status)
        assert (told, page) == (some_status(), "http://127.0.0.1:1/")
        await asyncio.to_thread(control.pause, 3600.0)
        await asyncio.to_thread(control.pause, None)
        assert (await asyncio.to_thread(control.resume)).state == "online"
        await asyncio.to_thread(control.set, "load_control.max_concurrent_jobs", "3")
        await asyncio.to_thread(control.drain)
        assert face.calls == [
            ("pause", 3600.0),
            ("pause", None),
            ("resume",),
            ("set", "load_control.max_concurrent_jobs", "3"),
            ("drain",),
        ]
        with pytest.raises(ValueError, match="max_concurrent_jobs is '0'"):
            await asyncio.to_thread(control.set, "load_control.max_concurrent_jobs", "0")
        assert await asyncio.to_thread(control.logs, 2, 10) == face.log_lines(2, 10)
    assert not path.exists()


async def test_nobody_there(path):
    for _ in range(2):
        with pytest.raises(NotRunning, match="gpu-worker start"):
            await asyncio.to_thread(Control(path).status)
        path.touch()  # what a killed agent leaves


async def test_what_a_killed_agent_left_is_replaced(path):
    path.touch()
    async with listening(path, control_app(FaceInMemory(), lambda: None)):
        assert (await asyncio.to_thread(Control(path).status))[1] is None
