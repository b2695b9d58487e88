"""`gpu-worker install` and `uninstall` as they are typed; with an agent that runs, and a grid that answers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from datetime import UTC, datetime, timedelta

import pytest
from agent_face import FaceInMemory
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from idlegrid.api.donor.control import control_app, listening, serving
from idlegrid.api.donor.state import Home
from idlegrid.grid.credentials import Credentials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def folders(tmp_path):
    """Environment of a user whose folders all lie in one."""
    environ = dict(os.environ) | {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "STATE")}
    environ |= {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    (tmp_path / "run").mkdir(mode=0o700)
    environ |= {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path), "COLUMNS": "300"}
    environ.pop("DBUS_SESSION_BUS_ADDRESS", None)  # no systemd of whoever runs the tests is touched
    return environ


def credentials(server):
    return Credentials(
        worker_id="w1", server=server, token="t", refresh_token="r", signing_secret="c2VjcmV0",
        token_expires_at=datetime.now(UTC) + timedelta(days=1),
    )  # fmt: skip


async def typed(environ, *words, answer=""):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "idlegrid.api.cli", "worker", *words, env=environ, cwd=environ["HOME"],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(answer.encode()), 120)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, out.decode()


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


async def test_install_says_what_it_writes_and_uninstall_takes_all_of_it_away(folders, tmp_path):
    before = files(tmp_path)
    code, said = await typed(folders, "install", "--systemd", "--dry-run")
    assert code == 0, said
    assert "NoNewPrivileges=yes" in said
    assert files(tmp_path) == before
    code, said = await typed(folders, "install", "--systemd", "--yes")
    assert code == 0, said
    for path in files(tmp_path) - before:
        if "default.target.wants" not in path and not path.endswith("installed.json"):
            assert str(tmp_path / path) in said
    assert "config/systemd/user/gpu-worker.service" in files(tmp_path)
    code, said = await typed(folders, "uninstall", "--dry-run")
    assert code == 0, said
    assert "config/systemd/user/gpu-worker.service" in files(tmp_path)
    code, said = await typed(folders, "uninstall", answer="n\n")
    assert code == 1, said
    assert "config/systemd/user/gpu-worker.service" in files(tmp_path)
    code, said = await typed(folders, "uninstall", "--yes")
    assert code == 0, said
    assert files(tmp_path) == before
    code, said = await typed(folders, "uninstall", "--yes")
    assert (code, "there is nothing" in said) == (0, True), said


async def test_uninstall_ends_the_agent_and_tells_the_grid(tmp_path):
    """An agent that runs is paused, so that what it runs is handed back, and drained; then the grid hears of it."""
    home = Home.find(tmp_path / "agent")
    home.make()
    heard = []

    async def offline(request):
        heard.append((request.url.path, "x-signature" in request.headers, face.calls.copy()))
        return JSONResponse({})

    class Ending(FaceInMemory):
        async def drain(self):
            await super().drain()
            drained.set()

    face, drained = Ending(), asyncio.Event()
    grid = Starlette(routes=[Route("/api/v1/workers/{id}/offline", offline, methods=["POST"])])
    place = socket.socket()
    place.bind(("127.0.0.1", 0))
    server = f"http://127.0.0.1:{place.getsockname()[1]}"
    credentials(server).save(home.credentials)

    async def agent():
        async with listening(home.control_socket, control_app(face, lambda: None)):
            await drained.wait()

    async with serving(grid, place):
        running = asyncio.create_task(agent())
        environ = dict(os.environ) | {"HOME": str(tmp_path)}
        code, said = await typed(environ, "uninstall", "--yes", "--home", str(tmp_path / "agent"))
        await running
    assert code == 0, said
    assert heard == [("/api/v1/workers/w1/offline", True, [("pause", None), ("drain",)])]
    assert not (tmp_path / "agent").exists()


async def test_a_grid_that_is_away_keeps_nobody_from_leaving(tmp_path):
    home = Home.find(tmp_path / "agent")
    credentials("http://127.0.0.1:9").save(home.credentials)
    environ = dict(os.environ) | {"HOME": str(tmp_path)}
    code, said = await typed(environ, "uninstall", "--yes", "--home", str(tmp_path / "agent"))
    assert code == 0, said
    assert "the grid was not told" in said
    assert not (tmp_path / "agent").exists()
