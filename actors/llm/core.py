"""The engine without its thread: sequencer, chain of stages and text of one model, a few steps at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from .answer import NO_CHOICE, Answer
from .chain import Chain, ChainBroken, NotMended
from .plan import GivenUp
from .request import FinishReason, TokenLogprob
from .sampling import Sampled
from .sequence import Outcome, Phase
from .sequencer import Sequencer
from .step import Accepted, Demand, Row, Step
from .threaded import Counts, Told

logger = logging.getLogger(__name__)


class EngineCore:
    """Adds requests, computes steps, tells events. Not thread-safe; no clock (`now` is an argument), no I/O.

    Whatever goes wrong, every request that `add` accepted gets exactly one `Finished`, and nothing after it.

    As many steps are under way as the chain asks for, and share the work evenly: prompts set out at once, sequences
    that decode when so many are ready as a step is worth. When the chain breaks, all steps are lost, and none of the
    tokens that were chosen: they are computed again when the chain is mended.
    """

    def __init__(self, sequencer: Sequencer, chain: Chain) -> None:
        self.sequencer = sequencer
        self._chain = chain
        self._answers: dict[str, Answer] = {}
        self._flying: deque[tuple[Step, Future[Sampled]]] = deque()
        self._mending: Future[None] | None = None
        self._dry = False
        """Nothing could be planned, and nothing has changed since."""
        self._full = False
        """Who waits found no room, and nobody has made any since."""
        self._news: Callable[[], None] = _nothing
        self._pressing: Callable[[], bool] = _never

    @property
    def has_work(self) -> bool:
        """A call of `step` would do something now."""
        if self._mending is not None:
            return self._mending.done()
        return self._may_launch() or bool(self._flying and self._flying[0][1].done())

    @property
    def lives(self) -> bool:
        """Requests live: some time a call of `step` will do something."""
        return self.sequencer.has_work

    def listen(self, news: Callable[[], None], pressing: Callable[[], bool] = lambda: False) -> None:
        """`news` is called, from any thread, when there may be work that no call here has made. `pressing`: whether
        somebody who is not in the background is to be added; a step for the background alone is given up then."""
        self._news, self._pressing = news, pressing

    def add(self, answer: Answer, now: float) -> list[Told]:
        """Accept the request of a fresh answer. Raises RequestRefused. Returns its end if it is complete already."""
        request = answer.request
        self.sequencer.add(request, now)
        line = self.sequencer.waiting
        self._dry, self._full = False, self._full and not (len(line) and line[0].id == request.id)
        self._answers[request.id] = answer
        if answer.finish is None:
            return []
        return self._end(self.sequencer.abort(request.id, answer.finish))

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORTED, error: str = "") -> list[Told]:
        """End a request now; its pages are free when no step is under way with it. Nothing happens if it has ended."""
        return self._end(self.sequencer.abort(request_id, reason), error)

    def abort_all(self, reason: FinishReason, error: str) -> list[Told]:
        """End whatever lives."""
        return [told for request_id in list(self._answers) for told in self.abort(request_id, reason, error)]

    def counts(self) -> Counts:
        """What it is doing now."""
        stats = self.sequencer.stats()
        return Counts(stats.running, stats.waiting, stats.kv_usage)

    def step(self, now: float) -> list[Told]:
        """Send steps on their way, and take what has come of earlier ones. Returns what happened, in order.

        Waits for nothing but a chain that computes when it is asked.
        """
        told = [event for outcome in self.sequencer.expire(now) for event in self._end(outcome)]
        if self._mending is not None and not self._mending.done():
            return told
        told += self._mended()
        while self._may_launch():
            told += self._launch(now)
        return told + self._land()

    # ---- steps under way

    def _may_launch(self) -> bool:
        if self._dry or not self.sequencer.has_work:
            return False
        if not self._flying:
            return True
        if len(self._flying) >= self._chain.depth:
            return False
        demand = self.sequencer.demand(waiting=not self._full)
        return demand.prompts > 0 or demand.decoding_ready >= self._part(demand.decoding)

    def _part(self, decoding: int) -> int:
        """Of the sequences that decode, what one step is worth: 8 in 3 are at least 2."""
        return max(1, decoding // self._chain.parts(decoding)) if decoding else 1

    def _share(self, demand: Demand) -> int:
        """Sequences of the next step, at most: 8 that decode in 3 steps are 3, 3 and 2."""
        if not demand.prompts:
            return max(1, -(-demand.decoding // self._chain.parts(demand.decoding))) if demand.decoding else 1
        left = max(1, self._chain.parts(demand.tokens) - len(self._flying))
        return max(1, -(-demand.ready // left))

    def _launch(self, now: float) -> list[Told]:
        waiting = len(self.sequencer.waiting)
        most = self._share(self.sequencer.demand(waiting=not self._full))
        step = self.sequencer.schedule(now, most)
        nobody = 0 < waiting <= len(self.sequencer.waiting)
        self._full = nobody and (self._full or len(step.sequences) < most)
        told = [event for outcome in step.finished for event in self._end(outcome)]
        if not step:
            self._dry = True
            return told
        answer = self._submitted(step)
        self._flying.append((step, answer))
        if not answer.done():
            answer.add_done_callback(lambda _: self._news())
        return told

    def _submitted(self, step: Step) -> Future[Sampled]:
        rows = [self._answers[row.id].row() for row in step.rows]
        background = all(sequence.background for sequence in step.sequences)
        return self._chain.submit(step.plan, rows, self._pressing if background and not step.plan.copies else None)

    def _land(self) -> list[Told]:
        told: list[Told] = []
        while self._flying and self._flying[0][1].done():
            step, answer = self._flying.popleft()
            self._dry = False
            self._full = self._full and not any(sequence.background for sequence in step.sequences)
            try:
                sampled = answer.result()
            except GivenUp:
                self.sequencer.withdraw(step)
            except ChainBroken as broken:
                self._break(str(broken))
            except Exception as error:  # whatever it is, the requests of this step must end
                logger.exception("step %d failed", step.plan.step)
                told += self._failed(step, f"the model failed: {type(error).__name__}")
            else:
                told += self._accept_all(step, sampled)
        return told

    def _failed(self, step: Step, error: str) -> list[Told]:
        living = [each.id for each in step.sequences if each.phase is not Phase.FINISHED]  # an id may be another's now
        told = [event for request_id in living for event in self.abort(request_id, FinishReason.ERROR, error)]
        self.sequencer.fail(step)
        return told

    # ---- a chain that breaks

    def _break(self, why: str) -> None:
        """The pages are lost, and what was to be computed with them."""
        logger.warning("the chain broke, %d steps are lost: %s", len(self._flying) + 1, why)
        self._flying.clear()
        self._full = False
        self.sequencer.reset()
        self._mending = self._chain.mend(why)
        self._mending.add_done_callback(lambda _: self._news())

    def _mended(self) -> list[Told]:
        mending, self._mending = self._mending, None
        if mending is None or (error := mending.exception()) is None:
            return []
        foreseen = isinstance(error, NotMended)
        why = str(error) if foreseen else type(error).__name__
        logger.error("the chain could not be mended: %s", why, exc_info=None if foreseen else error)
        return self.abort_all(FinishReason.ERROR, f"the model's chain broke: {why}")

    # ---- what a step gave

    def _accept_all(self, step: Step, sampled: Sampled) -> list[Told]:
        failed = frozenset(sampled.failed)
        told: list[Told] = []
        accepted = []
        for index, row in enumerate(step.rows):
            if not self.sequencer.wants(step, row):  # it was aborted meanwhile, or is computed again
                accepted.append(Accepted((), FinishReason.ABORTED))
                continue
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
        self._dry = self._full = False
        answer = self._answers.pop(outcome.id)
        failure = error if outcome.reason is FinishReason.ERROR else None
        return [(outcome.id, answer.end(outcome.reason, cached_tokens=outcome.cached_tokens, error=failure))]


def _nothing() -> None:
    """Nobody listens."""


def _never() -> bool:
    """Nobody comes."""
    return False
