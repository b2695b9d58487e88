"""The answers to a window of rows: all in the engine at once, those that begin alike near each other."""

from __future__ import annotations

import asyncio
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...actors.llm.completion import Completion, GenerationFailed
from ...actors.llm.engine_face import EngineClosed
from ...actors.llm.request import Request, RequestRefused, Sampling
from ...actors.llm.resident import EngineThread, encoded
from ...actors.llm.seeds import derived
from .columns import ANSWER, Column, arrays, fields
from .conversations import BadConversation, parse
from .operators import Results, Row, as_json
from .window import HARMLESS

if TYPE_CHECKING:
    from .chat import ChatSpec

SAMPLE_ROWS = 16
SAMPLE_TOKENS = 32
"""A model's speed is judged from so many rows and the first tokens of each."""
COLUMNS = (*ANSWER, Column("cached_tokens", pa.int32(), attrgetter("cached_tokens")))


@dataclass(frozen=True, slots=True)
class Asked:
    """A row that can be answered."""

    place: int
    """In its window."""
    prompt: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that can't be answered."""

    why: str
    final: bool = True
    """False: the step failed in which it was computed, and perhaps for another row's sake."""


Outcome = Completion | Failed


@dataclass(slots=True, weakref_slot=True)
class Pending:
    """A window that is in the engine. Whoever drops it gives the work up."""

    outcomes: Future[dict[int, Outcome]]
    rows: int


class ChatOperator:
    """Rows → answers (a `RowOperator`).

    `prepare` sends a window's rows to the engine, `compute` waits for their answers: so the next window's rows fill the
    running batch while the last ones of this window come to their end.
    """

    by_row = True

    def __init__(self, spec: ChatSpec, resident: EngineThread) -> None:
        self._spec, self._resident = spec, resident

    @property
    def fields(self) -> Sequence[Any]:
        return fields(COLUMNS, self._spec.prefix)

    @property
    def facts(self) -> Mapping[str, Any]:
        return as_json(self._resident.facts)

    def prepare(self, rows: Sequence[Row]) -> Pending:
        outcomes: dict[int, Outcome] = {}
        asked: list[Asked] = []
        for place, row in enumerate(rows):
            try:
                prompt = self._tokens(row.text)
                asked.append(Asked(place, prompt, self._spec.sampling(derived(self._spec.seed, row.number))))
            except (BadConversation, RequestRefused) as error:
                outcomes[place] = Failed(str(error))
        asked.sort(key=lambda one: one.prompt)  # who begins alike comes one after the other
        pending = Pending(self._resident.start(self._answer(asked, outcomes)), len(rows))
        weakref.finalize(pending, pending.outcomes.cancel).atexit = False
        return pending

    def compute(self, prepared: Pending) -> Results:
        outcomes = prepared.outcomes.result()
        done = [one if isinstance(one := outcomes[place], Completion) else None for place in range(prepared.rows)]
        return Results(
            columns=arrays(COLUMNS, done),
            errors={place: one.why for place, one in outcomes.items() if isinstance(one, Failed)},
        )

    def rows_per_second(self, texts: Sequence[str]) -> float:
        """From the beginnings of some answers: what is not at its end by then is taken to be half of max_tokens."""
        short = replace(self._spec, max_tokens=min(self._spec.max_tokens, SAMPLE_TOKENS))
        rows = [Row(number, text) for number, text in enumerate(texts[:SAMPLE_ROWS])]
        begun = time.monotonic()
        pending = ChatOperator(short, self._resident).prepare(rows)
        results = pending.outcomes.result()
        seconds = time.monotonic() - begun
        done = [one for one in results.values() if isinstance(one, Completion)]
        if not done:
            return len(rows) / max(seconds, 1e-3)
        tokens = sum(one.completion_tokens for one in done)
        whole = sum(self._expected(one) for one in done)
        return len(done) * tokens / max(whole, 1) / max(seconds, 1e-3)

    def _expected(self, one: Completion) -> float:
        cut = one.finish_reason == "length"
        return max(one.completion_tokens, self._spec.max_tokens / 2) if cut else one.completion_tokens

    def _tokens(self, text: str) -> tuple[int, ...]:
        """Raises BadConversation or RequestRefused."""
        engine = self._resident.engine
        if self._spec.messages:
            return encoded(engine, parse(text), None, self._spec.system)
        return encoded(engine, None, text, self._spec.system)

    async def _answer(self, asked: Sequence[Asked], outcomes: dict[int, Outcome]) -> dict[int, Outcome]:
        """Every row's outcome. Raises EngineClosed, and GenerationFailed when the engine fails whatever it is asked."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {one.place: group.create_task(self._one(one)) for one in asked}
        except* EngineClosed as closed:
            raise closed.exceptions[0] from None
        outcomes |= {place: task.result() for place, task in tasks.items()}
        for one in asked:
            if isinstance(first := outcomes[one.place], Failed) and not first.final:
                outcomes[one.place] = await self._alone(one)
        return outcomes

    async def _one(self, one: Asked) -> Outcome:
        request = Request(id=uuid.uuid4().hex, prompt=one.prompt, sampling=one.sampling, salt=self._spec.cache_salt)
        try:
            return await self._resident.answer(request)
        except EngineClosed:
            raise
        except RequestRefused as error:
            return Failed(str(error))
        except GenerationFailed as error:
            return Failed(str(error), final=False)

    async def _alone(self, one: Asked) -> Outcome:
        """A second try by itself; if it fails again, a harmless row tells whether the engine is at fault."""
        again = await self._one(one)
        if isinstance(again, Failed) and not again.final:
            prompt = encoded(self._resident.engine, None, HARMLESS)
            await self._resident.answer(
                Request(id=uuid.uuid4().hex, prompt=prompt, sampling=Sampling(max_tokens=1, temperature=0))
            )
        return again
