"""A worker that asks for its work: plain HTTP out, no Dask, nothing unpickled. The same attempts, spool and fences."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ...grid.acceptance import standing
from ...grid.donors import Donor, Load
from ...grid.verdicts import Verdict
from .desk import Desk
from .doors import Away
from .work_order import WorkOrder

logger = logging.getLogger(__name__)

WAIT = 20.0
"""Seconds for which one question for work is held."""
RETRY_FIRST, RETRY_MOST = 0.2, 10.0
"""Seconds between two tries while the service is away."""
CLOSED = 5.0
"""Seconds between two looks at whether the owner's limits allow work again."""
HOUR = 3600.0

Now = Callable[[], datetime]


class Starts:
    """When jobs were started within the last hour: what the owner's hourly cap counts. Thread-safe."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()
        self._lock = threading.Lock()
        self._running = 0

    def load(self, now: datetime) -> Load:
        """What this worker does now."""
        with self._lock:
            while self._at and self._at[0] <= now.timestamp() - HOUR:
                self._at.popleft()
            frees_at = self._at[0] + HOUR if self._at else None
            return Load(running=self._running, started_last_hour=len(self._at), hourly_slot_frees_at=frees_at)

    def begin(self, now: datetime) -> None:
        """A job starts."""
        with self._lock:
            self._running += 1
            self._at.append(now.timestamp())

    def end(self) -> None:
        """A job ended."""
        with self._lock:
            self._running -= 1


class Puller:
    """Asks one grid for jobs within the owner's limits, as many at a time as these allow."""

    def __init__(
        self, donor: Donor, api: tuple[str, ...], token: str, desk: Desk, *, now: Now = lambda: datetime.now(UTC)
    ) -> None:
        """`api`: base URLs of the HTTP service. `token`: the one that opens `next-job`."""
        self._donor, self._api, self._token, self._desk, self._now = donor, api, token, desk, now
        self._starts = Starts()
        self.refused: PermissionError | None = None
        """Why the service gives this worker no work at all; it has stopped asking."""

    def ask_until(self, stop: threading.Event) -> None:
        """Ask and work until `stop`; a job that runs then is finished. Sets `stop` itself when it is `refused`."""
        slots = self._donor.limits.max_concurrent_jobs
        threads = [
            threading.Thread(target=self._work, args=(stop,), name=f"idlegrid-pull-{number}", daemon=True)
            for number in range(slots)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, stop: threading.Event) -> None:
        pause = RETRY_FIRST
        while not stop.is_set():
            if not (verdict := standing(self._donor, self._starts.load(self._now()), self._now())):
                stop.wait(self._until(verdict))
                continue
            try:
                document = self._ask()
                pause = RETRY_FIRST
            except Away as error:
                logger.info("no work can be asked for: %s", error)
                stop.wait(error.retry_after or pause)
                pause = min(2 * pause, RETRY_MOST)
                continue
            except PermissionError as error:
                self.refused = error
                stop.set()
                return
            if document is not None:
                self._do(document)

    def _ask(self) -> Mapping[str, Any] | None:
        types = sorted(self._donor.supported_types)
        found: Mapping[str, Any] | None = self._desk.doors.next_job(
            self._api, self._donor.id, self._token, types, WAIT, self._donor.region
        )
        return found

    def _do(self, document: Mapping[str, Any]) -> None:
        self._starts.begin(self._now())
        began = time.monotonic()
        try:
            outcome = self._desk.run(work_order(document, self._api))
            logger.info("attempt at %s: %s, %.3f s", document["job_id"], outcome, time.monotonic() - began)
        finally:
            self._starts.end()

    def _until(self, verdict: Verdict) -> float:
        if verdict.retry_at is None:
            return CLOSED
        return min(CLOSED, max(0.0, (verdict.retry_at - self._now()).total_seconds()))


def work_order(document: Mapping[str, Any], api: tuple[str, ...]) -> WorkOrder:
    """The answer of `next-job` as a work order."""
    return WorkOrder(
        job_id=document["job_id"],
        fence=document["fence"],
        type=document["type"],
        params=document["params"],
        timeout_seconds=document["timeout_seconds"],
        lease_seconds=document["lease_seconds"],
        token=document["attempt_token"],
        api=api,
        trace_id=document.get("trace_id"),
    )
