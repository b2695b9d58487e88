"""One job of direct mode: computed in a thread of its own, followed on the event loop that answers for it.

It is no durable job: nobody keeps it, nobody does it again. Whoever asked for it goes away, and it stops.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import BaseModel

from ...grid.donors import Donor
from ...grid.job_types import JobType, RunContext
from ...grid.jobs import Ask
from ...grid.verdicts import Reason, Verdict
from ...pipelines.dispatch.runner import blame

logger = logging.getLogger(__name__)

MOST_RESULT = 100_000_000
"""Bytes of a result, as of any job."""
LAST_WORD = 0.05
"""Seconds that a client gets to hear that its work was given up, before the process may end."""
PARTING = 2.0
"""Seconds that work which was told to stop has, before its client is told without it."""
LATER = 5.0
"""Seconds after which a client may ask again where nobody knows better."""
LONGEST_LATER = 3600


class Trouble(Exception):
    """What a client of direct mode is told in place of a result: a problem document (RFC 9457)."""

    def __init__(self, status: int, code: str, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.retry_after = status, code, detail, retry_after

    @property
    def document(self) -> dict[str, Any]:
        """As it is sent; the same form as the jobs API's."""
        kind = f"urn:idlegrid:problem:{self.code}"
        title = _TITLES.get(self.status, "The work failed")
        return {"type": kind, "code": self.code, "title": title, "status": self.status, "detail": self.detail}

    @property
    def headers(self) -> dict[str, str]:
        """Beside the document."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(min(LONGEST_LATER, max(1, round(self.retry_after + 0.5))))}


_TITLES: Mapping[int, str] = {
    401: "The ticket does not open this",
    404: "There is nothing at this address",
    405: "The method is not allowed here",
    408: "The request came too slowly",
    413: "The request is too large",
    415: "The body must be JSON",
    422: "The request is not valid",
    503: "This worker does not take it now",
    504: "The work did not end in time",
}


class CannotListen(Exception):
    """The endpoint can't be opened. The message says why, and what to do."""


class NoPlace(Exception):
    """The owner's limits leave no place for this work now."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"{verdict.reason}: {verdict.detail}")
        self.verdict = verdict


class Places(Protocol):
    """The places that the owner's limits leave, shared with the jobs that come another way. Any thread."""

    @property
    def donor(self) -> Donor:
        """The facts and limits in force."""
        ...

    def standing(self) -> Verdict:
        """Whether any work is taken now."""
        ...

    def take(self, ask: Ask, name: str, stop: Callable[[str], None]) -> Callable[[str], None]:
        """A place for this work, or NoPlace; calling what it gives leaves the place, with the work's outcome.

        `name`: of the work, for the owner. `stop` is called, in any thread, when the place is taken away: it says why.
        """
        ...


def refusal(verdict: Verdict) -> Trouble:
    """What the owner's limits say, as a client hears it."""
    lasting = verdict.reason in (Reason.TYPE_NOT_SUPPORTED, Reason.MODEL_NOT_SUPPORTED)
    if lasting:
        return Trouble(422, verdict.reason.value, verdict.detail)
    wait = LATER
    if verdict.retry_at is not None:
        wait = max(1.0, (verdict.retry_at - datetime.now(UTC)).total_seconds())
    return Trouble(503, verdict.reason.value, "the owner's limits leave no place for it now", retry_after=wait)


@dataclass(slots=True)
class Work:
    """One job that runs. Belongs to the event loop that made it."""

    kind: JobType
    params: BaseModel
    seconds: float
    """Wall time that it has."""
    name: str
    salt: str
    """Whose it is, see `RunContext`."""
    _said: asyncio.Queue[str | bytes | Trouble] = field(default_factory=asyncio.Queue)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _began: float = field(default_factory=time.monotonic)
    _why: Trouble | None = None
    answered: threading.Event = field(default_factory=threading.Event)
    """Set once its client was told everything, or is gone."""

    def start(self, places: Places) -> None:
        """Take a place and begin. Raises NoPlace."""
        leave = places.take(self.kind.ask(self.params), self.name, self._take_away)
        threading.Thread(target=self._run, args=(leave,), name=f"idlegrid-{self.name}", daemon=True).start()

    def stop(self, why: Trouble) -> None:
        """Have it stop; who still listens hears why."""
        if self._why is None:
            self._why = why
            self._stopped.set()
            self._loop.call_later(PARTING, self._said.put_nowait, why)

    async def events(self) -> AsyncGenerator[str | bytes, None]:
        """Pieces of text as they come, then the result's JSON. Raises Trouble."""
        late = self._loop.call_later(self.seconds, self.stop, Trouble(504, "timeout", "it took longer than it had"))
        try:
            while True:
                said = await self._said.get()
                if isinstance(said, Trouble):
                    raise said
                yield said
                if isinstance(said, bytes):
                    return
        finally:
            late.cancel()

    def _take_away(self, why: str) -> None:
        """The owner wants the machine: the client is told at once, whatever the work still does."""
        told = Trouble(503, "handed_back", "the worker's owner took the machine back", retry_after=LATER)
        logger.info("%s is given up: %s", self.name, why)
        self._stopped.set()
        self._tell(told)
        self.answered.wait(LAST_WORD)

    def _run(self, leave: Callable[[str], None]) -> None:
        context = RunContext(cancelled=self._stopped.is_set, tokens=self._tell, salt=self.salt)
        outcome = "failed"
        try:
            said = self._result(self.kind.run(self.params, context))
            outcome = "completed" if isinstance(said, bytes) else "failed"
        except Exception as error:  # noqa: BLE001 - a job may raise anything: that ends this one alone
            said = self._why if self._stopped.is_set() and self._why is not None else trouble_of(error)
            outcome = "cancelled" if self._stopped.is_set() else "failed"
        finally:
            leave(outcome)
        logger.info("%s: %s, %.3f s", self.name, outcome, time.monotonic() - self._began)
        self._tell(said)

    def _result(self, result: BaseModel) -> bytes | Trouble:
        document = result.model_dump_json().encode()
        if len(document) > MOST_RESULT:
            return Trouble(422, "result_too_large", f"the result has {len(document):,} bytes")
        return document

    def _tell(self, said: str | bytes | Trouble) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._said.put_nowait, said)


def trouble_of(error: Exception) -> Trouble:
    """What a job raised, as its client hears it."""
    code, message, elsewhere = blame(error)
    if not elsewhere:
        return Trouble(422, code, message)
    return Trouble(500, "job_failed", message)
