"""One attempt on a worker: begin, show signs of life, compute, tell the end. The same however the job came here.

::

    begin ──► run(params, context) ──────────────► complete ──► (away?) spool
      └─ heart: a sign of life every lease/3 or sooner; hears of cancellation; judges whether the lease still holds
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ValidationError

from ...actors.isolation.task import TaskDied, TaskFailed, run_isolated
from ...actors.llm.engine_face import EngineClosed, QueueFull
from ...actors.llm.request import RequestRefused
from ...grid.job_rules import HANDED_BACK
from ...grid.job_types import Cancelled, Isolated, JobType, RunContext, job_type
from ...grid.task_limits import LimitBroken
from .doors import Away, Doors, Gone, Unfit
from .spool import Spool, failed, head
from .work_order import Identity, WorkOrder

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
TRUST = 0.8
"""Share of a lease after which a worker that heard nothing takes it for lost, by its own monotonic clock."""
HEAR_EVERY = 3.0
"""Seconds between two signs of life at most, however long the lease: so soon a cancellation is heard of."""
MOST_SILENCE = 10.0
"""Seconds that one sign of life may take to be answered."""
TOKENS_EVERY = 0.1
"""Seconds for which pieces of text are collected before they are told."""
COMPLETE_PATIENCE = 15.0
"""Seconds that the service has to take a result before it goes to the spool."""


class Outcome(StrEnum):
    """What became of an attempt, as far as its worker knows."""

    TOLD = "told"
    """The grid knows how it ended."""
    KEPT = "kept"
    """The service is away; the spool tells it later."""
    LOST = "lost"
    """It stopped because its lease may be over: somebody else does the job."""
    REFUSED = "refused"
    """It never began, or its end came too late: the fence is old."""
    UNREACHED = "unreached"
    """It never began, since the service could not be asked."""
    HANDED_BACK = "handed_back"
    """Its donor gave it up while it ran; that was told, or is kept."""
    DECLINED = "declined"
    """It never began, since its donor's limits don't allow it; the grid knows."""


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended."""

    body: bytes
    """As the door `complete` takes it."""
    outcome: str
    """In one word, for its donor: ``completed``, ``failed``, ``cancelled``, ``timeout``, ``handed_back``."""


class LastWord:
    """An attempt has one end, and whoever comes first tells it: the one who computes, or the one who gives it up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: End | None = None

    @property
    def end(self) -> End | None:
        """None: it goes on."""
        return self._end

    def take(self, end: End) -> bool:
        """Whether `end` is how it ended; False: it has ended otherwise before."""
        with self._lock:
            if self._end is not None:
                return False
            self._end = end
            return True


class Heart:
    """Keeps the lease of one attempt, in a thread of its own, and says whether to go on."""

    def __init__(
        self,
        attempt: WorkOrder,
        who: Identity,
        doors: Doors,
        clock: Clock = time.monotonic,
        word: LastWord | None = None,
    ) -> None:
        self._attempt, self._who, self._doors, self._clock = attempt, who, doors, clock
        self._word = word or LastWord()
        self._lease, self._renewed, self._began = attempt.lease_seconds, clock(), clock()
        self._why: str | None = None
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._progress: Mapping[str, Any] | None = None
        self._tokens: list[str] = []
        self._speaks = False
        self._saying = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name=f"idlegrid-heart-{attempt.name}", daemon=True)

    @property
    def seconds(self) -> float:
        """Wall time since the attempt began."""
        return self._clock() - self._began

    def begin(self) -> None:
        """Bind the attempt to this process, then keep its lease. Raises Away (too long), Gone, Unfit."""
        deadline, pause = self._clock() + self._attempt.begin_within, 0.1
        while True:
            sent = self._clock()
            try:
                lease = self._doors.progress(self._attempt, self._who, self._body(begin=True), self._patience())
                break
            except Away:
                if self._clock() + pause >= deadline:
                    raise
                self._ended.wait(pause)
                pause = min(2 * pause, 1.0)
        self._began = self._clock()
        self._heard(lease.seconds, lease.cancel, sent)
        self._thread.start()

    def why_stop(self) -> str | None:
        """Why to stop: ``cancelled``, ``timeout``, ``lost``, ``gone``, ``handed_back``; for good. None: go on."""
        if self._why is None:
            now = self._clock()
            if self._word.end is not None:
                self._why = HANDED_BACK
            elif now - self._renewed > TRUST * self._lease:
                self._why = "lost"
            elif now - self._began > self._attempt.timeout_seconds:
                self._why = "timeout"
        return self._why

    def stopped(self) -> bool:
        """Whether the attempt is to stop."""
        return self.why_stop() is not None

    def progress(self, facts: Mapping[str, Any]) -> None:
        """Tell with the next sign of life how far the work is."""
        self._progress = facts

    def tokens(self, text: str) -> None:
        """Tell soon what was generated."""
        with self._saying:
            self._tokens.append(text)
            self._speaks = True
        self._wake.set()

    def end(self) -> None:
        """No more signs of life. Text that was generated is told before the end of the attempt is."""
        self._ended.set()
        self._wake.set()
        if self._speaks and self._thread.is_alive():
            self._thread.join(self._patience())

    def _beat(self) -> None:
        while not self._ended.is_set():
            self._wake.wait(min(self._lease / 3, HEAR_EVERY))
            if self._wake.is_set() and not self._ended.is_set():
                self._ended.wait(TOKENS_EVERY)
            self._wake.clear()
            if self.why_stop() is not None:
                return
            if not self._ended.is_set() or self._tokens:
                self._say()

    def _say(self) -> None:
        with self._saying:
            text, self._tokens = "".join(self._tokens), []
        sent = self._clock()
        try:
            lease = self._doors.progress(self._attempt, self._who, self._body(text=text), self._patience())
        except Away as error:
            logger.info("attempt %s could not renew its lease: %s", self._attempt.name, error)
            with self._saying:
                self._tokens[:0] = [text] if text else []
            self._ended.wait(min(0.5, self._lease / 10))
            self._wake.set()
        except (Gone, Unfit, KeyError, TypeError, ValueError) as error:
            logger.info("attempt %s is over: %s", self._attempt.name, error)
            self._why = self._why or "gone"
        else:
            self._heard(lease.seconds, lease.cancel, sent)

    def _heard(self, lease: float, cancel: bool, sent: float) -> None:
        """The lease counts from when it was asked for: whatever the network did since, it isn't over earlier."""
        self._lease, self._renewed = lease, sent
        if cancel:
            self._why = self._why or "cancelled"

    def _body(self, *, begin: bool = False, text: str = "") -> dict[str, Any]:
        body = head(self._attempt, self._who)
        progress, self._progress = self._progress, None
        if begin:
            body["begin"] = True
        if progress is not None:
            body["progress"] = dict(progress)
        if text:
            body["text"] = text
        return body

    def _patience(self) -> float:
        return min(MOST_SILENCE, self._lease / 3)


def run_attempt(
    attempt: WorkOrder,
    who: Identity,
    doors: Doors,
    spool: Spool,
    *,
    clock: Clock = time.monotonic,
    word: LastWord | None = None,
) -> Outcome:
    """Do the attempt in this thread. Raises nothing that the job does: its end is told, or kept to be told.

    `word`: taken by somebody else, the attempt stops, and its end is his to tell.
    """
    word = word or LastWord()
    heart = Heart(attempt, who, doors, clock, word)
    spool.expect(attempt, who)
    try:
        heart.begin()
    except (Away, Gone, Unfit) as error:
        logger.info("attempt %s did not begin: %s", attempt.name, error)
        spool.unmark(attempt)
        return Outcome.UNREACHED if isinstance(error, Away) else Outcome.REFUSED
    spool.mark(attempt, who)
    try:
        if word.end is not None:
            return Outcome.HANDED_BACK
        end = _computed(attempt, who, heart)
        heart.end()
        if end is not None and word.take(end):
            return _told(attempt, who, end.body, doors, spool)
        return Outcome.LOST if word.end is None else Outcome.HANDED_BACK
    finally:
        heart.end()
        spool.unmark(attempt)


def _computed(attempt: WorkOrder, who: Identity, heart: Heart) -> End | None:
    """How the attempt ends. None: there is nothing to say any more."""
    context = RunContext(heart.stopped, heart.progress, heart.tokens, attempt.salt)
    try:
        kind = job_type(attempt.type)
        return _result(attempt, who, _run(kind, attempt, context), heart.seconds)
    except Exception as error:  # noqa: BLE001 - a job may raise anything: that ends this attempt alone
        why = heart.why_stop() if isinstance(error, Cancelled) or heart.stopped() else None
        if why in ("lost", "gone", HANDED_BACK):
            return None
        code, message, retry = _WHY[why] if why is not None else blame(error)
        return End(failed(attempt, who, code, message, retry=retry, seconds=heart.seconds), why or "failed")


_WHY = {
    "cancelled": ("cancelled", "cancelled while it ran", False),
    "timeout": ("timeout", "it took longer than its timeout_seconds", False),
}


def _run(kind: JobType, attempt: WorkOrder, context: RunContext) -> BaseModel:
    if isinstance(kind, Isolated) and kind.isolated:
        result = run_isolated(attempt.type, attempt.params, context, kind.task_limits)
        return kind.Result.model_validate_json(result)
    return kind.run(kind.Params.model_validate(dict(attempt.params)), context)


def blame(error: Exception) -> tuple[str, str, bool]:
    """Code, message and whether another worker may do better. What a client sees never holds a traceback."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return "invalid_params", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", False
    if isinstance(error, LimitBroken):
        return error.code, str(error), False
    if isinstance(error, (TaskFailed, TaskDied)):
        return "error", _brief(error), True
    engine_trouble = isinstance(error, (QueueFull, EngineClosed))  # of this worker, though they are refusals
    if isinstance(error, (ValueError, RequestRefused)) and not engine_trouble:
        return "invalid_params", _brief(error), False
    return "error", f"{type(error).__name__}: {_brief(error)}", True


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or "no reason given"


def _result(attempt: WorkOrder, who: Identity, result: BaseModel, seconds: float) -> End:
    """The result, encoded once."""
    document = result.model_dump_json()
    size = len(document.encode())
    if size > attempt.max_result_bytes:
        told = f"the result has {size:,} bytes; at most {attempt.max_result_bytes:,} are kept (jobs.max_result_mb)"
        return End(failed(attempt, who, "result_too_large", told, retry=False, seconds=seconds), "failed")
    usage = getattr(result, "usage", None)
    facts = head(attempt, who) | {
        "success": True,
        "processing_time": seconds,
        "usage": usage.model_dump(mode="json") if isinstance(usage, BaseModel) else None,
    }
    return End(f'{json.dumps(facts)[:-1]}, "result": {document}}}'.encode(), "completed")


def _told(attempt: WorkOrder, who: Identity, end: bytes, doors: Doors, spool: Spool) -> Outcome:
    try:
        doors.complete(attempt, who, end, COMPLETE_PATIENCE)
    except Away as error:
        logger.warning("the end of attempt %s goes to the spool: %s", attempt.name, error)
        spool.keep(attempt, who, end)
        return Outcome.KEPT
    except Gone as error:
        logger.info("the end of attempt %s came too late: %s", attempt.name, error)
        return Outcome.REFUSED
    except Unfit as error:  # the service has ended the attempt
        logger.warning("the end of attempt %s was not taken: %s", attempt.name, error)
    return Outcome.TOLD
