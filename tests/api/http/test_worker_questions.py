"""Open questions for work: few looks for many that ask, each job to one of them, nothing lost when somebody goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Any

import pytest

from idlegrid.api.http import worker_questions
from idlegrid.api.http.worker_questions import Board, Question, Questions
from idlegrid.grid.donors import Donor
from idlegrid.grid.jobs import Ask
from idlegrid.grid.pulling import Waiting
from idlegrid.grid.store import StoreUnavailable

PATIENCE = 30.0


@dataclass
class Queue:
    """A queue in memory; a claim is the job's id and the worker's."""

    waiting: list[Waiting] = field(default_factory=list)
    looks: int = 0
    away: bool = False
    stolen: set[str] = field(default_factory=set)
    """Jobs that somebody else claims first."""
    hold: asyncio.Event | None = None
    """Claims are slow until it is set."""
    back: list[Any] = field(default_factory=list)

    async def board(self, types: Collection[str], asking: Collection[str]) -> Board:
        self.looks += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("gone")
        return Board([job for job in self.waiting if job.ask.type in types])

    async def claim(self, donor: Donor, job_id: str, board: Board) -> Any:
        if self.hold is not None:
            await self.hold.wait()
        found = [job for job in self.waiting if job.job_id == job_id]
        self.waiting = [job for job in self.waiting if job.job_id != job_id]
        return (job_id, donor.id) if found and job_id not in self.stolen else None

    async def give_back(self, claim: Any) -> None:
        self.back.append(claim)

    def put(self, *ids: str, kind: str = "llm") -> None:
        self.waiting += [Waiting(job_id=id_, ask=Ask(type=kind), seconds=0.0) for id_ in ids]


def donor(id_: str, *types: str) -> Donor:
    return Donor(id=id_, supported_types=frozenset(types or ("llm",)))


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
async def questions(queue: Queue) -> AsyncIterator[Questions]:
    questions = Questions(queue, look_every=3600)
    yield questions
    for those in list(questions._by_donor.values()):
        for question in list(those):
            questions.close(question, taken=True)


async def told(question: Question) -> Any:
    return await asyncio.wait_for(question.answer, PATIENCE)


async def settled(queue: Queue, looks: int) -> None:
    """So many looks were made, and what they found was dealt with."""
    async with asyncio.timeout(PATIENCE):
        while queue.looks < looks:  # noqa: ASYNC110 - the queue tells nobody
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)


async def test_one_look_answers_all_that_ask(queue, questions):
    asked = [questions.ask(donor(f"w-{number}"), PATIENCE) for number in range(500)]
    await settled(queue, 1)
    queue.put(*(f"j-{number}" for number in range(3)))
    questions.look()
    await settled(queue, 2)
    answers = [question.answer.result() for question in asked if question.answer.done()]
    assert sorted(job for job, _ in answers) == ["j-0", "j-1", "j-2"]
    assert len({worker for _, worker in answers}) == 3
    assert queue.looks == 2


async def test_each_asks_for_its_own_types_and_as_often_as_it_has_places(queue, questions):
    queue.put("j-1", "j-2")
    queue.put("e-1", kind="embedding")
    two = [questions.ask(donor("w-1"), PATIENCE) for _ in range(2)]
    other = questions.ask(donor("w-2", "embedding"), PATIENCE)
    assert sorted([await told(one) for one in two]) == [("j-1", "w-1"), ("j-2", "w-1")]
    assert await told(other) == ("e-1", "w-2")


async def test_who_waits_no_longer_is_told_after_a_look(queue, questions):
    assert await told(questions.ask(donor("w"), 0)) is None
    assert queue.looks == 1
    queue.put("j")
    assert await told(questions.ask(donor("w"), 0)) == ("j", "w")
    assert await told(questions.ask(donor("w"), 0.01)) is None


async def test_what_somebody_else_claimed_first_leaves_the_question_open(queue, questions):
    queue.stolen.add("j-1")
    queue.put("j-1", "j-2")
    assert await told(questions.ask(donor("w"), PATIENCE)) == ("j-2", "w")


async def test_a_database_that_is_away_is_said_to_all_and_asked_again_by_the_next(queue, questions):
    queue.away = True
    asked = [questions.ask(donor(f"w-{number}"), PATIENCE) for number in range(3)]
    for question in asked:
        with pytest.raises(StoreUnavailable):
            await told(question)
        questions.close(question, taken=False)
    queue.away = False
    queue.put("j")
    assert await told(questions.ask(donor("w"), PATIENCE)) == ("j", "w")


@pytest.mark.parametrize("answered", [False, True], ids=["while it is claimed", "before it is told"])
async def test_who_goes_away_keeps_no_job(queue, questions, answered):
    queue.put("j")
    queue.hold = asyncio.Event()
    question = questions.ask(donor("w"), PATIENCE)
    await settled(queue, 1)
    if answered:
        queue.hold.set()
        await told(question)
        questions.close(question, taken=False)
    else:
        questions.close(question, taken=False)
        queue.hold.set()
    async with asyncio.timeout(PATIENCE):
        while not queue.back:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert queue.back == [("j", "w")]


async def test_nobody_looks_when_nobody_asks(queue, questions):
    questions.close(questions.ask(donor("w"), PATIENCE), taken=False)
    await settled(queue, 0)
    before = queue.looks
    questions.look()
    await settled(queue, 0)
    assert queue.looks == before <= 1
    assert questions._watch is None or questions._watch.done()


async def test_one_worker_has_so_many_questions_open_and_no_more(queue: Queue, questions: Questions, monkeypatch):
    monkeypatch.setattr(worker_questions, "MOST_OF_ONE", 3)
    asked = [questions.ask(donor("a"), 60) for _ in range(5)]
    other = questions.ask(donor("b"), 60)
    async with asyncio.timeout(PATIENCE):
        assert [await question.answer for question in asked[:2]] == [None, None]
    assert not any(question.answer.done() for question in (*asked[2:], other))


async def test_when_it_ends_everybody_is_answered_after_one_look(queue: Queue, questions: Questions):
    open_ones = [questions.ask(donor(id_), 60) for id_ in ("a", "b")]
    questions.end()
    async with asyncio.timeout(PATIENCE):
        assert [await question.answer for question in open_ones] == [None, None]
        assert await questions.ask(donor("c"), 60).answer is None
