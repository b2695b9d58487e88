"""A worker that asks for its work: plain HTTP out, no Dask, nothing unpickled. The same attempts, spool and fences."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ...grid.donors import Donor
from ...grid.verdicts import Verdict
from .desk import Desk
from .doors import Away
from .slots import SlotGuard
from .work_order import WorkOrder

logger = logging.getLogger(__name__)

WAIT = 20.0
"""Seconds for which one question for work is held."""
RETRY_FIRST, RETRY_MOST = 0.2, 10.0
"""Seconds between two tries while the service is away."""
CLOSED = 1.0
"""Seconds between two looks at whether the owner's limits allow work again."""
LEAVES = "this worker leaves"
CREW_EVERY = 0.2
"""Seconds between two looks at how many jobs may run at the same time."""

Now = Callable[[], datetime]


class Puller:
    """Asks one grid for jobs within the owner's limits, as many at a time as these allow."""

    def __init__(
        self, donor: Donor, api: tuple[str, ...], token: str, desk: Desk, *, now: Now = lambda: datetime.now(UTC)
    ) -> None:
        """`api`: base URLs of the HTTP service. `token`: the one that opens `next-job`."""
        self._api, self._token, self._desk, self._now = api, token, desk, now
        self.slots = desk.slots = SlotGuard(donor, now=now)
        """The limits in force: `SlotGuard.set_donor` changes them while it asks."""
        self._crew: dict[int, threading.Thread] = {}
        self.refused: PermissionError | None = None
        """Why the service gives this worker no work at all; it has stopped asking."""

    def ask_until(self, stop: threading.Event) -> None:
        """Ask and work until `stop`; a job that runs then is finished. Sets `stop` itself when it is `refused`.

        A job that comes after `stop`, in answer to a question of before, is handed back at once. As many threads ask as
        jobs may run at the same time, also when that changes.
        """
        while not stop.is_set():
            self._hire(stop)
            stop.wait(CREW_EVERY)
        for thread in list(self._crew.values()):
            thread.join()

    def _hire(self, stop: threading.Event) -> None:
        for number in range(self.slots.donor.limits.max_concurrent_jobs):
            if (there := self._crew.get(number)) is None or not there.is_alive():
                name = f"idlegrid-pull-{number}"
                thread = threading.Thread(target=self._work, args=(number, stop), name=name, daemon=True)
                self._crew[number] = thread
                thread.start()

    def _work(self, number: int, stop: threading.Event) -> None:
        pause = RETRY_FIRST
        while not stop.is_set() and number < self.slots.donor.limits.max_concurrent_jobs:
            if not (verdict := self.slots.standing()):
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
            if document is not None and stop.is_set():
                self._desk.refuse(work_order(document, self._api), LEAVES)
            elif document is not None:
                self._do(document)

    def _ask(self) -> Mapping[str, Any] | None:
        donor = self.slots.donor
        types = sorted(donor.supported_types)
        found: Mapping[str, Any] | None = self._desk.doors.next_job(
            self._api, donor.id, self._token, types, WAIT, donor.region
        )
        return found

    def _do(self, document: Mapping[str, Any]) -> None:
        began = time.monotonic()
        outcome = self._desk.run(work_order(document, self._api))
        logger.info("attempt at %s: %s, %.3f s", document["job_id"], outcome, time.monotonic() - began)

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
        max_result_bytes=document["max_result_bytes"],
        token=document["attempt_token"],
        api=api,
        trace_id=document.get("trace_id"),
        salt=document.get("salt", ""),
    )
