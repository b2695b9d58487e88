"""The engine without its thread: sequencer, chain of stages and text of one model, one step at a time."""

from __future__ import annotations

import logging

from .answer import NO_CHOICE, Answer
from .chain import Chain
from .request import FinishReason, TokenLogprob
from .sampling import Sampled
from .sequence import Outcome
from .sequencer import Sequencer
from .step import Accepted, Row, Step
from .threaded import Counts, Told

logger = logging.getLogger(__name__)


class EngineCore:
    """Adds requests, computes steps, tells events. Not thread-safe; no clock (`now` is an argument), no I/O.

    Whatever goes wrong, every request that `add` accepted gets exactly one `Finished`, and nothing after it.
    """

    def __init__(self, sequencer: Sequencer, chain: Chain) -> None:
        self.sequencer = sequencer
        self._chain = chain
        self._answers: dict[str, Answer] = {}

    @property
    def has_work(self) -> bool:
        """A call of `step` would do something."""
        return self.sequencer.has_work

    def add(self, answer: Answer, now: float) -> list[Told]:
        """Accept the request of a fresh answer. Raises RequestRefused. Returns its end if it is complete already."""
        request = answer.request
        self.sequencer.add(request, now)
        self._answers[request.id] = answer
        if answer.finish is None:
            return []
        return self._end(self.sequencer.abort(request.id, answer.finish))

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORTED, error: str = "") -> list[Told]:
        """End a request now; its pages are free at once. Nothing happens if it has ended."""
        return self._end(self.sequencer.abort(request_id, reason), error)

    def abort_all(self, reason: FinishReason, error: str) -> list[Told]:
        """End whatever lives."""
        return [told for request_id in list(self._answers) for told in self.abort(request_id, reason, error)]

    def counts(self) -> Counts:
        """What it is doing now."""
        stats = self.sequencer.stats()
        return Counts(stats.running, stats.waiting, stats.kv_usage)

    def step(self, now: float) -> list[Told]:
        """Compute one step. Returns what happened, in order."""
        step = self.sequencer.schedule(now)
        told = [event for outcome in step.finished for event in self._end(outcome)]
        if not step:
            return told
        try:
            sampled = self._chain.compute(step.plan, [self._answers[row.id].row() for row in step.rows])
        except Exception as error:  # whatever it is, the requests of this step must end
            logger.exception("step %d failed", step.plan.step)
            return told + self._failed(step, f"the model failed: {type(error).__name__}")
        return told + self._accept_all(step, sampled)

    def _failed(self, step: Step, error: str) -> list[Told]:
        told = [event for each in step.sequences for event in self.abort(each.id, FinishReason.ERROR, error)]
        self.sequencer.fail(step)
        return told

    def _accept_all(self, step: Step, sampled: Sampled) -> list[Told]:
        failed = frozenset(sampled.failed)
        told: list[Told] = []
        accepted = []
        for index, row in enumerate(step.rows):
            if index in failed or not self._accept(row, sampled.ids[index], sampled.logprobs[index]):
                accepted.append(Accepted((), FinishReason.ERROR))
                continue
            answer = self._answers[row.id]
            if (event := answer.take()) is not None:
                told.append((row.id, event))
            accepted.append(Accepted((sampled.ids[index],), answer.finish))
        for outcome in self.sequencer.update(step, accepted):
            told += self._end(outcome, NO_CHOICE)
        return told

    def _accept(self, row: Row, token: int, logprob: TokenLogprob | None) -> bool:
        """Whether the answer takes the token: a grammar that has become too complex may not."""
        try:
            self._answers[row.id].accept(token, logprob)
        except ValueError:
            logger.warning("request %s: its form can't be followed any further", row.id, exc_info=True)
            return False
        return True

    def _end(self, outcome: Outcome | None, error: str = "") -> list[Told]:
        if outcome is None:
            return []
        answer = self._answers.pop(outcome.id)
        failure = error if outcome.reason is FinishReason.ERROR else None
        return [(outcome.id, answer.end(outcome.reason, cached_tokens=outcome.cached_tokens, error=failure))]
