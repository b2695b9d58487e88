"""One request and its answer: tried again while the service is away or busy, refusals as exceptions."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from .errors import GridError, Refused, Unavailable, WaitTimedOut
from .retry import BUSY, pause, retry_after
from .wire import Wire

STILL_RUNNING = "still_running"
"""Code of the 504 that says that the job has not ended yet: nothing is wrong with the service."""
LEAST = 0.001
"""Seconds: httpx takes no timeout that is over already."""


@dataclass(slots=True)
class Tries:
    """The tries of one call. Instants are in s of `time.monotonic`."""

    alive: float
    """When the service last did what it should, at first when the call began."""
    ends: float = math.inf
    """When the call must end, whatever the service does."""
    seconds: float = math.inf
    """How long the call was given in all."""
    job_id: str = ""
    """What a call with an end waits for."""
    failed: int = 0
    """Tries that brought nothing, since one did."""
    trouble: str = ""
    """What the last one met."""
    asked: float | None = None
    """Seconds for which the service asked to be left alone."""

    def came_on(self) -> None:
        """Something came: patience, and the pauses, begin anew."""
        self.alive, self.failed, self.asked = time.monotonic(), 0, None

    def overslept_by(self, seconds: float) -> float:
        """How far beyond the end of the call a silence of so many seconds from now on would lead; below 0: not."""
        return time.monotonic() + seconds - self.ends

    def check(self) -> None:
        """Raise WaitTimedOut when the call's time is over."""
        if time.monotonic() >= self.ends:
            raise WaitTimedOut(self.job_id, self.seconds)


def tries(job_id: str = "", seconds: float | None = None) -> Tries:
    """For a call that begins now and may wait so long for that job; None: without end."""
    now = time.monotonic()
    return Tries(now) if seconds is None else Tries(now, now + seconds, seconds, job_id)


@dataclass(frozen=True, slots=True)
class Asking:
    """Sends requests over a wire and judges the answers."""

    wire: Wire
    base: str
    """Address of the service, for messages."""
    timeout: float
    """Longest wait for one answer, in s."""
    retry_for: float
    """How long a call is tried again while the service is away or busy, in s."""
    headers: Mapping[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, course: Tries | None = None, *, held: float = 0.0, **parts: Any) -> Any:
        """The JSON of the answer, which the service may hold back for `held` s. `parts` as of httpx.

        Raises Refused, Unavailable, WaitTimedOut.
        """
        course = course or tries()
        while True:
            response = await self._once(method, path, course, self.timeout + held, **parts)
            if response is not None:
                return _json(response)
            await self.pause(course)

    async def once(self, method: str, path: str, **parts: Any) -> Any:
        """The JSON of the answer, asked for a single time. Raises Refused, and Unavailable: not now."""
        course = tries()
        response = await self._once(method, path, course, self.timeout, **parts)
        if response is None:
            raise Unavailable(f"{self.base} can't be used now: {course.trouble}")
        return _json(response)

    async def open(self, path: str, course: Tries, *, idle: float, **parts: Any) -> httpx.Response | None:
        """An answer whose body comes bit by bit, at most `idle` s apart. None: not now. Raises Refused."""
        return await self._once("GET", path, course, idle, stream=True, **parts)

    async def pause(self, course: Tries) -> None:
        """Wait before the next try. Raises Unavailable or WaitTimedOut when there must be none."""
        course.check()
        seconds = pause(course.failed, random.random(), course.asked)  # noqa: S311 - no secret
        course.failed += 1
        now = time.monotonic()
        if now + seconds >= course.alive + self.retry_for:
            raise Unavailable(f"{self.base} could not be used for {self.retry_for:g} s; last: {course.trouble}")
        await self.wire.sleep(max(0.0, min(seconds, course.ends - now)))

    async def _once(
        self, method: str, path: str, course: Tries, silence: float, *, stream: bool = False, **parts: Any
    ) -> httpx.Response | None:
        """One try: an answer that counts, or None with the trouble in `course`. `stream`: its body is not read."""
        left = max(LEAST, course.ends - time.monotonic())
        timeout = httpx.Timeout(min(self.timeout, left), read=min(silence, left))
        headers = {**self.headers, **parts.pop("headers", {})}
        try:
            request = self.wire.build(method, path, timeout=timeout, headers=headers, **parts)
            response = await self.wire.send(request, stream=stream)
            if stream and not response.is_success:
                await self.wire.read(response)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise GridError(f"{self.base}{path} can't be asked: {error}") from error
        except httpx.TransportError as error:
            course.trouble, course.asked = words(error), None
            return None
        if response.is_success:
            if not stream:
                course.alive = time.monotonic()
            return response
        refusal = refusal_in(response)
        if response.status_code not in BUSY or refusal.code == STILL_RUNNING:
            raise refusal
        course.trouble = str(refusal)
        course.asked = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
        return None


def words(error: httpx.TransportError) -> str:
    """What went wrong on the way, in few words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def refusal_in(response: httpx.Response) -> Refused:
    """The problem document (RFC 9457) of an answer; OpenAI's form and none at all are read too."""
    try:
        said = response.json()
    except ValueError:
        said = None
    problem = said if isinstance(said, dict) else {}
    if isinstance(problem.get("error"), dict):
        problem = {**problem["error"], "detail": problem["error"].get("message")}
    code = str(problem.get("code") or f"http_{response.status_code}")
    message = str(problem.get("detail") or problem.get("title") or response.reason_phrase or "refused")
    return Refused(response.status_code, code, message, problem)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json() if response.content else None
    except ValueError as error:
        kind = response.headers.get("content-type", "nothing")
        raise GridError(f"{response.url} answered with {kind}, not with JSON: is it an idlegrid service?") from error
