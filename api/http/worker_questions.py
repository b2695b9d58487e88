"""Open questions for work: one look at the queue for all of them, however many workers ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from ...grid.donors import Donor, Load
from ...grid.placement import Donors
from ...grid.pulling import Waiting, give
from ...grid.store import Claim, StoreUnavailable
from ...scheduler_plugins.placer import lot
from ..logs import logger

log = logger(__name__)

BREATH = 0.01
"""Seconds between two looks at least: what comes in between is looked at together."""
MOST_OF_ONE = 64
"""Open questions of one worker."""


class Enough(Exception):
    """By the grid's own count the worker does as much as its owner allows."""


@dataclass(frozen=True, slots=True)
class Board:
    """What one look found."""

    waiting: Sequence[Waiting] = ()
    """In the order of the queue."""
    here: Sequence[tuple[Donor, Load]] = ()
    """Everybody who gets work by asking, and is here."""
    others: Donors = field(default_factory=Donors)
    """Those of them who have nothing to do, and don't ask at this moment."""


class Desk(Protocol):
    """Where jobs are looked at and handed out. Each takes as long as the database does."""

    def board(self, types: Collection[str], asking: Collection[str]) -> Awaitable[Board]:
        """What waits of these types; `asking`: ids of the workers that do."""
        ...

    def claim(self, donor: Donor, job_id: str, board: Board) -> Awaitable[Claim | None]:
        """The job, claimed for a worker. None: somebody else was faster. Raises Enough."""
        ...

    def give_back(self, claim: Claim) -> Awaitable[None]:
        """Nobody is there for it any more."""
        ...


@dataclass(eq=False, slots=True)
class Question:
    """One worker that waits for a job."""

    donor: Donor
    ends: float
    """When it is answered at the latest; of `time.monotonic`."""
    answer: asyncio.Future[Claim | None]
    open: bool = True


class Questions:
    """All open questions of one event loop. The queue is looked at while there are any."""

    def __init__(self, desk: Desk, look_every: float) -> None:
        """`look_every`: seconds between two looks for what other processes took in."""
        self.desk, self._every = desk, look_every
        self._asking = Donors()
        self._by_donor: dict[str, list[Question]] = {}
        self._news = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[Any]] = set()
        self._over = False

    def ask(self, donor: Donor, seconds: float) -> Question:
        """Ask for a job, for so long. Its `answer` comes after one look at least; whoever asked must `close` it.

        The answer may be StoreUnavailable.
        """
        answer: asyncio.Future[Claim | None] = asyncio.get_running_loop().create_future()
        question = Question(donor, time.monotonic() + (0.0 if self._over else seconds), answer)
        self._make_room(donor.id)
        self._put(question)
        self.look()
        if self._watch is None:
            self._watch = asyncio.create_task(self._watching())
        return question

    def look(self) -> None:
        """There may be work now."""
        self._news.set()

    def end(self) -> None:
        """Nobody waits any more: who asks, and who will, is answered after one look."""
        self._over = True
        for question in [question for those in self._by_donor.values() for question in those]:
            question.ends = time.monotonic()
        self._news.set()

    def close(self, question: Question, *, taken: bool) -> None:
        """Nobody waits for the answer any more; one that came all the same, and was not `taken`, goes back."""
        question.open = False
        self._drop(question)
        answer = question.answer
        if not answer.done():
            answer.cancel()
        elif not taken and not answer.cancelled() and answer.exception() is None and (claim := answer.result()):
            self._aside(self.desk.give_back(claim))

    # -- looking

    async def _watching(self) -> None:
        try:
            while self._by_donor:
                self._news.clear()
                looked_at = time.monotonic()
                asked = [question for those in self._by_donor.values() for question in those]
                try:
                    await self._round(asked)
                except StoreUnavailable as away:
                    self._fail(asked, away)
                except Exception as error:
                    log.exception("pull.look_failed", kind=type(error).__name__)
                    self._fail(asked, error)
                for question in asked:
                    self._end(question)
                await self._pause()
                await asyncio.sleep(looked_at + BREATH - time.monotonic())
        finally:
            self._watch = None

    async def _round(self, asked: Sequence[Question]) -> None:
        """One look at the queue: each waiting job goes to the best of those that ask for it."""
        types = frozenset[str]().union(*(question.donor.supported_types for question in asked))
        board = await self.desk.board(types, list(self._by_donor))
        now, claims = datetime.now(UTC), []
        for job in board.waiting:
            given = give(job, self._asking, board.others, now, partial(_lot, job.job_id, now))
            question = None if given.donor_id is None else self._take(given.donor_id, job.ask.type)
            if question is not None:
                claims.append(self._claim(question, job.job_id, board))
        await asyncio.gather(*claims)

    async def _claim(self, question: Question, job_id: str, board: Board) -> None:
        try:
            claim = await self.desk.claim(question.donor, job_id, board)
        except StoreUnavailable as away:
            self._fail([question], away)
            return
        except Enough:
            if not question.answer.done():
                question.answer.set_result(None)
            return
        if claim is not None and question.open and not question.answer.done():
            question.answer.set_result(claim)
        elif claim is not None:
            await self.desk.give_back(claim)
        elif question.open:
            self._put(question)  # somebody else was faster: there may be another job
            self.look()

    async def _pause(self) -> None:
        """Until there is news, the next look is due, or somebody's time is over."""
        if not self._by_donor:
            return
        first = min(question.ends for those in self._by_donor.values() for question in those)
        wait = min(self._every, max(0.0, first - time.monotonic()))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait)

    def _end(self, question: Question) -> None:
        if not question.answer.done() and question.ends <= time.monotonic() and self._is_asked(question):
            self._drop(question)
            question.answer.set_result(None)

    def _fail(self, asked: Sequence[Question], error: Exception) -> None:
        for question in asked:
            self._drop(question)
            if not question.answer.done():
                question.answer.set_exception(error)

    # -- who asks

    def _make_room(self, donor_id: str) -> None:
        """Who asks more often than anybody needs is answered that there is nothing, the longest question first."""
        those = self._by_donor.get(donor_id, [])
        if len(those) >= MOST_OF_ONE:
            oldest = those[0]
            self._drop(oldest)
            if not oldest.answer.done():
                oldest.answer.set_result(None)

    def _put(self, question: Question) -> None:
        self._by_donor.setdefault(question.donor.id, []).append(question)
        self._asking.put(question.donor)

    def _is_asked(self, question: Question) -> bool:
        """Whether it waits for a job to be found; False while one is being claimed for it."""
        return question in self._by_donor.get(question.donor.id, ())

    def _take(self, donor_id: str, kind: str) -> Question | None:
        """The oldest question of this worker that is for such work; it is not asked any more."""
        for question in self._by_donor.get(donor_id, ()):
            if kind in question.donor.supported_types:
                self._drop(question)
                return question
        return None

    def _drop(self, question: Question) -> None:
        those = self._by_donor.get(question.donor.id, [])
        if question in those:
            those.remove(question)
            if those:
                self._asking.put(those[-1].donor)
            else:
                del self._by_donor[question.donor.id]
                self._asking.drop(question.donor.id)

    def _aside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _lot(job_id: str, now: datetime, donor_id: str) -> float:
    return lot(job_id, donor_id, now)
