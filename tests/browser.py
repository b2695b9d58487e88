"""A headless Chromium for tests and screenshots, spoken to by its DevTools protocol. Every wait has an end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

DEADLINE = 90.0
"""Seconds that one call of the browser may take: the machine may be busy."""
BETWEEN_PAGES = ("navigated or closed", "context was destroyed", "Cannot find context", "Cannot find default execution")
"""What it says of a question that came just when one page made way for the next."""
FLAGS = ("--headless=new", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage",
         "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-port=0", "--no-sandbox")  # fmt: skip


class Browser:
    """One tab."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._frame = ""
        self._loads: set[str] = set()
        """Every document that was loaded in whole, by the browser's name of the load."""
        self._news = asyncio.Condition()
        self.session = ""
        self.messages: list[str] = []
        """What the page's console said, and what its policy refused."""

    async def read(self) -> None:
        """Hands each answer to who waits for it, until the browser is gone."""
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            if (waiting := self._waiting.pop(message.get("id"), None)) is not None and not waiting.done():
                waiting.set_result(message)
            elif message.get("method") == "Page.lifecycleEvent":
                await self._lives(message["params"])
            elif message.get("method") == "Log.entryAdded":
                self.messages.append(message["params"]["entry"]["text"])
            elif message.get("method") == "Runtime.exceptionThrown":
                self.messages.append(str(message["params"]["exceptionDetails"]))

    async def _lives(self, event: dict[str, Any]) -> None:
        if event["name"] == "load" and event["frameId"] == self._frame:
            async with self._news:
                self._loads.add(event["loaderId"])
                self._news.notify_all()

    async def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol, and its result. Raises RuntimeError with what the browser says is wrong."""
        number = next(self._numbers)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self.session} if self.session else {}
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": params, **session}))
        async with asyncio.timeout(DEADLINE):
            answer = await answered
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    async def attach(self) -> None:
        """Take the first tab."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session, self._frame = attached["sessionId"], target["targetId"]
        for domain in ("Page", "Log", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.call("Page.bringToFront")  # a page in the background draws nothing new
        await self.call("Page.setLifecycleEventsEnabled", enabled=True)
        await self._until_loaded(
            lambda: bool(self._loads)
        )  # else the empty tab's own load may overtake the first page's

    async def go(self, url: str) -> None:
        """Open a URL, and wait until it is loaded."""
        answer = await self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise RuntimeError(f"{url}: {answer['errorText']}")
        await self._until_loaded(lambda: answer["loaderId"] in self._loads)

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Whatever is done inside leads to another page; afterwards it is loaded."""
        before = set(self._loads)
        yield
        await self._until_loaded(lambda: bool(self._loads - before))

    async def _until_loaded(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE), self._news:
            await self._news.wait_for(holds)

    async def script(self, expression: str) -> Any:
        """What an expression gives in the page; a promise is waited for."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression holds in the page. Raises TimeoutError when it never does."""
        async with asyncio.timeout(DEADLINE):
            while not await self._holds(expression):  # noqa: ASYNC110 - what it waits for happens in another program
                await asyncio.sleep(0.05)

    async def _holds(self, expression: str) -> bool:
        try:
            return bool(await self.script(expression))
        except RuntimeError as error:
            if any(words in str(error) for words in BETWEEN_PAGES):
                return False
            raise

    async def complains(self, words: str) -> None:
        """Wait until the console has a message with these words. Raises TimeoutError when it never has."""
        async with asyncio.timeout(DEADLINE):
            while not any(words in text for text in self.messages):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)

    async def look(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """Size of the window and the theme that the user likes."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)

    async def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as a PNG; `whole`: also what lies below the window."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser of its own profile, ended with all its processes afterwards."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise FileNotFoundError("there is no Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program, *FLAGS, f"--user-data-dir={profile}", "about:blank", stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            socket = await websocket_connect(await _address(Path(profile)), max_message_size=2**28)
            tab = Browser(socket)
            reader = asyncio.create_task(tab.read())
            try:
                await tab.attach()
                yield tab
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                socket.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _address(profile: Path) -> str:
    """Where the browser listens, as it writes into its profile."""
    path = profile / "DevToolsActivePort"
    async with asyncio.timeout(DEADLINE):
        while True:
            with contextlib.suppress(OSError):
                lines = path.read_text().splitlines()
                if len(lines) == 2:
                    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await asyncio.sleep(0.05)
