"""Is there still a grid that works for us? What is waited for, and for how long at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import dask

from ...grid.jobs import Ask
from .errors import GridUnavailable
from .operators import OperatorSpec

POLL = 1.0
"""Seconds between two looks at the grid while nothing happens."""
_ANSWER_TIMEOUT = 10.0
_ASKED = 8
"""Waiting tasks about which the scheduler is asked at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a job waits for its grid before it gives up; it stays resumable. Seconds."""

    worker: float | None = 300.0
    """Without any worker that may take the work. None: for ever, e.g. until donors' working hours begin."""
    scheduler: float = 60.0
    """Without an answer from the scheduler."""


def ask_for(spec: OperatorSpec) -> Any:
    """The annotation by which placement knows bulk work: use as ``with ask_for(spec): client.submit(…)``."""
    ask = Ask(type=spec.job_type, model=spec.model, deaths_allowed=0)
    return dask.annotate(grid=ask.to_annotation())


class Watch:
    """Looks at the grid now and then. Says what is waited for, and raises GridUnavailable when patience ends."""

    def __init__(self, client: Any, patience: Patience, work: str, say: Callable[[str], None]) -> None:
        """`work`: what the workers are wanted for, e.g. ``embedding``."""
        self._client, self._patience, self._work, self._say = client, patience, work, say
        self.workers: Mapping[str, int] = {}
        """Address → threads, as of the last look."""
        self._looked = 0.0
        self._idle_since: float | None = None
        self._silent_since: float | None = None

    @property
    def connected(self) -> bool:
        return bool(self._client.status == "running")

    @property
    def threads(self) -> int:
        return max(1, sum(self.workers.values()))

    def look(self, keys: Iterable[str] = (), *, force: bool = False) -> bool:
        """See who is there and whether somebody may take the tasks `keys`; at most once in `POLL` seconds.

        Returns whether `workers` was renewed.
        """
        now = time.monotonic()
        if not force and now - self._looked < POLL:
            return False
        self._looked = now
        workers = self._ask("ncores")
        if workers is None:
            self._unanswered(now)
            return False
        self.workers, self._silent_since = workers, None
        nobody = self._nobody(keys)
        if nobody is None:
            self._idle_since = None
        else:
            self._idle(now, nobody)
        return True

    def _idle(self, now: float, nobody: str) -> None:
        self._idle_since = now if self._idle_since is None else self._idle_since
        waited, most = now - self._idle_since, self._patience.worker
        if most is not None and waited >= most:
            raise GridUnavailable(f"for {waited:.0f} s no worker took {self._work} work: {nobody}. Start one")
        self._say(f"waiting for a worker that may take {self._work} work: {nobody} ({waited:.0f} s)")

    def reconnect(self) -> None:
        """Wait until the scheduler answers again."""
        deadline = time.monotonic() + self._patience.scheduler
        self._say("the connection to the scheduler is lost: waiting for it to come back")
        while not self.connected:
            if self._client.status in ("closed", "closing") or time.monotonic() > deadline:
                raise GridUnavailable("the connection to the scheduler is lost. Start the grid again")
            time.sleep(POLL / 5)

    def _nobody(self, keys: Iterable[str]) -> str | None:
        """Why no worker may take any of the tasks now, or None when one may (or nobody can tell)."""
        if not self.workers:
            return "none is connected"
        told = None
        for key in islice(keys, _ASKED):
            answer = self._ask("grid_why", key=key)
            if answer is None or answer["state"] != "no-worker":
                return None
            told = str(answer["summary"]).removeprefix("waits: ")
        return told

    def _unanswered(self, now: float) -> None:
        """The scheduler said nothing. The client tries again by itself until it is closed."""
        if not self.connected:
            self.reconnect()
            return
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since > self._patience.scheduler:
            raise GridUnavailable(f"the scheduler has not answered for {now - self._silent_since:.0f} s")
        self._say(f"the scheduler does not answer ({now - self._silent_since:.0f} s)")

    def _ask(self, operation: str, **arguments: Any) -> Any:
        """The scheduler's answer, or None: not connected, too slow, or it does not know the operation."""
        with suppress(Exception):
            call = getattr(self._client.scheduler, operation)
            return self._client.sync(call, callback_timeout=_ANSWER_TIMEOUT, **arguments)
        return None
