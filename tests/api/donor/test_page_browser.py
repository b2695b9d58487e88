"""The donor's page in a real browser: opened, used, refreshed, attacked by another page, ended."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvicorn
from agent_face import FaceInMemory
from browser import Browser, browser
from starlette.responses import HTMLResponse

from idlegrid.api.donor.face import AgentState
from idlegrid.api.donor.page import opening_file, page_app, page_url

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TOKEN = secrets.token_urlsafe(32)


@asynccontextmanager
async def served(app_of_port) -> AsyncIterator[int]:
    """An app on a free port of loopback, which it is told."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # now: who comes before the server has started waits
        port = listener.getsockname()[1]
        config = uvicorn.Config(app_of_port(port), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield port
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def tab():
    async with browser() as found:
        yield found


async def press(tab: Browser, selector: str) -> None:
    async with tab.loading():
        await tab.script(f"document.querySelector({selector!r}).click()")


async def test_an_owner_opens_it_and_uses_it(tab, tmp_path):
    face = FaceInMemory()
    async with served(lambda port: page_app(face, TOKEN, port=port)) as port:
        file = tmp_path / "page.html"
        file.write_text(opening_file(TOKEN, port))
        await tab.go(file.as_uri())  # a file is another site: the way to the page takes a hop more
        await tab.until("document.title.startsWith('Working')")
        assert await tab.script("location.href") == f"http://127.0.0.1:{port}/"
        assert await tab.script("document.cookie") == ""

        await press(tab, "button[value=hour]")
        assert face.calls == [("pause", 3600.0)]
        assert "nobody counts that against you" in await tab.script("document.querySelector('[role=status]').innerText")
        assert await tab.script("location.search") == ""  # taken away, so that a reload does not say it again
        await press(tab, "form[action='/resume'] button")
        assert face.calls[-1] == ("resume",)

        await tab.script("document.getElementById('load_control.max_concurrent_jobs').value = 'lots'")
        await press(tab, "form.limits button")
        assert await tab.script("document.querySelector('[aria-invalid=true]').value") == "lots"
        await tab.script("document.getElementById('load_control.max_concurrent_jobs').value = '5'")
        await press(tab, "form.limits button")
        assert face.now.limits["max_concurrent_jobs"] == 5
        assert not [text for text in tab.messages if "422" not in text], tab.messages


async def test_it_keeps_itself_up_to_date_and_says_when_the_agent_is_gone(tab):
    face = FaceInMemory()
    async with served(lambda port: page_app(face, TOKEN, port=port)) as port:
        await tab.go(page_url(TOKEN, port))
        await tab.script("document.getElementById('load_control.max_jobs_per_hour').value = '9'")
        await tab.script("document.querySelector('.terms details').open = true")
        score = replace(face.now.score, total=0.5)
        face.now = replace(face.now, state=AgentState.PAUSED, reason="the battery is in use", score=score)
        await tab.until("document.getElementById('state-title').innerText.includes('Paused')")
        assert "the battery is in use" in await tab.script("document.querySelector('.reason').innerText")
        await tab.until("document.querySelector('.big').innerText == '0.50'")
        assert await tab.script("document.querySelector('.terms details').open")
        assert await tab.script("document.getElementById('load_control.max_jobs_per_hour').value") == "9"
        assert await tab.script("document.getElementById('gone').hidden")
    await tab.until("!document.getElementById('gone').hidden")
    assert "gpu-worker start" in await tab.script("document.getElementById('gone').innerText")


async def test_without_its_script_it_is_whole(tab):
    face = FaceInMemory()
    async with served(lambda port: page_app(face, TOKEN, port=port)) as port:
        await tab.call("Emulation.setScriptExecutionDisabled", value=True)
        await tab.go(page_url(TOKEN, port))
        page = (await tab.call("DOM.getDocument", depth=-1))["root"]["nodeId"]
        button = await tab.call("DOM.querySelector", nodeId=page, selector="button[value=resume]")
        await tab.call("DOM.focus", nodeId=button["nodeId"])
        async with tab.loading():  # by the keyboard alone
            for kind in ("keyDown", "keyUp"):
                enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
                await tab.call("Input.dispatchKeyEvent", type=kind, **enter)
        assert face.calls == [("pause", None)]


ATTACKER = """<!doctype html><title>another page</title><iframe name="sink"></iframe>
<form method="post" action="http://127.0.0.1:%(port)s/drain" target="sink"></form>
<iframe id="framed" src="http://127.0.0.1:%(port)s/"></iframe>"""


async def test_another_page_can_neither_change_nor_read_nor_frame_it(tab):
    """On another port of this machine: the same site, so the browser sends our cookie along."""
    face = FaceInMemory()
    async with (
        served(lambda port: page_app(face, TOKEN, port=port)) as port,
        served(lambda _port: HTMLResponse(ATTACKER % {"port": port})) as other,
    ):
        await tab.go(page_url(TOKEN, port))
        await tab.go(f"http://127.0.0.1:{other}/")
        await tab.script("document.forms[0].submit()")
        target = f"http://127.0.0.1:{port}"
        read = f"fetch('{target}/', {{credentials: 'include'}}).then((r) => r.text()).catch(() => 'refused')"
        assert await tab.script(read) == "refused"
        blind = f"fetch('{target}/drain', {{method: 'POST', mode: 'no-cors', credentials: 'include'}})"
        assert await tab.script(f"{blind}.then((r) => r.type).catch(() => 'refused')") == "refused"
        script = (
            "new Promise((done) => { const s = document.createElement('script');"
            f" s.src = '{target}/page.js'; s.onload = () => done('read'); s.onerror = () => done('refused');"
            " document.body.append(s); })"
        )
        assert await tab.script(script) == "refused"
        assert face.calls == []
        # the control: the same form, sent from our own page, does it
        await tab.go(f"{target}/")
        await press(tab, "form[action='/drain'] button")
        assert face.calls == [("drain",)]


async def test_what_a_job_is_called_never_runs(tab):
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    face = FaceInMemory()
    running = tuple(replace(job, job_id=attack, type=attack) for job in face.now.running)
    face.now = replace(face.now, name=attack, reason=attack, running=running)
    async with served(lambda port: page_app(face, TOKEN, port=port)) as port:
        await tab.go(page_url(TOKEN, port))
        face.now = replace(face.now, state=AgentState.PAUSED)  # also what the refresh puts in
        await tab.until("document.getElementById('state-title').innerText.includes('Paused')")
        assert await tab.script("document.title") != "owned"
        assert await tab.script("document.images.length + document.scripts.length") == 1
        # the control: the policy refuses a script even where escaping had failed
        await tab.script(
            "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"document.title=1\">')"
        )
        await tab.complains("Content Security Policy")
        assert await tab.script("document.title") != "1"
